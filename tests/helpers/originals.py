"""Random models in the original format, for every variant that bilm-tf can write."""

import json
from pathlib import Path

import h5py
import numpy as np

WORDS = ["<S>", "</S>", "<UNK>", "the", "bank", "of", "a", "river", "rose", "."]


def options(**changes) -> dict:
    """The options.json of a tiny character model; `lstm__dim=7` changes a nested value."""
    made = {
        "lstm": {
            "cell_clip": 3,
            "dim": 24,
            "n_layers": 2,
            "proj_clip": 3,
            "projection_dim": 12,
            "use_skip_connections": True,
        },
        "char_cnn": {
            "activation": "relu",
            "embedding": {"dim": 4},
            "filters": [[1, 4], [2, 5], [3, 6]],
            "max_characters_per_token": 50,
            "n_characters": 262,
            "n_highway": 2,
        },
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        section = made
        for part in path:
            section = section[part]
        section[last] = value
    return made


def token_options(**changes) -> dict:
    made = options(**changes)
    del made["char_cnn"]
    return made


VARIANTS = {
    "plain": options(),
    "tanh": options(char_cnn__activation="tanh"),
    "no highway": options(char_cnn__n_highway=0),
    "no character projection": options(lstm__projection_dim=15),
    "no LSTM projection": options(lstm__dim=12),
    "no skip connections": options(lstm__use_skip_connections=False),
    "no clips": options(lstm__cell_clip=None, lstm__proj_clip=None),
    "tight clips": options(lstm__cell_clip=0.3, lstm__proj_clip=0.2),
    "one layer": options(lstm__n_layers=1),
    "three layers": options(lstm__n_layers=3),
    "one direction": options(bidirectional=False),
    "one layer, one direction": options(lstm__n_layers=1, bidirectional=False),
    "short words": options(char_cnn__max_characters_per_token=10),
    "token input": token_options(),
    "token input, one direction": token_options(bidirectional=False),
}


def random_arrays(made_of: dict, seed: int = 0, softmax: bool = False) -> dict[str, np.ndarray]:
    """Arrays whose sizes and names bilm-tf gives to these options; both clips fire now and then."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (scale * draw.standard_normal(shape)).astype(np.float32)

    lstm = made_of["lstm"]
    dim, width, layers = lstm["dim"], lstm["projection_dim"], lstm["n_layers"]
    arrays = {}
    if "char_cnn" in made_of:
        cnn = made_of["char_cnn"]
        filters = sum(count for _, count in cnn["filters"])
        arrays["char_embed"] = normal(261, cnn["embedding"]["dim"], scale=1)
        for i, (kernel, count) in enumerate(cnn["filters"]):
            shape = (1, kernel, cnn["embedding"]["dim"], count)
            arrays[f"CNN/W_cnn_{i}"] = normal(*shape, scale=0.5)
            arrays[f"CNN/b_cnn_{i}"] = normal(count, scale=0.2)
        for k in range(cnn["n_highway"]):
            for part in ("carry", "transform"):
                arrays[f"CNN_high_{k}/W_{part}"] = normal(filters, filters, scale=filters**-0.5)
                arrays[f"CNN_high_{k}/b_{part}"] = normal(filters, scale=0.5)
        if filters != width:
            arrays["CNN_proj/W_proj"] = normal(filters, width, scale=filters**-0.5)
            arrays["CNN_proj/b_proj"] = normal(width, scale=0.1)
    else:
        arrays["embedding"] = normal(len(WORDS), width, scale=1)

    one_way = made_of.get("bidirectional") is False
    leaves = ("kernel", "bias", "projection/kernel") if one_way else ("W_0", "B", "W_P_0")
    for stack in ["rnn"] if one_way else ["RNN_0/RNN", "RNN_1/RNN"]:
        for layer in range(layers):
            cell = f"MultiRNNCell/Cell{layer}/LSTMCell" if layers > 1 else "LSTMCell"
            kernel, bias, projection = (f"{stack}/{cell}/{leaf}" for leaf in leaves)
            arrays[kernel] = normal(2 * width, 4 * dim, scale=width**-0.5)
            arrays[bias] = normal(4 * dim, scale=0.5)
            if dim != width:
                arrays[projection] = normal(dim, width, scale=2 * dim**-0.5)
    if softmax:
        arrays["softmax/W"] = normal(len(WORDS), width, scale=1)
        arrays["softmax/b"] = normal(len(WORDS), scale=1)
    return arrays


def write_original(
    folder: Path, made_of: dict, arrays: dict[str, np.ndarray], vocab: bool = False
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(made_of))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    if vocab:
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder
