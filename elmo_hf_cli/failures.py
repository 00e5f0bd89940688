# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Errors of the commands: those that a user can fix are printed as one line on stderr."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CommandError(Exception):
    """Error: a command failed; `status` is its exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(one_line(message))
        self.status = status


@contextmanager
def one_line_errors(*kinds: type[BaseException]) -> Iterator[None]:
    """Turn errors of these kinds, missing extras and file errors into a CommandError."""
    from elmo_hf.extras import MissingExtraError

    expected: tuple[type[BaseException], ...] = (MissingExtraError, *kinds)
    try:
        yield
    except BrokenPipeError:
        raise
    except expected as error:
        raise CommandError(str(error) or type(error).__name__) from error
    except OSError as error:
        message = str(error)
        if error.strerror and error.filename:
            message = f"{error.filename}: {error.strerror}"
        raise CommandError(message) from error


def check_exists(*paths: Path | None) -> None:
    """Raise CommandError unless all these paths, None excepted, exist."""
    for path in paths:
        if path is not None and not path.exists():
            raise CommandError(f"{path} does not exist{_nearest(path)}")


def check_model(name: Path) -> None:
    """
    Raise CommandError unless `name` is a folder, or NAMESPACE/NAME of a Hub repository.

    Without this check, `from_pretrained` would search the Hub for a misspelled folder.
    """
    if name.is_dir():
        return
    if name.exists():
        raise CommandError(f"{name} is a file; pass the folder that holds the model")
    repository = re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not name.parent.is_dir()
    if not repository or str(name).startswith("."):
        raise CommandError(f"there is no folder {name}{_nearest(name)}")


def one_line(message: str) -> str:
    """Return a message without line breaks."""
    return " ".join(message.split())


def _nearest(path: Path) -> str:
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1, 0.8)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


__all__ = [
    "CommandError",
    "check_exists",
    "check_model",
    "one_line",
    "one_line_errors",
]
