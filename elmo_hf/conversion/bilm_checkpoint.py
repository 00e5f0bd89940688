"""bilm-tf's training checkpoints: which variable is which dataset of the HDF5 format.

The one table of weights is that of the HDF5 format, `bilm_arrays.name_table`, which bilm-tf's
`dump_weights` fills from such a checkpoint by renaming. Here the same names are given to the
variables themselves, and the softmax, which that dump leaves out, comes along.
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
WORD_SPLITTER = "billion-words"  # the text that bilm-tf was published with
SCOPE = "lm/"
# Parts of names in a checkpoint and in the HDF5 format, in the order in which they are replaced;
# replacing back in reverse order gives the checkpoint's name again.
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
    """The checkpoint, the latest where a state file names it; `Format.recognise`."""
    index = find_index(files)
    if index is None:
        return None
    return Original(index, files.find_options(needed=True), files.find_vocab())


def open_original(original: Original) -> OpenModel:
    """Read the checkpoint and its options.json; `Format.open_original`."""
    arrays, notes, data_files = read_checkpoint(original.weights)
    model = open_arrays(original, lambda: nullcontext(arrays), WORD_SPLITTER)
    model.notes, model.data_files = notes + model.notes, data_files
    return model


def find_index(files: Files) -> Path | None:
    """The index of the only checkpoint, or of the one that the state file beside them names."""
    indices = files.of_kind(INDEX)
    latest = [path for path in indices if path.stem == _named_beside(path)]
    return files.one("weights", latest or indices) if indices else None


def read_checkpoint(index: Path) -> tuple[dict[str, np.ndarray], list[str], list[Path]]:
    """
    Give a checkpoint's weights under the names of the HDF5 format, mapped into memory.

    Args:
        index: the file PREFIX.index.

    Returns:
        The arrays by name, notes, and the files that the arrays are in.

    Raises:
        WeightsError: the checkpoint is damaged, incomplete, or holds no language model.
    """
    bundle = Bundle(index)
    names = [name for name in bundle.variables if _is_weight(name, bundle)]
    if not names:
        raise WeightsError(
            f"{index.name} holds no variables of a language model trained by bilm-tf, whose names "
            f"begin with {SCOPE}; it holds {abbreviated(bundle.variables)}"
        )
    arrays = {hdf5_name(name): bundle.read(name) for name in names}
    notes = []
    if left_out := len(bundle.variables) - len(names):
        notes.append(f"{left_out} variables of training (optimizer, counters) are left out")
    if "softmax/b" in arrays and "softmax/W" not in arrays and "embedding" in arrays:
        arrays["softmax/W"] = arrays["embedding"]
        notes.append("the softmax shares the table of words: it becomes a table of its own")
    return arrays, notes, bundle.shards()


def hdf5_name(name: str) -> str:
    """The name of a variable in the HDF5 format: lm/RNN_0/rnn/.../kernel is RNN_0/RNN/.../W_0."""
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
    # It is often the full path on the machine that trained.
    return re.split(r"[/\\]", line[1])[-1] if line else None


def _is_weight(name: str, bundle: Bundle) -> bool:
    """Whether a variable is the model's, and no counter or optimizer's slot of another variable."""
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
