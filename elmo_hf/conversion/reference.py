"""Reimplements the original programs in float64 NumPy, for weights in the original HDF5 format.

Every conversion is verified against this file, so it shares no code with the rest of the project:
it imports only NumPy, reads the original names and shapes, and repeats the equations of bilm-tf and
of TensorFlow's LSTMCell. It is simple, not fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Arrays: TypeAlias = Mapping[str, ArrayLike]
Rows: TypeAlias = Sequence[Sequence[str]]
Vocabulary: TypeAlias = Mapping[str, int]
State: TypeAlias = tuple[np.ndarray, np.ndarray]  # h (P), c (D)
States: TypeAlias = dict[tuple[int, int], State]  # of one row, by direction (0 forward) and layer

BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, NO_CHARACTER = 256, 257, 258, 259, 260
LSTM_SPELLINGS = {"W_0": "kernel", "B": "bias", "W_P_0": "projection/kernel"}
LOGITS_BLOCK = 16384  # rows of the softmax table that are converted to float64 at once


def character_ids(word: str, max_characters: int) -> np.ndarray:
    """Return a word's character ids (max_characters,), plus one, because 0 means "no word".

    `<S>` and `</S>` are one symbol each; any other word, also `<UNK>`, is its UTF-8 bytes (bilm-tf
    UnicodeCharsVocabulary, AllenNLP ELMoCharacterMapper). ValueError below three characters.
    """
    if max_characters < 3:
        raise ValueError(f"max_characters is {max_characters}; pass 3 or more: begin, symbol, end")
    marks = {"<S>": [BEGIN_SENTENCE], "</S>": [END_SENTENCE]}
    symbols = marks.get(word) or list(word.encode("utf-8", "ignore")[: max_characters - 2])
    ids = np.full(max_characters, NO_CHARACTER)
    ids[: len(symbols) + 2] = [BEGIN_WORD, *symbols, END_WORD]
    return ids + 1


def forward(
    options: Mapping[str, Any],
    arrays: Arrays,
    sentences: Rows,
    states: Sequence[States] | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[list[list[np.ndarray]], list[States]]:
    """Call `forward_rows` after adding `<S>` and `</S>` to sentences (bilm-tf Batcher)."""
    rows = [["<S>", *sentence, "</S>"] for sentence in sentences]
    return forward_rows(options, arrays, rows, states, vocabulary)


def forward_rows(
    options: Mapping[str, Any],
    arrays: Arrays,
    rows: Rows,
    states: Sequence[States] | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[list[list[np.ndarray]], list[States]]:
    """Compute all layers of word sequences, here "rows" (bilm-tf BidirectionalLanguageModelGraph).

    Returns `layers[row][layer]` (words, 2P), or (words, P) for weights of one direction, and the
    states after each row. Layer 0 is the word vector, once per direction; then come the LSTM
    layers, forward half first. No boundaries are added. `states`: initial states, one entry per
    row, {} for zeros; None: zeros for all. `vocabulary` (word to row of `embedding`): only for
    models without characters. `arrays` may be an open h5py.File: each array is read once, and one
    LSTM cell is in memory at a time.
    KeyError: an array is missing. ValueError: its shape differs from the options.
    """
    if states is not None and len(states) != len(rows):
        raise ValueError(f"got {len(states)} states for {len(rows)} rows; pass one per row")
    states = [dict(state) for state in states or [{} for _ in rows]]
    n_layers = options["lstm"].get("n_layers", 1)
    skip = options["lstm"].get("use_skip_connections", False)
    stacks = stack_names(arrays, n_layers)

    vectors = word_vectors(options, arrays, rows, vocabulary)
    layers = [[np.concatenate([e] * len(stacks), axis=1)] for e in vectors]
    # The directions never mix. `reading` holds each direction's rows in reading order; the backward
    # direction reads a row from its end, </S> first.
    steps = [1, -1][: len(stacks)]
    reading = [[e[::step] for e in vectors] for step in steps]
    for layer in range(n_layers):
        for direction, stack in enumerate(stacks):
            cell = LSTMCell(options["lstm"], arrays, cell_names(stack, layer, n_layers))
            for row, x in enumerate(reading[direction]):
                y, state = cell.run(x, states[row].get((direction, layer)))
                states[row][direction, layer] = state  # without the residual
                reading[direction][row] = x + y if skip and layer > 0 else y
            del cell
        for row, known in enumerate(layers):
            in_order = [outputs[row][::step] for outputs, step in zip(reading, steps, strict=True)]
            known.append(np.concatenate(in_order, axis=1))
    return layers, states


def by_layer(rows: Sequence[Sequence[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Turn `layers[row][layer]` into a list of rows for each name `layer K`."""
    return {f"layer {k}": list(layer) for k, layer in enumerate(zip(*rows, strict=True))}


def logits(arrays: Arrays, top: np.ndarray) -> list[np.ndarray]:
    """Compute softmax logits [forward, backward], each (words, V), from the top layer of a row.

    Forward logits at t predict word t+1, backward logits word t-1. Both directions share
    `softmax/W`, or `embedding` if the tables are tied (bilm-tf LanguageModel._build_loss).
    """
    table = find(arrays, ["softmax/W", "embedding"])
    n_words, width = np.shape(table)
    bias = read(arrays, "softmax/b", (n_words,))
    halves = np.split(top, top.shape[1] // width, axis=1)
    scores = [np.empty((len(top), n_words)) for _ in halves]
    for start in range(0, n_words, LOGITS_BLOCK):
        block = np.asarray(table[start : start + LOGITS_BLOCK], dtype=np.float64)  # (block, P)
        for score, h in zip(scores, halves, strict=True):
            score[:, start : start + LOGITS_BLOCK] = h @ block.T
    return [score + bias for score in scores]


def word_vectors(
    options: Mapping[str, Any], arrays: Arrays, rows: Rows, vocabulary: Vocabulary | None
) -> list[np.ndarray]:
    """Compute the context-free vectors (words, P) of each row, once per distinct word."""
    words = list(dict.fromkeys(word for row in rows for word in row))
    if "char_cnn" in options:
        vectors = character_cnn(options, arrays, words)
    else:
        vectors = token_vectors(options, arrays, words, vocabulary)
    index = {word: number for number, word in enumerate(words)}
    return [vectors[np.array([index[word] for word in row], dtype=int)] for row in rows]


def token_vectors(
    options: Mapping[str, Any], arrays: Arrays, words: list[str], vocabulary: Vocabulary | None
) -> np.ndarray:
    """Look up vectors (words, P) of words, unknown words as `<UNK>` (bilm-tf Vocabulary)."""
    if vocabulary is None:
        raise ValueError("these options have no char_cnn; pass vocabulary={word: row, ...}")
    table = find(arrays, ["embedding"])
    vectors = np.empty((len(words), options["lstm"]["projection_dim"]))
    for number, word in enumerate(words):  # row by row: the table may be too large for float64
        vectors[number] = table[vocabulary[word if word in vocabulary else "<UNK>"]]
    return vectors


def character_cnn(options: Mapping[str, Any], arrays: Arrays, words: list[str]) -> np.ndarray:
    """Compute vectors (words, P) from characters (bilm-tf _build_word_char_embeddings).

    Convolutions over all characters, padding included, with max-pooling and activation; highways;
    a projection, unless the number of filters equals projection_dim.
    """
    cnn = options["char_cnn"]
    table = read(arrays, "char_embed")
    table = np.concatenate([np.zeros_like(table[:1]), table])  # a row for id 0
    spelled = [table[character_ids(w, cnn["max_characters_per_token"])] for w in words]  # (M, c)

    pooled = []
    for i, (width, count) in enumerate(cnn["filters"]):
        weight = read(arrays, f"CNN/W_cnn_{i}", (1, width, table.shape[1], count))[0]
        bias = read(arrays, f"CNN/b_cnn_{i}", (count,))
        features = np.empty((len(words), count))
        for number, x in enumerate(spelled):
            positions = len(x) - width + 1
            y = sum(x[j : j + positions] @ weight[j] for j in range(width)) + bias
            features[number] = activate(np.max(y, axis=0), cnn["activation"])
        pooled.append(features)
    h = np.concatenate(pooled, axis=1)  # (words, F)

    for k in range(cnn.get("n_highway") or 0):
        h = highway(h, arrays, f"CNN_high_{k}")
    size, projected = h.shape[1], options["lstm"]["projection_dim"]
    if size != projected:
        weight = read(arrays, "CNN_proj/W_proj", (size, projected))
        h = h @ weight + read(arrays, "CNN_proj/b_proj", (projected,))
    return h


def highway(x: np.ndarray, arrays: Arrays, name: str) -> np.ndarray:
    """Apply a highway layer; the gate "carry" multiplies the TRANSFORMED part (bilm-tf `high`)."""

    def linear(part: str) -> np.ndarray:
        size = x.shape[1]
        weight = read(arrays, f"{name}/W_{part}", (size, size))
        return x @ weight + read(arrays, f"{name}/b_{part}", (size,))

    g = sigmoid(linear("carry"))
    u = relu(linear("transform"))
    return g * u + (1.0 - g) * x


class LSTMCell:
    """One layer of one direction: TensorFlow 1's LSTMCell as bilm-tf uses it.

    It has a projection, with proj_clip, only if dim differs from projection_dim. A clip that is
    missing, None or 0 is off.
    """

    def __init__(self, lstm: Mapping[str, Any], arrays: Arrays, names: list[str]):
        def leaf(name: str, shape: tuple[int, ...]) -> np.ndarray:
            spellings = (name, LSTM_SPELLINGS[name])
            return read(arrays, [f"{cell}/{s}" for cell in names for s in spellings], shape)

        dim, size = lstm["dim"], lstm["projection_dim"]
        self.cell_clip, self.proj_clip = lstm.get("cell_clip"), lstm.get("proj_clip")
        self.kernel = leaf("W_0", (2 * size, 4 * dim))  # the rows of the input first
        self.bias = leaf("B", (4 * dim,))
        self.projection = leaf("W_P_0", (dim, size)) if dim != size else None

    def run(self, x: np.ndarray, state: State | None) -> tuple[np.ndarray, State]:
        """Return outputs (words, P) for inputs (words, P) in reading order, and the final state."""
        size, dim = x.shape[1], len(self.bias) // 4
        h, c = state or (np.zeros(size), np.zeros(dim))
        outputs = np.empty_like(x)
        for t, inflow in enumerate(x @ self.kernel[:size] + self.bias):
            i, j, f, o = np.split(inflow + h @ self.kernel[size:], 4)
            c = clip(sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j), self.cell_clip)
            h = sigmoid(o) * np.tanh(c)
            if self.projection is not None:
                h = clip(h @ self.projection, self.proj_clip)
            outputs[t] = h
        return outputs, (h, c)


def stack_names(arrays: Arrays, n_layers: int) -> list[str]:
    """Return the name prefixes of both directions, or of the only one (bilm-tf dump_weights)."""
    cells = cell_names("rnn", 0, n_layers)
    one = any(f"{cell}/{s}" in arrays for cell in cells for s in ("W_0", LSTM_SPELLINGS["W_0"]))
    return ["rnn"] if one else ["RNN_0/RNN", "RNN_1/RNN"]


def cell_names(stack: str, layer: int, n_layers: int) -> list[str]:
    """Return a cell's possible names: a single layer has no MultiRNNCell (bilm-tf dump_weights)."""
    alone = [f"{stack}/LSTMCell"] if n_layers == 1 else []
    return [f"{stack}/MultiRNNCell/Cell{layer}/LSTMCell", *alone]


def find(arrays: Arrays, names: list[str]) -> Any:
    """Return the array with the first of these names that exists; KeyError if none does."""
    for name in names:
        if name in arrays:
            return arrays[name]
    raise KeyError(f"these options need an array named {' or '.join(names)}; the file has none")


def read(arrays: Arrays, name: str | list[str], shape: tuple | None = None) -> np.ndarray:
    """Read an array in float64; ValueError unless it has the shape that the options require."""
    array = find(arrays, [name] if isinstance(name, str) else name)
    if shape is not None and np.shape(array) != shape:
        raise ValueError(f"{name} has shape {np.shape(array)}; the options require {shape}")
    return np.asarray(array, dtype=np.float64)


def clip(x: np.ndarray, limit: float | None) -> np.ndarray:
    """Clip values to [-limit, limit]; a limit of None or 0 is off."""
    return np.clip(x, -limit, limit) if limit else x


def activate(x: np.ndarray, name: str) -> np.ndarray:
    """Apply the activation "relu" or "tanh"."""
    functions: dict[str, Any] = {"relu": relu, "tanh": np.tanh}
    return functions[name](x)


def relu(x: np.ndarray) -> np.ndarray:
    """Apply the rectified linear unit."""
    return np.maximum(x, 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Apply the logistic function, without overflow for any x."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
