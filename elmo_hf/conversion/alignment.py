"""Cross-lingual alignment: one matrix for a layer, which turns its vectors into another language's.

Schuster et al. 2019 publish them for seven languages as `es_best_mapping.pth` and the like, a NumPy
matrix written by torch.save. A converted folder keeps them in `alignment.safetensors`, one tensor
`layer.K` `(hidden_size, hidden_size)` for each aligned layer K.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from .tables import WeightsError
from .torch_files import is_torch_file, load_torch

FILE = "alignment.safetensors"
PUBLISHED_LAYER = 1  # `best_mapping` aligns the first LSTM layer
MAX_BYTES = 1 << 26  # a matrix of 1024 x 1024 takes 4 MiB, a model takes more


def _allowed() -> list[Any]:
    """What rebuilds a NumPy array of floats, under the names that NumPy 1 and 2 give it."""
    rebuild = np.zeros(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    types = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8")]
    return [*((rebuild, name) for name in names), np.ndarray, np.dtype, *types]


def is_alignment(path: Path) -> bool:
    """Whether a file holds one square matrix, by its content."""
    if path.stat().st_size > MAX_BYTES or not is_torch_file(path):
        return False
    try:
        read_alignment(path)
    except WeightsError:
        return False
    return True


def read_alignment(path: Path) -> torch.Tensor:
    """
    Read an alignment matrix `(hidden_size, hidden_size)`.

    Raises:
        WeightsError: the file is damaged, holds code, or is no square matrix of finite floats.
    """
    matrix = load_torch(path, _allowed())
    if isinstance(matrix, np.ndarray) and matrix.dtype.kind == "f":
        matrix = torch.from_numpy(matrix.copy())
    if not isinstance(matrix, torch.Tensor) or not matrix.is_floating_point():
        raise WeightsError(
            f"{path.name} holds a {type(matrix).__name__}; expected one matrix of an alignment"
        )
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise WeightsError(f"{path.name} has shape {tuple(matrix.shape)}; expected a square matrix")
    if not matrix.isfinite().all():
        raise WeightsError(f"{path.name} holds numbers that are not finite")
    return matrix.detach().clone()


def find_alignments(files: Iterable[Path]) -> dict[int, Path]:
    """
    The layer of each alignment, by its file's name: `.._best_mapping.pth` is of 1, `.._0.pth` of 0.

    Args:
        files: those of which `is_alignment` is true.

    Raises:
        WeightsError: two are of one layer, or a matrix's layer is not in its name.
    """
    found: dict[int, Path] = {}
    for path in files:
        number = re.search(r"_(\d)\.\w+$", path.name)
        if number is None and "best_mapping" not in path.name:
            raise WeightsError(
                f"{path.name} is an alignment matrix whose name does not say of which layer; take "
                f"it out of the folder and give it as --alignment LAYER={path.name}"
            )
        layer = int(number[1]) if number else PUBLISHED_LAYER
        if layer in found:
            raise WeightsError(
                f"{found[layer].name} and {path.name} are both alignments of layer {layer}; take "
                "them out of the folder and give one as --alignment LAYER=FILE"
            )
        found[layer] = path
    return found


def save_alignments(folder: Path, files: Mapping[int, Path], layers: int, width: int) -> list[str]:
    """
    Store alignments in a folder; return notes.

    Args:
        files: by layer.
        layers, width: how many layers the model has, layer 0 included, and their width.

    Raises:
        WeightsError: the model has no such layer, or it is of another width.
    """
    matrices = {}
    for layer, path in sorted(files.items()):
        matrix = read_alignment(path)
        if not 0 <= layer < layers:
            raise WeightsError(f"{path.name} is said to be of layer {layer}; there are {layers}")
        if len(matrix) != width:
            raise WeightsError(
                f"{path.name} aligns vectors of width {len(matrix)}, but the model's are of {width}"
            )
        matrices[f"layer.{layer}"] = matrix
    if matrices:
        safetensors.torch.save_file(matrices, folder / FILE)
    return [f"{path.name} is kept as the alignment of layer {k}" for k, path in files.items()]


def load_alignment(folder: Path) -> dict[int, torch.Tensor]:
    """The alignment matrices that a converted folder keeps, by layer; WeightsError without any."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise WeightsError(
            f"{folder} keeps no {FILE}; convert with --alignment LAYER=FILE, or with the "
            "best_mapping.pth beside the weights"
        )
    stored = safetensors.torch.load_file(path)
    return {int(name.removeprefix("layer.")): matrix for name, matrix in stored.items()}


def align(
    hidden_states: Sequence[torch.Tensor], alignment: Mapping[int, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """
    Turn vectors into those of the language aligned to: `layer @ matrix.T` (Schuster et al. 2019).

    Args:
        hidden_states: all layers `(..., hidden_size)`, as `ElmoModel` returns them.
        alignment: matrices by layer, of `load_alignment`.

    Returns:
        All layers; those without a matrix are returned as they are.
    """
    return tuple(
        layer @ alignment[k].to(layer).t() if k in alignment else layer
        for k, layer in enumerate(hidden_states)
    )


__all__ = [
    "align",
    "find_alignments",
    "is_alignment",
    "load_alignment",
    "read_alignment",
    "save_alignments",
]
