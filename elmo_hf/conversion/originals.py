# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Types of the conversion: a model's original files, the model read from them, and its format.

Every module listed in `formats.FORMATS` has the four names of `Format`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .. import ElmoConfig, ElmoTokenizer
from .sources import Files


@dataclass(frozen=True)
class Original:
    """
    The files of a model whose format is known.

    Attributes:
        weights: an HDF5 file, the index of a TensorFlow checkpoint, or a PyTorch file.
        options: the JSON file with the model's sizes; None if the format does not need it.
        vocab: the words of the softmax or of the word table, one per line; None if there are none.
        prefix: name prefix of one ELMo, if an AllenNLP model has several.
        files: all files of the source.
    """

    weights: Path
    options: Path | None = None
    vocab: Path | None = None
    prefix: str | None = None
    files: tuple[Path, ...] = ()


@dataclass
class OpenModel:
    """
    A model that was read from its original files.

    Attributes:
        config, state_dict, tokenizer: the content of the converted folder; `state_dict` has the
            names of `ElmoForPreTraining`.
        expected: computes the original model's outputs for sentences, an array (words, width) per
            sentence, by the names `layer K`, `forward logits` and `backward logits`.
        source, extra: entries of conversion.json, in its section `source` and outside of it.
        notes: messages to the user about what was assumed, ignored or left out.
        data_files: the files with the weights, if `Original.weights` is not the only one.
        forget_biases: the forget gates' biases as the original stores them, without the 1 that our
            bias includes, by the name of our bias.
        word_splitter: the splitter that the files name; None: that of most models of the format.
    """

    config: ElmoConfig
    state_dict: dict[str, torch.Tensor]
    tokenizer: ElmoTokenizer
    expected: Callable[[list[list[str]]], Mapping[str, list[np.ndarray]]]
    source: dict[str, Any]
    notes: list[str]
    data_files: list[Path] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    forget_biases: dict[str, torch.Tensor] = field(default_factory=dict)
    word_splitter: str | None = None


class Format(Protocol):
    """Protocol of the modules in `formats.FORMATS`."""

    FORMAT: str  # the name in conversion.json
    WORD_SPLITTER: str  # splits raw text as the training text of most models was split

    def recognise(self, files: Files) -> Original | None:
        """Return the files of a model in this format; None if there is none."""

    def open_original(self, original: Original) -> OpenModel:
        """Read the model; WeightsError if its files are damaged or contradict each other."""
        raise NotImplementedError


def describe(path: Path) -> dict[str, str]:
    """Return a file's name and sha256, as conversion.json records them."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"file": path.name, "sha256": digest.hexdigest()}


__all__ = ["Format", "OpenModel", "Original", "describe"]
