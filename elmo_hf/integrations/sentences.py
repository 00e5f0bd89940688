# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""A sentence-transformers folder that opens without this package (extra `sentences`)."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..conversion.outputs import new_folder
from ..embedder import ElmoEmbedder
from ..extras import require


def to_sentence_transformers(
    embedder: ElmoEmbedder | str | os.PathLike, folder: str | os.PathLike
) -> None:
    """
    Write a model as a folder for sentence-transformers.

    It consists of sentence-transformers' own modules and the model with its code:
    `SentenceTransformer(folder, trust_remote_code=True)` needs no elmo_hf. The layers and the
    pooling are the embedder's. Unlike `ElmoEmbedder.encode`, the pooling includes the vectors of
    `<S>` and `</S>`. A learned mix is divided by the sum of its factors, which does not change
    cosines.

    Args:
        embedder: an embedder, a folder, or the name of a Hub repository.
        folder: the new folder.

    Raises:
        ValueError: the embedder has several layers, the pooling "ends", or a mix whose factors do
            not sum to a positive number.
        WeightsError: the folder exists and is not empty, or cannot be written.
    """
    library: Any = require("sentence_transformers", "sentences")
    if not isinstance(embedder, ElmoEmbedder):
        embedder = ElmoEmbedder(embedder)
    if embedder.pooling == "ends":
        raise ValueError("sentence-transformers has no pooling 'ends'; use 'mean' or 'max'")
    weights = _layer_weights(embedder)
    with new_folder(Path(folder)) as scratch, tempfile.TemporaryDirectory() as saved:
        embedder.model.save_pretrained(saved)
        embedder.tokenizer.save_pretrained(saved)
        modules = _make_modules(saved, embedder, weights)
        library.SentenceTransformer(modules=modules, device="cpu").save(str(scratch))


def _make_modules(saved: str, embedder: ElmoEmbedder, weights: list[float]) -> list[Any]:
    base: Any = require("sentence_transformers.base.modules", "sentences")
    own: Any = require("sentence_transformers.sentence_transformer.modules", "sentences")
    width, top = embedder.dimension, len(weights) - 1
    transformer = base.Transformer(saved, config_kwargs={"output_hidden_states": True})
    mix = own.WeightedLayerPooling(
        width, top, layer_start=0, layer_weights=torch.nn.Parameter(torch.tensor(weights))
    )
    return [transformer, mix, own.Pooling(width, embedder.pooling)]


def _layer_weights(embedder: ElmoEmbedder) -> list[float]:
    """Return the factor of each layer, divided by their sum."""
    layers, factors = embedder.find_layers()
    count = embedder.config.num_hidden_states
    if factors is None and not isinstance(layers, int):
        raise ValueError(
            f"layers is {embedder.layers!r}, but sentence-transformers puts no layers side by side;"
            " use 'average', 'top', 'mix' or the index of one layer"
        )
    chosen = range(count) if layers is None else [layers] if isinstance(layers, int) else layers
    weights = [0.0] * count
    for layer, factor in zip(chosen, factors or [1.0], strict=True):
        weights[layer] = factor
    if sum(weights) <= 0:
        raise ValueError(
            f"the factors of the layers are {weights}, and sentence-transformers divides by their "
            "sum, which must be positive; use another mix, or layers='average'"
        )
    return [weight / sum(weights) for weight in weights]


__all__ = ["to_sentence_transformers"]
