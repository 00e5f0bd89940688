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
ASSUMED = {"activation": "relu", "max_characters_per_token": 50, "clips": 3, "skip connections": 1}


def recognise(files: Files) -> Original | None:
    """Find the checkpoint, if its names are those of a module; see `Format.recognise`."""
    index = find_index(files)
    if index is None or not any(map(SCOPE.match, Bundle(index).variables)):
        return None
    return Original(index, files.find_options(needed=False), files.find_vocab())


def open_original(original: Original) -> OpenModel:
    """Read the module; see `Format.open_original`."""
    arrays, notes, data_files, mixes = read_module(original.weights)
    inferred, more_notes = (None, []) if original.options else infer_options(arrays)
    model = open_arrays(original, lambda: nullcontext(arrays), WORD_SPLITTER, inferred)
    model.notes, model.data_files = notes + more_notes + model.notes, data_files
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


def infer_options(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """
    Infer the content of options.json from shapes; also return a note on what is assumed.

    Raises:
        WeightsError: an array that every model has is missing.
    """

    def count(pattern: str) -> int:
        return len({m[1] for name in arrays if (m := re.fullmatch(pattern, name))})

    layers = count(r"RNN_0/RNN/MultiRNNCell/Cell(\d+)/LSTMCell/W_0") or 1
    kernel = hdf5_name("RNN_0/cell_0/lstm_cell/kernel", layers)
    if missing := {kernel, "char_embed", "CNN/W_cnn_0"} - arrays.keys():
        raise WeightsError(
            f"the module lacks {sorted(missing)[0]}, so it is not an ELMo; it holds "
            f"{abbreviated(arrays)}"
        )
    shapes = [np.shape(arrays.get(f"CNN/W_cnn_{i}", ())) for i in range(count(r"CNN/W_cnn_(\d+)"))]
    if any(len(shape) != 4 for shape in shapes) or np.ndim(arrays[kernel]) != 2:
        raise WeightsError("the module's filters or kernels do not have the dimensions of an ELMo")
    rows, columns = np.shape(arrays[kernel])
    options = {
        "lstm": {
            "cell_clip": 3,
            "dim": columns // 4,
            "n_layers": layers,
            "proj_clip": 3,
            "projection_dim": rows // 2,
            "use_skip_connections": True,
        },
        "char_cnn": {
            "activation": "relu",
            "embedding": {"dim": int(np.shape(arrays["char_embed"])[-1])},
            "filters": [[shape[1], shape[3]] for shape in shapes],
            "max_characters_per_token": 50,
            "n_characters": 262,
            "n_highway": count(r"CNN_high_(\d+)/W_carry"),
        },
    }
    assumed = ", ".join(f"{name} {value}" for name, value in ASSUMED.items())
    return options, [
        f"no options.json: sizes are those of the variables, and {assumed} are assumed, as in all "
        "released models; if yours differs, pass --options FILE"
    ]


__all__ = ["FORMAT", "WORD_SPLITTER", "hdf5_name", "infer_options", "open_original", "recognise"]
