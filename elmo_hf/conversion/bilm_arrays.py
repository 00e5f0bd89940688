# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Reads, verifies and writes bilm-tf's arrays, under the names of its HDF5 files.

bilm-tf's `dump_weights` renames the variables of a training checkpoint to these names; `tfhub` does
the same for TensorFlow Hub modules. Only `name_table` defines which array holds which of our
tensors.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import ElmoConfig, ElmoTokenizer
from . import reference
from .bilm_options import config_from_options
from .originals import OpenModel, Original, describe
from .sources import read_json
from .tables import SAME, TABLE, Row, Transform, WeightsError, abbreviated

# Our attribute of a bias dataset: the forget gate's bias including TensorFlow's +1, written if no
# stored value + 1 equals it bit for bit. The original programs ignore attributes.
EXACT_FORGET_BIAS = "forget_bias_plus_one"


def open_arrays(
    original: Original,
    open_weights: Callable[[], AbstractContextManager[Mapping[str, Any]]],
    inferred_options: Mapping[str, Any] | None = None,
) -> OpenModel:
    """
    Read a model whose arrays have the names of the HDF5 format, from any kind of file.

    Args:
        original: the model's files.
        open_weights: opens the arrays by name; it is called again for the verification.
        inferred_options: the options to use without options.json.

    Raises:
        WeightsError: an array is missing or damaged, or does not match the options.
    """
    options, described = inferred_options, {}
    if original.options is not None:
        options, described = read_json(original.options), describe(original.options)
    assert options is not None
    with open_weights() as arrays:
        config, notes = config_from_options(options, arrays)
        tokenizer, more_notes = _make_tokenizer(config, original.vocab)
        state_dict, load_notes = load_arrays(config, arrays)
        forget_biases = original_forget_biases(config, arrays)

    def expected(sentences: list[list[str]]) -> dict[str, list[np.ndarray]]:
        vocabulary = {word: i for i, word in enumerate(tokenizer.lm_vocab or [])}
        with open_weights() as arrays:
            return expected_layers(options, arrays, vocabulary, sentences)

    return OpenModel(
        config=config,
        state_dict=state_dict,
        tokenizer=tokenizer,
        expected=expected,
        source={"options": described | {"content": options}},
        notes=notes + load_notes + more_notes,
        forget_biases=forget_biases,
        word_splitter=options.get("word_splitter"),  # from `write_original`
    )


def expected_layers(
    options: Mapping[str, Any],
    arrays: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    sentences: list[list[str]],
) -> dict[str, list[np.ndarray]]:
    """Compute the original's outputs by layer or softmax; see `OpenModel.expected`."""
    layers, _ = reference.forward(options, arrays, sentences, vocabulary=vocabulary)
    expected = reference.by_layer(layers)
    if "softmax/W" in arrays:
        scores = [reference.logits(arrays, row[-1]) for row in layers]
        expected["forward logits"] = [score[0] for score in scores]
        if len(scores[0]) == 2:
            expected["backward logits"] = [score[1] for score in scores]
    return expected


def _make_tokenizer(config: ElmoConfig, vocab: Path | None) -> tuple[ElmoTokenizer, list[str]]:
    """Make the tokenizer, with the vocabulary if the model has words; also return notes."""
    rows = config.lm_vocab_size or max(0, config.word_vocab_size - 1)
    notes = []
    if vocab is not None and rows:
        _check_vocabulary(vocab, rows)
    elif config.word_vocab_size:
        raise WeightsError(
            "this model looks words up in a table and needs its vocabulary, one word per line; "
            "pass it with --vocab FILE"
        )
    elif rows:
        notes.append("no vocabulary found: the words of the softmax are unknown; pass --vocab FILE")
    elif vocab is not None:
        notes.append(f"{vocab.name} is left out: these weights have no softmax")
    tokenizer = ElmoTokenizer(
        max_characters_per_token=config.max_characters_per_token,
        use_characters=config.uses_characters,
        use_word_ids=not config.uses_characters,
        lm_vocab_file=str(vocab) if vocab is not None and rows else None,
    )
    return tokenizer, notes


def _check_vocabulary(path: Path, rows: int) -> None:
    """Raise WeightsError unless the file is a vocabulary with one word per row of the table."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = sum(1 for _ in file)
        ElmoTokenizer(lm_vocab_file=str(path))
    except ValueError as error:
        raise WeightsError(f"{path.name} is not a vocabulary: {error}") from error
    if lines != rows:
        raise WeightsError(f"{path.name} has {lines} words, but the weights have {rows} rows")


def _swap_gates(rows: torch.Tensor) -> torch.Tensor:
    """Convert TensorFlow's gate order (input, candidate, forget, output) to ours, or back."""
    return rows.unflatten(0, (4, -1))[[0, 2, 1, 3]].flatten(0, 1)


def _load_kernel(kernel: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(_swap_gates(half.t()) for half in kernel.chunk(2))


def _dump_kernel(input_map: torch.Tensor, recurrent_map: torch.Tensor) -> torch.Tensor:
    return torch.cat([_swap_gates(part).t() for part in (input_map, recurrent_map)])


def _forget_block(bias: torch.Tensor) -> torch.Tensor:
    """Return a view of the forget gate's quarter of a bias in our order."""
    return bias.chunk(4)[1]


def _load_bias(bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    ours = _swap_gates(bias)
    _forget_block(ours).add_(1)
    return (ours,)


def _dump_bias(bias: torch.Tensor) -> torch.Tensor:
    ours = bias.clone()
    _forget_block(ours).sub_(1)
    return _swap_gates(ours)


TRANSPOSED = Transform(lambda array: (array.t(),), lambda tensor: tensor.t())
# (1, width, channels, count) <-> (count, channels, width)
CONVOLUTION = Transform(
    lambda array: (array[0].permute(2, 1, 0),), lambda tensor: tensor.permute(2, 1, 0)[None]
)
KERNEL = Transform(_load_kernel, _dump_kernel)
BIAS = Transform(_load_bias, _dump_bias)


LEAVES = ("W_0", "B", "W_P_0")  # kernel, bias and projection of an LSTM
UNIDIRECTIONAL_LEAVES = ("kernel", "bias", "projection/kernel")
CELLS = ("MultiRNNCell/Cell{layer}/LSTMCell", "LSTMCell")


def lstm_names(config: ElmoConfig, names: Container[str]) -> tuple[str, tuple[str, str, str]]:
    """
    Return the pattern of an LSTM's path, and the names of its arrays.

    They are those of the LSTMs in `names`; without LSTMs, those of bilm-tf's `dump_weights`.
    """
    roots = ("RNN_{direction}/RNN/", "RNN_{direction}/rnn/", "rnn/", "RNN/")
    for root, cell, leaves in product(roots, CELLS, (LEAVES, UNIDIRECTIONAL_LEAVES)):
        if f"{root}{cell}/{leaves[0]}".format(direction=0, layer=0) in names:
            return root + cell, leaves
    cell = CELLS[config.num_hidden_layers == 1]
    return (
        (roots[0] + cell, LEAVES)
        if config.bidirectional
        else ("rnn/" + cell, UNIDIRECTIONAL_LEAVES)
    )


def name_table(config: ElmoConfig, names: Container[str] = ()) -> list[Row]:
    """
    List all datasets of a model with the matching names of `ElmoForPreTraining`.

    Args:
        names: the names in the file that is read; empty for a file to write.
    """
    rows = _character_rows(config) if config.uses_characters else _token_rows(config)
    width, cell = config.projection_dim, config.cell_dim
    path, (kernel, bias, projection) = lstm_names(config, names)
    for direction, lstm in enumerate(("forward_lstm", "backward_lstm")[: config.num_directions]):
        for layer in range(config.num_hidden_layers):
            theirs = path.format(direction=direction, layer=layer)
            ours = f"elmo.layers.{layer}.{lstm}"
            maps = (f"{ours}.input_map.weight", f"{ours}.recurrent_map.weight")
            output = (f"{ours}.output_map.weight",)
            rows += [
                Row(f"{theirs}/{kernel}", (2 * width, 4 * cell), maps, KERNEL),
                Row(f"{theirs}/{bias}", (4 * cell,), (f"{ours}.input_map.bias",), BIAS),
            ]
            if config.has_lstm_projection:
                rows.append(Row(f"{theirs}/{projection}", (cell, width), output, TRANSPOSED))
    if config.lm_vocab_size:
        vocab_size = config.lm_vocab_size
        if not config.tie_word_embeddings:
            rows.append(Row("softmax/W", (vocab_size, width), ("lm_head.weight",), SAME))
        rows.append(Row("softmax/b", (vocab_size,), ("lm_head.bias",), SAME))
    return rows


def _character_rows(config: ElmoConfig) -> list[Row]:
    width, filters = config.char_embedding_dim, config.num_filters

    def both(theirs: str, ours: str, shape: tuple[int, ...], transform: Transform) -> list[Row]:
        ours = f"elmo.embeddings.{ours}"
        return [
            Row(theirs.format("W"), shape, (f"{ours}.weight",), transform),
            Row(theirs.format("b"), shape[-1:], (f"{ours}.bias",), SAME),
        ]

    table = ("elmo.embeddings.char_embeddings.weight",)
    rows = [Row("char_embed", (config.vocab_size - 1, width), table, TABLE)]
    for i, (kernel, count) in enumerate(config.filters):
        shape = (1, kernel, width, count)
        rows += both(f"CNN/{{}}_cnn_{i}", f"convolutions.{i}", shape, CONVOLUTION)
    for k in range(config.num_highway_layers):
        for theirs, ours in (("carry", "gate"), ("transform", "transform")):
            name, square = f"CNN_high_{k}/{{}}_{theirs}", (filters, filters)
            rows += both(name, f"highways.{k}.{ours}", square, TRANSPOSED)
    if config.has_embedding_projection:
        rows += both("CNN_proj/{}_proj", "projection", (filters, config.projection_dim), TRANSPOSED)
    return rows


def _token_rows(config: ElmoConfig) -> list[Row]:
    shape = (config.word_vocab_size - 1, config.word_embedding_dim)
    return [Row("embedding", shape, ("elmo.embeddings.word_embeddings.weight",), TABLE)]


def load_arrays(
    config: ElmoConfig, arrays: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """
    Turn an original file's arrays into a float32 state dict of `ElmoForPreTraining`.

    Args:
        config: the configuration that `config_from_options` read.
        arrays: datasets by name, NumPy arrays or an open file's `h5py.Dataset`s; each is read
            once and then freed.

    Returns:
        The state dict, and notes on unknown datasets.

    Raises:
        WeightsError: a dataset is missing, does not match the options' shape, is not of floats, or
            belongs to a larger model.
    """
    table = name_table(config, arrays)
    notes = _leftovers(arrays, {row.original for row in table})
    for row in table:
        _check_dataset(row, arrays)
    state_dict: dict[str, torch.Tensor] = {}
    for row in tqdm(table, desc="Reading weights", unit="dataset", delay=1):
        tensors = row.transform.load(_read(arrays, row.original))
        state_dict.update(zip(row.ours, (t.contiguous() for t in tensors), strict=True))
        if row.transform is BIAS:
            _restore_forget_bias(state_dict[row.ours[0]], arrays[row.original])
    return state_dict, notes


def dump_arrays(
    config: ElmoConfig,
    state_dict: Mapping[str, torch.Tensor],
    forget_biases: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """
    Turn a state dict of `ElmoForPreTraining` into an original file's arrays, one by one.

    Adding TensorFlow's 1 to a forget bias and subtracting it again loses bits. So the value of the
    original file is written, if it is known and still leads to our value. If the written value does
    not lead to ours, an attribute holds ours.

    Args:
        config: the model's configuration.
        state_dict: the weights; they are converted to float32.
        forget_biases: the result of `original_forget_biases` for the model's original file.

    Yields:
        A dataset's name, its NumPy array, and its attributes.
    """
    for row in name_table(config):
        tensors = [state_dict[name].detach().to("cpu", torch.float32) for name in row.ours]
        array, attributes = row.transform.dump(*tensors).contiguous(), {}
        if row.transform is BIAS:
            ours, stored = _forget_block(tensors[0]), array.chunk(4)[2]
            known = (forget_biases or {}).get(row.ours[0])
            if known is not None:
                if known.shape != ours.shape:
                    raise WeightsError(
                        "the stored forget biases are of another model; convert the original again"
                    )
                stored.copy_(torch.where(known + 1 == ours, known, stored))
            if not torch.equal(stored + 1, ours):
                attributes[EXACT_FORGET_BIAS] = ours.numpy()
        yield row.original, array.numpy(), attributes


def original_forget_biases(
    config: ElmoConfig, arrays: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the forget gates' biases in an original file, by the name of our bias."""
    biases = [row for row in name_table(config, arrays) if row.transform is BIAS]
    return {row.ours[0]: _read(arrays, row.original).chunk(4)[2].clone() for row in biases}


def _leftovers(arrays: Mapping[str, Any], used: set[str]) -> list[str]:
    """Return notes on unused datasets; WeightsError if the options belong to another model."""
    unused = sorted(set(arrays) - used)
    parts = ("CNN/", "CNN_high_", "CNN_proj/", "RNN_", "rnn/", "RNN/", "softmax/")
    model_parts = [name for name in unused if name.startswith(parts)]
    missing = sorted(used - set(arrays))
    if missing:
        raise WeightsError(
            f"dataset {missing[0]} is missing (and {len(missing) - 1} more), but options.json "
            f"requires it; the file holds {abbreviated(arrays)}"
        )
    if model_parts:
        raise WeightsError(
            f"dataset {model_parts[0]} (and {len(model_parts) - 1} more) belongs to a larger model "
            "than options.json describes; pass the options.json published with these weights"
        )
    return [f"dataset {name} is unknown: ignored" for name in unused]


def _check_dataset(row: Row, arrays: Mapping[str, Any]) -> None:
    dataset = arrays[row.original]
    if tuple(dataset.shape) != row.shape:
        raise WeightsError(
            f"dataset {row.original} has shape {tuple(dataset.shape)}, but options.json requires "
            f"{row.shape}"
        )
    if dataset.dtype.kind != "f":
        raise WeightsError(f"dataset {row.original} holds {dataset.dtype}; expected float32")


def _read(arrays: Mapping[str, Any], name: str) -> torch.Tensor:
    try:
        return torch.from_numpy(arrays[name][...].astype("float32", copy=False))
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"dataset {name} cannot be read, the file is damaged: {error}"
        ) from error


def _restore_forget_bias(bias: torch.Tensor, dataset: Any) -> None:
    exact = getattr(dataset, "attrs", {}).get(EXACT_FORGET_BIAS)
    if exact is None:
        return
    block = _forget_block(bias)
    if getattr(exact, "shape", None) != block.shape or exact.dtype != np.float32:
        raise WeightsError(
            f"dataset {dataset.name} has an attribute {EXACT_FORGET_BIAS} that is not "
            f"{len(block)} float32 numbers; the file is damaged"
        )
    block.copy_(torch.from_numpy(exact))


__all__ = [
    "dump_arrays",
    "expected_layers",
    "load_arrays",
    "name_table",
    "open_arrays",
    "original_forget_biases",
]
