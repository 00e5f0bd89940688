# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Writes a folder or a file that gets its final name only when it is complete."""

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .tables import WeightsError

LOCK = "lock"  # a file in each temporary folder, locked while its process runs
METADATA_BYTES = 1 << 20  # enough for the names and shapes of any model


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """
    Make a folder to fill; it is renamed to `output` when the block ends without an error.

    If `output` is a symbolic link, its target is written.

    Raises:
        WeightsError: `output` exists and is not an empty folder, or cannot be written.
    """
    with _complete_or_absent(output) as (target, scratch):
        scratch.mkdir()
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(target)


@contextmanager
def new_file(output: Path) -> Iterator[Path]:
    """
    Yield the path of a file to write; it is renamed to `output` when the block ends without error.

    Raises:
        WeightsError: `output` exists, or cannot be written.
    """
    with _complete_or_absent(output) as (target, scratch):
        if target.exists():
            raise _exists(output)
        yield scratch
        scratch.replace(target)


@contextmanager
def _complete_or_absent(output: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the real path of the output, and a temporary path in the same folder.

    The temporary folder is made first, so that a long conversion does not fail at its end.
    """
    try:
        check_absent(output)
        target = Path(os.path.realpath(output))
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.elmo_hf-"
        _remove_leftovers(target.parent, prefix)
        with (
            tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as place,
            _locked(Path(place, LOCK)),
        ):
            yield target, Path(place, target.name)
    except Exception as error:
        # For failed writes safetensors raises its own error, and tokenizers a plain Exception.
        if isinstance(error, (OSError, SafetensorError)) or type(error) is Exception:
            raise WeightsError(
                f"{output} was not written: {error}; choose an output that you may write and that "
                "has enough room"
            ) from error
        raise


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the temporary folders of killed processes, whose locks are free."""
    for lock in folder.glob(f"{glob.escape(prefix)}*/{LOCK}"):
        with suppress(Timeout, NotImplementedError, OSError):
            FileLock(lock, timeout=0).acquire().lock.release()
            shutil.rmtree(lock.parent)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = FileLock(file, timeout=0)
    with suppress(NotImplementedError, OSError):  # a file system without locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def reserve(folder: Path, tensors: Iterable[torch.Tensor]) -> None:
    """Raise OSError unless the disk has room for a file of these tensors.

    After a failed write h5py crashes the process, and torch.save hides the reason.
    """
    size = METADATA_BYTES + sum(tensor.nbytes for tensor in tensors)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON in UTF-8; on failure an old file stays."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; on failure an old file stays."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def check_absent(output: Path) -> None:
    """Raise WeightsError unless `output` does not exist or is an empty folder."""
    target = os.path.realpath(output)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise _exists(output)


def _exists(output: Path) -> WeightsError:
    return WeightsError(f"{output} exists already; choose a new name, or remove it first")


__all__ = ["check_absent", "new_file", "new_folder", "reserve", "write_json", "write_text"]
