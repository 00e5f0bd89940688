"""Converts ELMo modules of TensorFlow Hub: saved_model.pb, and a checkpoint in variables/.

The names of the variables are those of bilm-tf in another scope. The checkpoint also holds the
module's learned scalar mix. There is no options.json: the sizes are inferred from the variables.
"""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from .bilm_arrays import open_arrays
from .bilm_checkpoint import find_index
from .bilm_options import ASSUMED, count_parts, released_options
from .originals import OpenModel, Original
from .sources import Files
from .tables import WeightsError, abbreviated
from .tf_bundle import Bundle

FORMAT = "TensorFlow Hub module"
WORD_SPLITTER = "billion-words"  # as in the training text of the English modules
SCOPE = re.compile(r"(?:module/)?bilm/(.+)")
MIX = re.compile(r"(?:module/)?aggregation/(weights|scaling)")
CELL = re.compile(
    r"RNN_(?P<direction>[01])/(?:.*?[Cc]ell_?(?P<layer>\d+)/)?(?:.*/)?(?:lstm_cell|LSTMCell)/"
    r"(?P<leaf>projection/kernel|kernel|bias|W_P_0|W_0|B)"
)
LEAVES = {"kernel": "W_0", "bias": "B", "projection/kernel": "W_P_0"}


def recognise(files: Files) -> Original | None:
    """Find the checkpoint, if its names are those of a module; see `Format.recognise`."""
    index = find_index(files)
    if index is None or not any(map(SCOPE.match, Bundle(index).variables)):
        return None
    return Original(index, files.find_options(needed=False), files.find_vocab())


def open_original(original: Original) -> OpenModel:
    """Read the module; see `Format.open_original`."""
    arrays, notes, data_files, mixes = read_module(original.weights)
    inferred = None if original.options else infer_options(arrays)
    assumed = [] if original.options else [ASSUMED]
    model = open_arrays(original, lambda: nullcontext(arrays), inferred)
    model.notes, model.data_files = notes + assumed + model.notes, data_files
    model.extra["scalar_mixes"] = mixes
    return model


def read_module(
    index: Path,
) -> tuple[dict[str, np.ndarray], list[str], list[Path], list[dict[str, Any]]]:
    """
    Map a module's weights into memory, under the names of the HDF5 format.

    Args:
        index: the file variables/variables.index.

    Returns:
        The arrays by name, notes, the files that hold them, and the module's scalar mix: `weights`,
        before the softmax, and `gamma`.

    Raises:
        WeightsError: the file is damaged or holds no biLM.
    """
    bundle = Bundle(index)
    weights = {name: m[1] for name in bundle.variables if (m := SCOPE.fullmatch(name))}
    layers = {m["layer"] for name in weights.values() if (m := CELL.fullmatch(name))}
    arrays = {hdf5_name(ours, len(layers)): bundle.read(name) for name, ours in weights.items()}
    table = arrays.get("char_embed")
    notes = []
    if table is not None and len(table) == 262 and not table[0].any():
        arrays["char_embed"] = table[1:]
        notes.append("row 0 of char_embed, padding, is left out: the HDF5 format has none")
    mix = {m[1]: bundle.read(name) for name in bundle.variables if (m := MIX.fullmatch(name))}
    mixes = []
    if mix.keys() == {"weights", "scaling"} and mix["scaling"].size == 1:
        gamma = float(mix["scaling"].reshape(()))
        mixes.append({"weights": [float(w) for w in mix["weights"].ravel()], "gamma": gamma})
    return arrays, notes, bundle.shards(), mixes


def hdf5_name(name: str, layers: int) -> str:
    """Return a variable's name in the HDF5 format; it depends on the number of layers."""
    cell = CELL.fullmatch(name)
    if cell is None:
        return name
    leaf = LEAVES.get(cell["leaf"], cell["leaf"])
    middle = f"MultiRNNCell/Cell{cell['layer']}/" if layers > 1 else ""
    return f"RNN_{cell['direction']}/RNN/{middle}LSTMCell/{leaf}"


def infer_options(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """
    Infer the content of options.json from shapes, the rest from the released models.

    Raises:
        WeightsError: an array that every model has is missing.
    """
    layers = count_parts(arrays, r"RNN_0/RNN/MultiRNNCell/Cell(\d+)/LSTMCell/W_0") or 1
    kernel = hdf5_name("RNN_0/cell_0/lstm_cell/kernel", layers)
    if missing := {kernel, "char_embed", "CNN/W_cnn_0"} - arrays.keys():
        raise WeightsError(
            f"the module lacks {sorted(missing)[0]}, so it is not an ELMo; it holds "
            f"{abbreviated(arrays)}"
        )
    convolutions = count_parts(arrays, r"CNN/W_cnn_(\d+)")
    shapes = [np.shape(arrays[f"CNN/W_cnn_{i}"]) for i in range(convolutions)]
    if any(len(shape) != 4 for shape in shapes) or np.ndim(arrays[kernel]) != 2:
        raise WeightsError("the module's filters or kernels do not have the dimensions of an ELMo")
    rows, columns = np.shape(arrays[kernel])
    return released_options(
        cell_dim=columns // 4,
        layers=layers,
        width=rows // 2,
        char_dim=int(np.shape(arrays["char_embed"])[-1]),
        filters=[[shape[1], shape[3]] for shape in shapes],
        highways=count_parts(arrays, r"CNN_high_(\d+)/W_carry"),
    )


__all__ = ["FORMAT", "WORD_SPLITTER", "open_original", "recognise"]
