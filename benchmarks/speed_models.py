"""Build random models of full size in the original format, and count operations per word."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]
CHARACTERS, CHARACTER_WIDTH, LONGEST_WORD = 261, 16, 50
DIRECTIONS = 2
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Size:
    """Class with the sizes that differ between the published models."""

    cell: int
    projection: int
    highways: int
    layers: int = 2


SIZES = {
    "original": Size(cell=4096, projection=512, highways=2),
    "small": Size(cell=1024, projection=128, highways=1),
    "tiny": Size(cell=48, projection=16, highways=1),
}


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Return `folder/name` with `original` files and the folder `converted` from them."""
    from elmo_hf.conversion.convert import convert

    folder = folder / name
    original, converted = folder / "original", folder / "converted"
    if not (original / "weights.hdf5").exists():
        original.mkdir(parents=True, exist_ok=True)
        (original / "options.json").write_text(json.dumps(options(SIZES[name])))
        write(original / "weights.hdf5", arrays(SIZES[name], seed))
    if not converted.exists():
        convert(original, converted)
    return folder


def write(file: Path, content: Iterator[tuple[str, np.ndarray]]) -> None:
    import h5py

    beside = file.with_suffix(".unfinished")
    with h5py.File(beside, "w") as datasets:
        for name, array in content:
            datasets[name] = array
    os.replace(beside, file)


def options(size: Size) -> dict:
    """Return the options.json of bilm-tf."""
    return {
        "lstm": {
            "cell_clip": 3,
            "dim": size.cell,
            "n_layers": size.layers,
            "proj_clip": 3,
            "projection_dim": size.projection,
            "use_skip_connections": True,
        },
        "char_cnn": {
            "activation": "relu",
            "embedding": {"dim": CHARACTER_WIDTH},
            "filters": FILTERS,
            "max_characters_per_token": LONGEST_WORD,
            "n_characters": 262,
            "n_highway": size.highways,
        },
    }


def arrays(size: Size, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield normal weights, each map scaled by the number of its inputs.

    Gates are roughly N(0, 1). Cell states and some output units sometimes reach their clips. The
    recurrent weights are small, so that rounding errors do not grow from word to word, as in
    trained models; otherwise programs could not be compared.
    """
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float, mean: float = 0.0) -> np.ndarray:
        return draw.standard_normal(shape, dtype=np.float32) * np.float32(scale) + np.float32(mean)

    features = sum(count for _, count in FILTERS)
    yield "char_embed", normal(CHARACTERS, CHARACTER_WIDTH, scale=0.5)
    for i, (width, count) in enumerate(FILTERS):
        shape = (1, width, CHARACTER_WIDTH, count)
        yield f"CNN/W_cnn_{i}", normal(*shape, scale=1.2 / math.sqrt(width * CHARACTER_WIDTH))
        yield f"CNN/b_cnn_{i}", normal(count, scale=0.1, mean=-0.3)
    for k in range(size.highways):
        for part, mean in (("carry", -1.0), ("transform", 0.0)):
            yield (
                f"CNN_high_{k}/W_{part}",
                normal(features, features, scale=0.7 * features**-0.5),
            )
            yield f"CNN_high_{k}/b_{part}", normal(features, scale=0.1, mean=mean)
    yield "CNN_proj/W_proj", normal(features, size.projection, scale=features**-0.5)
    yield "CNN_proj/b_proj", normal(size.projection, scale=0.05)
    for direction in range(DIRECTIONS):
        for layer in range(size.layers):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            inputs = normal(size.projection, 4 * size.cell, scale=2.0 * size.projection**-0.5)
            recurrent = normal(size.projection, 4 * size.cell, scale=0.5 * size.projection**-0.5)
            yield f"{cell}/W_0", np.concatenate([inputs, recurrent])
            yield f"{cell}/B", normal(4 * size.cell, scale=0.1)
            loudness = np.where(np.arange(size.projection) % 16, 2, 5).astype(np.float32)
            output = normal(size.cell, size.projection, scale=size.cell**-0.5) * loudness
            yield f"{cell}/W_P_0", output


# --- Operations per word ----------------------------------------------------------------------


def lstm_flops(size: Size) -> int:
    """Return the floating point operations of one word in all LSTMs, two per weight.

    Input map and recurrent map are (4 cell x projection), the output map (projection x cell).
    """
    weights = (4 + 4 + 1) * size.cell * size.projection
    return 2 * weights * size.layers * DIRECTIONS


def character_flops(size: Size, length: float) -> float:
    """Return the operations of the character encoder for one word of `length` symbols.

    A filter counts at the positions that begin inside the word; later positions are the same for
    all words. Each highway layer has two square maps; the projection follows.
    """
    features = sum(count for _, count in FILTERS)
    convolutions = length * sum(width * CHARACTER_WIDTH * count for width, count in FILTERS)
    highways = size.highways * 2 * features * features
    return 2 * (convolutions + highways + features * size.projection)


def corpus_flops(size: Size, sentences: list[list[str]]) -> float:
    """Return the operations of a corpus; the character encoder counts once per distinct word."""
    steps = sum(len(sentence) + 2 for sentence in sentences)
    words = {word for sentence in sentences for word in sentence}
    lengths = [min(len(word.encode()) + 2, LONGEST_WORD) for word in words]
    return steps * lstm_flops(size) + sum(character_flops(size, length) for length in lengths)


def recurrent_bytes(size: Size, precision: str) -> int:
    """Return the bytes of recurrent and output maps, which each word of one sentence reads."""
    return (4 + 1) * size.cell * size.projection * size.layers * DIRECTIONS * BYTES[precision]


def bert_flops(pieces: int) -> float:
    """Return the operations of BERT-base for a sentence of `pieces` word pieces.

    Twelve layers with four square maps of 768, two maps to and from 3072, and the two products of
    the attention.
    """
    width, inner, layers = 768, 3072, 12
    maps = 4 * width * width + 2 * width * inner
    return 2 * layers * pieces * (maps + 2 * pieces * width)
