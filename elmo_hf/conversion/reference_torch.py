"""Reimplements AllenNLP and ELMoForManyLangs in float64 NumPy, for their original tensors.

Like `reference`, whose small functions it uses, it imports only NumPy and shares no code with the
model or the tables of names: it reads the original names and repeats the original equations.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .reference import activate, by_layer, character_ids, clip, read, relu, sigmoid

Arrays = Mapping[str, Any]
Rows = Sequence[Sequence[str]]
Layers = dict[str, list[np.ndarray]]


def allennlp(options: Mapping[str, Any], arrays: Arrays, sentences: Rows) -> Layers:
    """Compute all layers of sentences, boundaries included (AllenNLP `_ElmoBiLm`).

    The names of `arrays` begin with `_token_embedder` or `_elmo_lstm`; `options` is the content of
    options.json. Returns the rows (words + 2, 2P) of each `layer K`.
    """
    cnn, embedder = options["char_cnn"], "_token_embedder"
    table = read(arrays, f"{embedder}._char_embedding_weights")

    def vector(word: str) -> np.ndarray:
        x = table[character_ids(word, cnn["max_characters_per_token"])]
        h = convolutions(x, cnn, arrays, f"{embedder}.char_conv_")
        h = highways(h, cnn.get("n_highway") or 0, arrays, f"{embedder}._highways._layers.")
        return linear(h, arrays, f"{embedder}._projection")

    lstm = {"use_skip_connections": True, **options["lstm"]}
    rows = [["<S>", *sentence, "</S>"] for sentence in sentences]
    vectors = [np.stack([vector(word) for word in row]) for row in rows]
    return by_layer([layers(x, lstm, arrays, "_elmo_lstm.") for x in vectors])


def manylangs(
    settings: Mapping[str, Any],
    arrays: Arrays,
    characters: Mapping[str, int],
    words: Mapping[str, int],
    sentences: Rows,
) -> Layers:
    """Compute all layers of sentences, boundaries included (ELMoForManyLangs `Model`).

    `arrays` are the tensors of both files, with the prefix `token_embedder.` or `encoder.`.
    `settings` is the model's configuration; `characters` and `words` are the .dic files, {} if that
    part is off. Returns the rows (words + 2, 2P) of each `layer K`.
    """
    embedder = settings["token_embedder"]
    longest, name = embedder["max_characters_per_token"], "token_embedder"

    def vector(word: str) -> np.ndarray:
        is_mark, parts = word in ("<bos>", "<eos>"), []
        word = word if is_mark else word[: longest - 2]
        if words:
            table = arrays[f"{name}.word_emb_layer.embedding.weight"]
            parts.append(table[words.get(word, words["<oov>"])].astype(np.float64))
        if characters:
            symbols = [word] if is_mark else list(word)
            ids = [characters.get(symbol, characters["<oov>"]) for symbol in symbols]
            row = [characters["<eow>"], *ids, characters["<bow>"]]  # yes, swapped
            row += [characters["<pad>"]] * (longest - len(row))
            x = read(arrays, f"{name}.char_emb_layer.embedding.weight")[row]
            h = convolutions(x, embedder, arrays, f"{name}.convolutions.")
            parts.append(highways(h, embedder["n_highway"], arrays, f"{name}.highways._layers."))
        return linear(np.concatenate(parts), arrays, f"{name}.projection")

    lstm = {"use_skip_connections": True, **settings["encoder"]}
    encode = mixed_layers if lstm["name"].lower() == "lstm" else layers
    rows = [["<bos>", *sentence, "<eos>"] for sentence in sentences]
    vectors = [np.stack([vector(word) for word in row]) for row in rows]
    return by_layer([encode(x, lstm, arrays, "encoder.") for x in vectors])


def convolutions(x: np.ndarray, cnn: Mapping[str, Any], arrays: Arrays, name: str) -> np.ndarray:
    """Convolve a word's characters (M, c), then max-pool and activate each filter."""
    pooled = []
    for i, (width, count) in enumerate(cnn["filters"]):
        weight = read(arrays, f"{name}{i}.weight", (count, x.shape[1], width))
        windows = np.stack([x[t : t + width] for t in range(len(x) - width + 1)])  # (T, width, c)
        y = np.einsum("twc,ncw->tn", windows, weight) + read(arrays, f"{name}{i}.bias", (count,))
        pooled.append(activate(y.max(0), cnn["activation"]))
    return np.concatenate(pooled)


def highways(h: np.ndarray, number: int, arrays: Arrays, name: str) -> np.ndarray:
    """Apply highways whose gate, the second half of a stacked linear map, keeps the input."""
    for k in range(number):
        transformed, gate = np.split(linear(h, arrays, f"{name}{k}"), 2)
        gate = sigmoid(gate)
        h = gate * h + (1 - gate) * relu(transformed)
    return h


def linear(x: np.ndarray, arrays: Arrays, name: str) -> np.ndarray:
    """Apply a linear map with bias and weights (out, in)."""
    weight = read(arrays, f"{name}.weight")
    return x @ weight.T + read(arrays, f"{name}.bias", weight.shape[:1])


def layers(
    vectors: np.ndarray, lstm: Mapping[str, Any], arrays: Arrays, name: str
) -> list[np.ndarray]:
    """Compute layer 0, the word vectors (words, P) twice, and the LSTM layers (words, 2P)."""
    found = [np.concatenate([vectors, vectors], axis=1)]
    reading = {"forward": vectors, "backward": vectors[::-1]}
    for layer in range(lstm["n_layers"]):
        for direction, x in reading.items():
            y = run(x, lstm, arrays, f"{name}{direction}_layer_{layer}")
            reading[direction] = x + y if layer and lstm["use_skip_connections"] else y
        found.append(np.concatenate([reading["forward"], reading["backward"][::-1]], axis=1))
    return found


def mixed_layers(
    vectors: np.ndarray, lstm: Mapping[str, Any], arrays: Arrays, name: str
) -> list[np.ndarray]:
    """Compute layer 0 and the output of a biLSTM encoder (ELMoForManyLangs `LstmbiLM`).

    The LSTMs are torch's, with the gate order input, forget, candidate, output.
    """
    x = vectors
    for layer in range(lstm["n_layers"]):
        ends = {f"l{layer}": 1, f"l{layer}_reverse": -1}
        both = [run_plain(x[::s], arrays, f"{name}encoder.{{}}_{e}")[::s] for e, s in ends.items()]
        x = np.concatenate(both, axis=1)
    halves = [linear(half, arrays, f"{name}projection") for half in np.split(x, 2, axis=1)]
    return [np.concatenate([vectors, vectors], axis=1), np.concatenate(halves, axis=1)]


def run_plain(x: np.ndarray, arrays: Arrays, name: str) -> np.ndarray:
    """Run one LSTM over words (words, D) in reading order, from zero states."""
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights, recurrent, bias, more = (read(arrays, name.format(part)) for part in parts)
    h = c = np.zeros(recurrent.shape[1])
    outputs = np.empty((len(x), len(h)))
    for t, inflow in enumerate(x @ weights.T + bias + more):
        i, f, g, o = np.split(inflow + recurrent @ h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = outputs[t] = sigmoid(o) * np.tanh(c)
    return outputs


def run(x: np.ndarray, lstm: Mapping[str, Any], arrays: Arrays, name: str) -> np.ndarray:
    """Run one layer of one direction (AllenNLP `LstmCellWithProjection`), from zero states.

    The gate order is input, forget, candidate, output. The bias belongs to the recurrent map and
    includes the forget gate's 1. A clip that is missing, None or 0 is off.
    """
    size, dim = x.shape[1], lstm["dim"]
    inflow = x @ read(arrays, f"{name}.input_linearity.weight", (4 * dim, size)).T
    recurrent = read(arrays, f"{name}.state_linearity.weight", (4 * dim, size)).T
    bias = read(arrays, f"{name}.state_linearity.bias", (4 * dim,))
    projection = read(arrays, f"{name}.state_projection.weight", (size, dim)).T
    h, c = np.zeros(size), np.zeros(dim)
    outputs = np.empty_like(x)
    for t, gates in enumerate(inflow):
        i, f, j, o = np.split(gates + h @ recurrent + bias, 4)
        c = clip(sigmoid(i) * np.tanh(j) + sigmoid(f) * c, lstm.get("cell_clip"))
        h = clip((sigmoid(o) * np.tanh(c)) @ projection, lstm.get("proj_clip"))
        outputs[t] = h
    return outputs


__all__ = ["allennlp", "manylangs"]
