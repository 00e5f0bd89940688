# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Imports optional packages; the error for a missing package is one line with the command."""

import importlib
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


class MissingExtraError(ImportError):
    """Error: a package that belongs to an extra of elmo_hf is not installed."""


def require(package: str, extra: str) -> ModuleType:
    """
    Import an optional package.

    Args:
        package: the name to import, for instance "h5py" or "torchao.quantization".
        extra: the extra in pyproject.toml that installs it, for instance "convert".

    Raises:
        MissingExtraError: the package is not installed; the message is one line that ends with
            the command to type.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # The package is installed, but one of its own dependencies is missing: keep that error.
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        name = package.partition(".")[0]
        raise MissingExtraError(
            f"the package {name} is not installed; install it with: {install_command(extra)}",
            name=name,
        ) from None


def install_command(extra: str) -> str:
    """Return the command that installs an extra, for a clone or for an installed wheel."""
    if (ROOT / "pyproject.toml").is_file():
        return f"pip install -e '.[{extra}]'"
    return f"pip install 'elmo-hf[{extra}]'"


__all__ = ["MissingExtraError", "install_command", "require"]
