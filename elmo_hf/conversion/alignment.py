"""Cross-lingual alignment: a matrix per layer that maps its vectors to those of another language.

Schuster et al. 2019 publish matrices for seven languages in files such as `es_best_mapping.pth`, a
NumPy matrix written by torch.save. `elmo_hf.analysis.learn_alignment` learns others. A model's
folder stores them in `alignment.safetensors`, one tensor `layer.K` `(hidden_size, hidden_size)` for
each aligned layer K.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ..model.configuration_elmo import ElmoConfig
from .tables import WeightsError
from .torch_files import is_torch_file, load_torch

FILE = "alignment.safetensors"
PUBLISHED_LAYER = 1  # `best_mapping` aligns the first LSTM layer
MAX_BYTES = 1 << 26  # a matrix of 1024 x 1024 takes 4 MiB, a model takes more


def _allowed() -> list[Any]:
    """List what unpickling a NumPy array of floats calls, under its names in NumPy 1 and 2."""
    rebuild = np.zeros(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    types = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8")]
    return [*((rebuild, name) for name in names), np.ndarray, np.dtype, *types]


def is_alignment(path: Path) -> bool:
    """Whether a file contains one square matrix."""
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
        WeightsError: the file is damaged, holds code, or is not a square matrix of finite floats.
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
        raise WeightsError(f"{path.name} holds infinite numbers or NaN")
    return matrix.detach().clone()


def find_alignments(files: Iterable[Path]) -> dict[int, Path]:
    """
    Map layers to alignment files: `.._best_mapping.pth` is for layer 1, `.._0.pth` for layer 0.

    Args:
        files: files for which `is_alignment` is true.

    Raises:
        WeightsError: two files are for one layer, or a file name does not show the layer.
    """
    found: dict[int, Path] = {}
    for path in files:
        number = re.search(r"_(\d)\.\w+$", path.name)
        if number is None and "best_mapping" not in path.name:
            raise WeightsError(
                f"{path.name} is an alignment matrix, but its name shows no layer; move it out of "
                f"the folder and pass --alignment LAYER={path.name}"
            )
        layer = int(number[1]) if number else PUBLISHED_LAYER
        if layer in found:
            raise WeightsError(
                f"{found[layer].name} and {path.name} are both alignments of layer {layer}; move "
                "them out of the folder and pass one as --alignment LAYER=FILE"
            )
        found[layer] = path
    return found


def save_alignments(folder: Path, files: Mapping[int, Path], layers: int, width: int) -> list[str]:
    """
    Store alignments in a folder; return notes.

    Args:
        files: the files of the matrices, by layer.
        layers, width: number of the model's layers, layer 0 included, and their width.

    Raises:
        WeightsError: the model has no such layer, or its width differs.
    """
    matrices = {}
    for layer, path in sorted(files.items()):
        matrices[layer] = read_alignment(path)
        _check_fit(path.name, matrices[layer], layer, layers, width)
    if matrices:
        _write(folder, matrices)
    return [f"{path.name} is stored as the alignment of layer {k}" for k, path in files.items()]


def store_alignment(folder: str | os.PathLike[str], alignment: Mapping[int, torch.Tensor]) -> None:
    """
    Store matrices, such as those of `learn_alignment`, in the folder of the model they map.

    Args:
        folder: the folder of a model, with its config.json.
        alignment: matrices by layer.

    Raises:
        WeightsError: there is no matrix, or the model has no such layer, or its width differs.
        OSError: the folder has no config.json, or cannot be written.
    """
    if not alignment:
        raise WeightsError("the alignment has no matrix; expected one per aligned layer")
    config = ElmoConfig.from_pretrained(folder)
    for layer, matrix in alignment.items():
        sizes = config.num_hidden_layers + 1, config.hidden_size
        _check_fit(f"the matrix of layer {layer}", matrix, layer, *sizes)
    _write(Path(folder), alignment)


def _check_fit(name: str, matrix: torch.Tensor, layer: int, layers: int, width: int) -> None:
    if not 0 <= layer < layers:
        raise WeightsError(f"{name} is for layer {layer}; the model has {layers} layers")
    if matrix.shape != (width, width):
        raise WeightsError(
            f"{name} aligns vectors of width {len(matrix)}; the model's width is {width}"
        )


def _write(folder: Path, matrices: Mapping[int, torch.Tensor]) -> None:
    tensors = {f"layer.{k}": matrix.contiguous() for k, matrix in sorted(matrices.items())}
    part = folder / f"{FILE}.part"
    try:
        safetensors.torch.save_file(tensors, part)
        part.replace(folder / FILE)
    finally:
        part.unlink(missing_ok=True)


def load_alignment(folder: Path) -> dict[int, torch.Tensor]:
    """Load the alignment matrices of a converted folder, by layer; WeightsError without any."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise WeightsError(
            f"{folder} has no {FILE}; convert with --alignment LAYER=FILE, or put the "
            "best_mapping.pth into the folder of the original weights, or learn one: "
            "elmo_hf.analysis.learn_alignment, store_alignment"
        )
    stored = safetensors.torch.load_file(path)
    return {int(name.removeprefix("layer.")): matrix for name, matrix in stored.items()}


def align(
    hidden_states: Sequence[torch.Tensor], alignment: Mapping[int, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """
    Map vectors to those of the other language: `layer @ matrix.T` (Schuster et al. 2019).

    Args:
        hidden_states: all layers `(..., hidden_size)`, as `ElmoModel` returns them.
        alignment: matrices by layer, from `load_alignment`.

    Returns:
        All layers; layers without a matrix are unchanged.
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
    "store_alignment",
]
