# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Writes and reads conversion.json, the record of a conversion, and detects edits."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .outputs import write_json
from .tables import WeightsError
from .verification import Difference

RECORD = "conversion.json"
SEAL = "record_sha256"


def write_record(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """
    Write conversion.json; return its content.

    The last entry is the sha256 of the others. It detects accidental edits only: whoever forges a
    record can forge this, too. On failure the old file stays.
    """
    record = {key: value for key, value in content.items() if key != SEAL}
    record[SEAL] = _digest(record)
    write_json(folder / RECORD, record)
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """
    Read the conversion.json of a folder.

    Raises:
        WeightsError: it is missing or was edited, or it does not show a passed verification.
    """
    path = folder / RECORD
    if not path.is_file():
        raise WeightsError(
            f"{folder} has no {RECORD}, so it was not converted from original weights. For a model "
            "that you trained: model.push_to_hub(REPO_ID) and tokenizer.push_to_hub(REPO_ID). For "
            f"original weights: elmo-hf convert ORIGINAL {folder}-converted"
        )
    again = "convert the original again with elmo-hf convert"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = [Difference(**entry) for entry in record["verification"]["differences"]]
        failed = [str(difference) for difference in found if not difference.passed]
        complete = bool(found) and "model.safetensors" in dict(record["files"])
        seal = record.pop(SEAL, None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} does not record a verified conversion; {again}") from error
    if failed or not complete:
        problem = "; ".join(failed) or "nothing was verified"
        raise WeightsError(f"{path} says that the verification failed: {problem}; {again}")
    if seal != _digest(record):
        raise WeightsError(f"{path} was edited after the conversion; {again}")
    return {**record, SEAL: seal}


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = ["RECORD", "read_record", "write_record"]
