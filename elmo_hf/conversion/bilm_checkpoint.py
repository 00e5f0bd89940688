"""bilm-tf's training checkpoints: which variable is which dataset of the HDF5 format.

The one table of weights is that of the HDF5 format, `bilm_hdf5.name_table`, which bilm-tf's
`dump_weights` fills from such a checkpoint by renaming. Here the same names are given to the
variables themselves, and the softmax, which that dump leaves out, comes along.
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bilm_hdf5 import WeightsError, abbreviated
from .tf_bundle import Bundle
from .tf_sorted_table import is_table

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
DATA_FILE = re.compile(r".+\.data-\d{5}-of-\d{5}")
STATE_FILE = "checkpoint"  # names the latest of a folder's checkpoints


def open_checkpoint(index: Path) -> tuple[dict[str, np.ndarray], list[str], list[Path]]:
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


def is_checkpoint(path: Path) -> bool:
    """Whether a file is an index, by its content, or was to be one: beside it are its data."""
    return is_table(path) or (
        path.suffix == ".index" and any(path.parent.glob(f"{glob.escape(path.stem)}.data-*-of-*"))
    )


def is_part(name: str) -> bool:
    """Whether a file's name is that of a part of a checkpoint: index, data, or state."""
    return name.endswith(".index") or name == STATE_FILE or bool(DATA_FILE.fullmatch(name))


def latest(indices: Sequence[Path]) -> list[Path]:
    """Of several checkpoints, those that a state file beside them names; all, if there is none."""
    chosen = [path for path in indices if path.stem == _named_beside(path)]
    return chosen if len(indices) > 1 and chosen else list(indices)


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


__all__ = ["hdf5_name", "is_checkpoint", "is_part", "latest", "open_checkpoint"]
