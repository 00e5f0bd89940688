# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Converts the HDF5 file and options.json of bilm-tf's `dump_weights`, and writes them.

AllenNLP and simple_elmo read this format, and nearly every published ELMo uses it.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import ElmoConfig
from ..extras import require
from .bilm_arrays import dump_arrays, load_arrays, open_arrays
from .bilm_options import config_from_options, options_from_config
from .originals import OpenModel, Original
from .outputs import reserve, write_json
from .sources import HDF5, Files
from .tables import WeightsError, check_restored

FORMAT = "bilm-tf HDF5"
WORD_SPLITTER = "billion-words"  # as in the training text of the published bilm-tf model
LSTM_ROOTS = {"RNN_0", "RNN", "rnn"}


def recognise(files: Files) -> Original | None:
    """Find the HDF5 file that holds LSTMs, else the only one; see `Format.recognise`."""
    found = {path: root_names(path) for path in files.of_kind(HDF5)}
    if not found:
        return None
    models = [path for path, names in found.items() if not LSTM_ROOTS.isdisjoint(names)]
    weights = files.one("weights", models or list(found))
    refuse_vectors(weights.name, found[weights])
    if files.prefix is not None:
        raise WeightsError(f"--prefix {files.prefix} chooses an ELMo of AllenNLP's .th files only")
    return Original(weights, files.find_options(needed=True), files.find_vocab())


def open_original(original: Original) -> OpenModel:
    """Read the file and its options.json; see `Format.open_original`."""
    return open_arrays(original, partial(open_hdf5, original.weights))


def write_original(
    folder: Path,
    config: ElmoConfig,
    state_dict: Mapping[str, torch.Tensor],
    forget_biases: Mapping[str, torch.Tensor],
    vocab: Path | None,
    word_splitter: str | None,
) -> None:
    """
    Write weights.hdf5, options.json and, if there is one, vocab.txt; read them again and compare.

    Args:
        folder: an empty folder.
        config: the model's configuration.
        state_dict: the weights, with the names of `ElmoForPreTraining`.
        forget_biases: the result of `original_forget_biases` for the model's original file.
        vocab: the words of the softmax or of the word table, one per line.
        word_splitter: that of the tokenizer; options.json stores it unless it is `WORD_SPLITTER`.

    Raises:
        WeightsError: the format cannot represent the model, or the files do not restore it.
    """
    h5py = require("h5py", "convert")
    options = options_from_config(config)
    if word_splitter not in (None, WORD_SPLITTER):
        options["word_splitter"] = word_splitter  # the original programs ignore it
    write_json(folder / "options.json", options)
    reserve(folder, state_dict.values())
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, array, attributes in dump_arrays(config, state_dict, forget_biases):
            file[name] = array
            file[name].attrs.update(attributes)
    if vocab is not None:
        shutil.copyfile(vocab, folder / "vocab.txt")
    with open_hdf5(folder / "weights.hdf5") as arrays:
        restored, _ = load_arrays(config_from_options(options, arrays)[0], arrays)
    check_restored(state_dict, restored)


def root_names(path: Path) -> set[str]:
    """Return the top-level names of an HDF5 file, without following links; none if damaged."""
    h5py = require("h5py", "convert")
    try:
        with h5py.File(path, "r") as file:
            return set(file)
    except (OSError, RuntimeError, ValueError):
        return set()


def refuse_vectors(file: str, names: set[str]) -> None:
    """Raise WeightsError for a file of vectors, which is not a file of weights."""
    if names == {"embedding"}:
        raise WeightsError(
            f"{file} is a dump of word vectors (bilm-tf's dump_token_embeddings) without LSTMs, "
            "not the weights of a model; pass the file that dump_weights wrote"
        )
    sentences = names - {"sentence_to_index"}
    if sentences and all(name.isdigit() for name in sentences):
        raise WeightsError(
            f"{file} holds the vectors of {len(sentences)} sentences (the output of a program that "
            "embeds a corpus), not the weights of a model; pass the weights of that model"
        )


@contextmanager
def open_hdf5(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's datasets by their full names; WeightsError if it is damaged or unsafe."""
    h5py = require("h5py", "convert")
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path.name} is not a complete HDF5 file: {error}") from error
    with file:
        yield find_datasets(path, file)


def find_datasets(path: Path, file: Any) -> dict[str, Any]:
    """Check the datasets of an open file and return them by name, without following links."""
    arrays: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            check_storage(path, name, item)
            arrays[name] = item

    try:
        file.visititems(visit)
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path.name} is a damaged HDF5 file: {error}") from error
    return arrays


def check_storage(path: Path, name: str, dataset: Any) -> None:
    """Raise WeightsError for a dataset that is in other files, or stores too few values."""
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"{path.name}: dataset {name} points to another file: refused")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > 1000 * stored:
        raise WeightsError(
            f"{path.name}: dataset {name} claims {dataset.nbytes} bytes but {stored} are stored"
        )


__all__ = ["FORMAT", "WORD_SPLITTER", "open_original", "recognise", "write_original"]
