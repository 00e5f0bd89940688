# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Write a folder or a file under its final name only when it is complete."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .tables import WeightsError

METADATA_BYTES = 1 << 20  # more than the names and shapes of any model take


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """
    Make a folder to fill, which takes the name `output` when the block ends without an error.

    A symbolic link is followed: what it points to is written.

    Raises:
        WeightsError: the name belongs to something that is not an empty folder, or the system
            refuses to write there.
    """
    with _complete_or_absent(output) as (target, scratch):
        scratch.mkdir()
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(target)


@contextmanager
def new_file(output: Path) -> Iterator[Path]:
    """
    Name a file to write, which takes the name `output` when the block ends without an error.

    Raises:
        WeightsError: the name exists already, or the system refuses to write there.
    """
    with _complete_or_absent(output) as (target, scratch):
        if target.exists():
            raise WeightsError(_exists(output))
        yield scratch
        scratch.replace(target)


@contextmanager
def _complete_or_absent(output: Path) -> Iterator[tuple[Path, Path]]:
    """Give the output's real path and a path beside it for the unfinished work; remove the latter.

    The place is tried with a file first, so that a long conversion does not fail at its end.
    """
    try:
        target = Path(os.path.realpath(output))
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise WeightsError(_exists(output))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
            yield target, Path(place, target.name)
    except Exception as error:
        # safetensors has an error of its own, tokenizers raises plain exceptions.
        if isinstance(error, (OSError, SafetensorError)) or type(error) is Exception:
            raise WeightsError(
                f"{output} was not written: {error}; name an output where you may write and that "
                "has enough room"
            ) from error
        raise


def reserve(folder: Path, tensors: Iterable[torch.Tensor]) -> None:
    """Raise OSError unless a file of these tensors has room in a folder.

    When a write fails, h5py crashes the process later and torch.save hides the reason.
    """
    size = METADATA_BYTES + sum(tensor.nbytes for tensor in tensors)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _exists(output: Path) -> str:
    return f"{output} exists already; name a new one, or remove it first"


__all__ = ["new_file", "new_folder", "reserve", "write_json"]
