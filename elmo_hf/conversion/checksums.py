# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Checksums of downloads, stored on this machine.

Few publishers of weights state a checksum. So the first download of an address that converts has
its sha256 stored, and every later download of this address must have the same sha256.
"""

import hashlib
import json
from pathlib import Path

from huggingface_hub import constants

from .outputs import write_json


def known_checksum(address: str) -> str | None:
    """Return the sha256 of an address's first download on this machine; None if unknown."""
    try:
        return str(json.loads(checksum_file(address).read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # an unreadable file counts as missing
        return None


def keep_checksum(address: str, sha256: str) -> None:
    """Store the sha256 of a first download; OSError if the folder cannot be written."""
    path = checksum_file(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"address": address, "sha256": sha256})


def checksum_file(address: str) -> Path:
    """Return the file for an address's checksum, in the cache folder of Hugging Face."""
    name = hashlib.sha256(address.encode()).hexdigest()[:32]
    return Path(constants.HF_HOME) / "elmo_hf/downloads" / f"{name}.json"


__all__ = ["checksum_file", "keep_checksum", "known_checksum"]
