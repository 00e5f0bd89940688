# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Choice of layers, and what becomes of the chosen layers of a sentence."""

import operator
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import torch

from .model.layer_scalar_mix import ElmoScalarMix

Layers = Literal["average", "top", "all", "mix"] | int | Sequence[int]
Pooling = Literal["mean", "max", "ends"]
LAYER_NAMES = ("average", "top", "all", "mix")
POOLINGS = ("mean", "max", "ends")

_EXPECTED = (
    f"expected one of {', '.join(map(repr, LAYER_NAMES))}, or the index of a layer, or a list of "
    "indices (0: the context-free layer)"
)


def to_indices(layers: Any) -> int | list[int]:
    """Return an index or a list of indices; raise ValueError for anything else."""
    try:
        if isinstance(layers, bool):
            raise TypeError
        if isinstance(layers, Iterable):
            return [operator.index(layer) for layer in layers]
        return operator.index(layers)
    except TypeError:
        raise ValueError(f"layers is {layers!r}; {_EXPECTED}") from None


def check_layers(layers: Any, count: int | None = None) -> None:
    """Raise ValueError for an unknown name, or an index that a model of `count` layers lacks."""
    if isinstance(layers, str):
        if layers not in LAYER_NAMES:
            near = get_close_matches(layers, LAYER_NAMES, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"layers is {layers!r}; {hint}{_EXPECTED}")
        return
    indices = layers if isinstance(layers, list) else [layers]
    if not indices:
        raise ValueError(f"layers is {layers}; {_EXPECTED}")
    if count is not None and not all(-count <= i < count for i in indices):
        raise ValueError(
            f"layers is {layers}; this model has the layers 0 to {count - 1}, 0 being the "
            "context-free one"
        )


def mix_factors(mix: ElmoScalarMix) -> list[float]:
    """Return the factor of each layer in a mix."""
    if mix.layer_norm is not None:
        raise ValueError(
            f"the mix normalizes its layers over a batch (mix_layer_norm={mix.layer_norm!r}), so a "
            "vector would depend on the other sentences; use layers='average' or 'top'"
        )
    weights = mix.weights.detach().double().cpu()
    factors = torch.zeros_like(weights)
    factors[mix.layers] = mix.gamma.detach().double().cpu() * weights[mix.layers].softmax(0)
    return factors.tolist()


def side_by_side(layers: list[np.ndarray]) -> np.ndarray:
    """Put several layers into one vector per word, `(words, layers * hidden_size)`."""
    return np.concatenate(layers, -1)


def pool_layers(layers: list[np.ndarray], pooling: Pooling, directions: int) -> np.ndarray:
    """Pool each layer `(words, hidden_size)` and put the vectors side by side."""
    return np.concatenate([_pool_words(words, pooling, directions) for words in layers])


def _pool_words(words: np.ndarray, pooling: Pooling, directions: int) -> np.ndarray:
    if not len(words):
        return np.zeros(words.shape[1], np.float32)
    if pooling == "mean":
        return words.mean(0, dtype=np.float64).astype(np.float32)
    if pooling == "max":
        return words.max(0)
    half = words.shape[1] // directions
    return np.concatenate([words[-1, :half], words[0, half:]])


__all__ = [
    "LAYER_NAMES",
    "POOLINGS",
    "Layers",
    "Pooling",
    "check_layers",
    "mix_factors",
    "pool_layers",
    "side_by_side",
    "to_indices",
]
