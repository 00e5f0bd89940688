# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Checksums of downloads, kept on this machine.

Few publishers of weights name a checksum. So the sha256 of a file is kept when it is first
downloaded and converted, and every later download of the same address must equal it.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from huggingface_hub import constants


def known_checksum(address: str) -> str | None:
    """The sha256 of an address's first download on this machine; None if there was none."""
    try:
        return str(json.loads(checksum_file(address).read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # unreadable: as if it were not there
        return None


def keep_checksum(address: str, sha256: str) -> None:
    """Keep a first download's sha256; OSError where the folder cannot be written."""
    path = checksum_file(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".new", delete=False
    ) as file:
        json.dump({"address": address, "sha256": sha256}, file)
    os.replace(file.name, path)


def checksum_file(address: str) -> Path:
    """Where an address's checksum is kept: a file each, in the cache folder of Hugging Face."""
    name = hashlib.sha256(address.encode()).hexdigest()[:32]
    return Path(constants.HF_HOME) / "elmo_hf/downloads" / f"{name}.json"


__all__ = ["checksum_file", "keep_checksum", "known_checksum"]
