# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The scalar mix: a learned weighted average of the biLM's layers, which the paper calls ELMo."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

LayerNorm = Literal["allennlp", "bilm-tf"]
EPSILONS = {"allennlp": 1e-13, "bilm-tf": 1e-12}


class ElmoScalarMix(nn.Module):
    """
    Scalar mix of layers: `gamma * sum_k softmax(weights)_k * layer_k`.

    This is equation 1 of Peters et al. 2018. `weights` `(num_layers,)` start at zero (the average)
    and `gamma` `(1,)` at one, as in AllenNLP and bilm-tf.

    Args:
        num_layers: layers of the biLM, layer 0 included.
        layers: indices of the layers to mix; None: all. Weights of other layers are not used.
        layer_norm: normalize each layer to mean 0 and variance 1 over all words and features of
            the batch before mixing. `"allennlp"` includes boundary words in mean and variance,
            `"bilm-tf"` does not. With either, a vector depends on the rest of the batch.

    Raises:
        ValueError: `layers` is empty or contains an index out of range.
    """

    def __init__(
        self,
        num_layers: int,
        layers: Sequence[int] | None = None,
        layer_norm: LayerNorm | None = None,
    ) -> None:
        super().__init__()
        chosen = range(num_layers) if layers is None else layers
        if not chosen or any(not -num_layers <= layer < num_layers for layer in chosen):
            raise ValueError(
                f"layers is {list(chosen)}; expected one or more of 0 to {num_layers - 1}, where 0 "
                "is the context-free layer"
            )
        self.num_layers = num_layers
        self.layers = sorted({layer % num_layers for layer in chosen})
        self.layer_norm = layer_norm
        self.weights = nn.Parameter(torch.zeros(num_layers))
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(
        self,
        hidden_states: Sequence[torch.Tensor | None],
        mask: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Mix `num_layers` tensors `(batch, words, hidden_size)`; unused layers may be None.

        Args:
            hidden_states: `hidden_states` of an `ElmoModel`.
            mask: bool `(batch, words)`, False at padding; only for a layer norm.
            words: bool `(batch, words)`, False at padding and at boundary words; only for
                bilm-tf's layer norm.

        Returns:
            `(batch, words, hidden_size)`, zero at padding if the layers are.

        Raises:
            ValueError: a layer is missing.
        """
        if len(hidden_states) != self.num_layers:
            raise ValueError(
                f"got {len(hidden_states)} layers; expected {self.num_layers}, such as "
                "model(..., output_hidden_states=True).hidden_states"
            )
        # Zero-dimensional scales do not promote the dtype of a half-precision layer.
        scales = self.gamma * self.weights[self.layers].softmax(0)
        mixed: torch.Tensor | None = None
        for scale, index in zip(scales, self.layers, strict=True):
            layer = hidden_states[index]
            if layer is None:
                raise ValueError(
                    f"layer {index} of hidden_states is None but part of the mix; call the model "
                    f"with output_hidden_states={self.layers}"
                )
            if self.layer_norm is not None:
                layer = normalize_layer(layer, mask, words, self.layer_norm)
            mixed = scale * layer if mixed is None else mixed + scale * layer
        assert mixed is not None
        return mixed

    def extra_repr(self) -> str:
        return f"layers={self.layers}, layer_norm={self.layer_norm!r}"


def normalize_layer(
    layer: torch.Tensor,
    mask: torch.Tensor | None,
    words: torch.Tensor | None,
    convention: LayerNorm,
) -> torch.Tensor:
    """
    Normalize one layer to mean 0 and variance 1 over all words and features; padding is zero.

    Args:
        layer: `(batch, words, hidden_size)`.
        mask: bool `(batch, words)`, False at padding; None: no padding.
        words: the same, False also at boundary words, which bilm-tf's mean and variance exclude.
        convention: the program whose normalization is used.
    """
    mask, words = (None if one is None else one.bool() for one in (mask, words))
    counted = words if convention == "bilm-tf" and words is not None else mask
    precise = layer.to(torch.promote_types(layer.dtype, torch.float32))
    if counted is None:
        counted = torch.ones(layer.shape[:2], dtype=torch.bool, device=layer.device)
    number = (counted.sum() * layer.shape[-1]).clamp(min=1)
    mean = precise.masked_fill(~counted[..., None], 0).sum() / number
    centred = precise - mean
    variance = centred.masked_fill(~counted[..., None], 0).square().sum() / number
    normal = (centred * (variance + EPSILONS[convention]).rsqrt()).to(layer.dtype)
    return normal if mask is None else normal.masked_fill(~mask[..., None], 0)


__all__ = ["ElmoScalarMix", "LayerNorm", "normalize_layer"]
