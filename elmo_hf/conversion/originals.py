# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""What the conversion knows of a model: its files when a format has recognised them, then itself.

Every format module has the same four names, see `Format`; `formats.FORMATS` lists the modules.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch

from .. import ElmoConfig, ElmoTokenizer
from .sources import Files
from .tables import WeightsError

MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Original:
    """
    The files of a model whose format is known.

    Attributes:
        weights: the file that stands for the weights: an HDF5 file, the index of a TensorFlow
            checkpoint, or a PyTorch file.
        options: the JSON file with the model's sizes; None where the format can do without.
        vocab: the words of the softmax or of the word table, one a line; None if there is none.
        prefix: which ELMo of an AllenNLP model that has several; None for the only one.
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
        config, state_dict, tokenizer: what the converted folder is made of; the names in
            `state_dict` are those of `ElmoForPreTraining`.
        expected: computes from sentences what the original arrays give, as rows (words, width) of
            each sentence, by `layer K`, `forward logits` or `backward logits`.
        source, extra: what conversion.json records of the source, and beside it.
        notes: what the user should know: what was assumed, ignored or left out.
        data_files: the files that the weights are in, where `Original.weights` is not all.
        forget_biases: the forget gates' biases as the original stores them, without the 1 that our
            bias includes, by the name of our bias.
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


class Format(Protocol):
    """What every module in the table of formats has."""

    FORMAT: str  # the name in conversion.json
    WORD_SPLITTER: str  # splits raw text into words as the models' training text was split

    def recognise(self, files: Files) -> Original | None:
        """The model of this format among the files; None if there is none."""

    def open_original(self, original: Original) -> OpenModel:
        """Read the model; WeightsError unless its files are sound and agree with each other."""
        raise NotImplementedError


def describe(path: Path) -> dict[str, str]:
    """A file's name and sha256, as conversion.json records them."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"file": path.name, "sha256": digest.hexdigest()}


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a JSON object.

    Raises:
        WeightsError: the file is too large, no JSON, no object, or holds Infinity or NaN, which
            JSON does not have and no option of a model can be.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path.name} is no readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} is no JSON object of options, but a list or a value")
    return content


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse_number(text)


__all__ = ["MAX_JSON_BYTES", "Format", "OpenModel", "Original", "describe", "read_json"]
