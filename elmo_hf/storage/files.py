# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""New files appear whole or not at all: they are written beside, flushed and renamed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from uuid import uuid4


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """
    Give a `with` block the path to write to; after the block the file is on disk, as `path`.

    If the block fails, nothing is left. A killed process leaves a hidden file, which the next
    successful call for the same path removes.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full; names the file.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield part
        _flush(part)
        os.replace(part, path)
        _flush(path.parent)
        for stale in path.parent.glob(f".{escape(path.name)}.*.tmp"):
            if re.fullmatch(r"[0-9a-f]{32}", stale.name[len(path.name) + 2 : -4]):
                stale.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["new_file"]
