"""Converts bilm-tf's training checkpoints, by renaming their variables to the HDF5 format's names.

bilm-tf's `dump_weights` renames the variables in the same way, but leaves the softmax out. The
table of weights is that of the HDF5 format, `bilm_arrays.name_table`.
"""

import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from .bilm_arrays import open_arrays
from .originals import OpenModel, Original
from .sources import INDEX, STATE_FILE, Files
from .tables import WeightsError, abbreviated
from .tf_bundle import Bundle

FORMAT = "bilm-tf TensorFlow checkpoint"
WORD_SPLITTER = "billion-words"  # as in the training text of the published bilm-tf model
SCOPE = "lm/"
# Parts of names in a checkpoint and in the HDF5 format, in the order of replacement. Replacing them
# back in reverse order restores the name in the checkpoint.
RENAMED = [
    ("/rnn/", "/RNN/"),
    ("/multi_rnn_cell/", "/MultiRNNCell/"),
    ("/cell_", "/Cell"),
    ("/lstm_cell/", "/LSTMCell/"),
    ("/projection/kernel", "/W_P_0"),
    ("/kernel", "/W_0"),
    ("/bias", "/B"),
]


def recognise(files: Files) -> Original | None:
    """Find the checkpoint, the latest if a state file names it; see `Format.recognise`."""
    index = find_index(files)
    if index is None:
        return None
    return Original(index, files.find_options(needed=True), files.find_vocab())


def open_original(original: Original) -> OpenModel:
    """Read the checkpoint and its options.json; see `Format.open_original`."""
    arrays, notes, data_files = read_checkpoint(original.weights)
    model = open_arrays(original, lambda: nullcontext(arrays))
    model.notes, model.data_files = notes + model.notes, data_files
    return model


def find_index(files: Files) -> Path | None:
    """Return the index of the only checkpoint, or of the latest one by the state file."""
    indices = files.of_kind(INDEX)
    latest = [path for path in indices if path.stem == _named_beside(path)]
    return files.one("weights", latest or indices) if indices else None


def read_checkpoint(index: Path) -> tuple[dict[str, np.ndarray], list[str], list[Path]]:
    """
    Map a checkpoint's weights into memory, under the names of the HDF5 format.

    Args:
        index: the file PREFIX.index.

    Returns:
        The arrays by name, notes, and the files that hold the arrays.

    Raises:
        WeightsError: the checkpoint is damaged, incomplete, or holds no language model.
    """
    bundle = Bundle(index)
    names = [name for name in bundle.variables if _is_weight(name, bundle)]
    if not names:
        raise WeightsError(
            f"{index.name} is no language model of bilm-tf, whose variables' names begin with "
            f"{SCOPE}; it holds {abbreviated(bundle.variables)}"
        )
    arrays = {hdf5_name(name): bundle.read(name) for name in names}
    notes = []
    if left_out := len(bundle.variables) - len(names):
        notes.append(f"{left_out} variables of training (optimizer, counters) are left out")
    if "softmax/b" in arrays and "softmax/W" not in arrays and "embedding" in arrays:
        arrays["softmax/W"] = arrays["embedding"]
        notes.append("the softmax shares the word table: it gets its own copy")
    return arrays, notes, bundle.shards()


def hdf5_name(name: str) -> str:
    """Return a variable's name in the HDF5 format: lm/RNN_0/rnn/../kernel is RNN_0/RNN/../W_0."""
    name = name.removeprefix(SCOPE)
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


def _named_beside(index: Path) -> str | None:
    state = index.with_name(STATE_FILE)
    if not state.is_file():
        return None
    with state.open(encoding="utf-8", errors="replace") as file:
        line = re.match(r'model_checkpoint_path:\s*"(.*)"', file.readline(1 << 12))
    # The path is often that of the machine that trained the model.
    return re.split(r"[/\\]", line[1])[-1] if line else None


def _is_weight(name: str, bundle: Bundle) -> bool:
    """Whether a variable is a weight, and not a counter or an optimizer's state of a weight."""
    return name.startswith(SCOPE) and name.rpartition("/")[0] not in bundle.variables


__all__ = [
    "FORMAT",
    "WORD_SPLITTER",
    "find_index",
    "hdf5_name",
    "open_original",
    "read_checkpoint",
    "recognise",
]
