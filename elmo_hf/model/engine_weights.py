# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The weights and settings of one LSTM, in the form that all engines use."""

from typing import Literal, NamedTuple

import torch

# Hidden state `(batch, projection_dim)` and cell state `(batch, cell_dim)`.
States = tuple[torch.Tensor, torch.Tensor]
# Vectors `(vectors, projection_dim)`, and the index of each word's vector `(batch, words)`.
Unique = tuple[torch.Tensor, torch.Tensor]
Operators = Literal["onednn", "plain"]


class LstmWeights(NamedTuple):
    """The weights of one `ElmoLstm`; gate rows are ordered input, forget, candidate, output."""

    input_weight: torch.Tensor  # (4 * cell_dim, projection_dim)
    input_bias: torch.Tensor  # (4 * cell_dim)
    recurrent_weight: torch.Tensor  # (4 * cell_dim, projection_dim)
    output_weight: torch.Tensor | None  # (projection_dim, cell_dim)


class LstmSettings(NamedTuple):
    """
    Everything besides the weights that changes an `ElmoLstm`'s result or its computation.

    Args:
        cell_clip, projection_clip: bounds; None: unbounded.
        reverse: read from the last word to the first.
        precision: `"int8"` rounds weights and activations to 8 bits; None uses the weights' dtype
            (8 bits for torchao's 8-bit tensors).
        operators: `"onednn"`, or `"plain"` PyTorch operators; None: the faster one that works.
    """

    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    reverse: bool = False
    precision: Literal["int8"] | None = None
    operators: Operators | None = None


__all__ = ["LstmSettings", "LstmWeights", "Operators", "States", "Unique"]
