# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The weights and settings of one LSTM, as every engine receives them."""

from typing import Literal, NamedTuple

import torch

# Output `(batch, projection_dim)` and memory `(batch, cell_dim)`.
States = tuple[torch.Tensor, torch.Tensor]
# Vectors `(vectors, projection_dim)`, and the index of each word's vector `(batch, words)`.
Unique = tuple[torch.Tensor, torch.Tensor]
Operators = Literal["onednn", "plain"]


class LstmWeights(NamedTuple):
    """The maps of one `ElmoLstm`, gate rows in the order input, forget, candidate, output."""

    input_weight: torch.Tensor  # (4 * cell_dim, projection_dim)
    input_bias: torch.Tensor  # (4 * cell_dim)
    recurrent_weight: torch.Tensor  # (4 * cell_dim, projection_dim)
    output_weight: torch.Tensor | None  # (projection_dim, cell_dim)


class LstmSettings(NamedTuple):
    """
    Everything besides the weights that changes an `ElmoLstm`'s values, and how to compute them.

    Args:
        cell_clip, projection_clip: bounds, or None.
        reverse: read from the last word to the first.
        precision: `"int8"` rounds weights and activations to 8 bits; None keeps the weights' type,
            which torchao's 8-bit tensors have of themselves.
        operators: `"onednn"` or `"plain"` PyTorch operators; None takes the faster that works.
    """

    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    reverse: bool = False
    precision: Literal["int8"] | None = None
    operators: Operators | None = None


__all__ = ["LstmSettings", "LstmWeights", "Operators", "States", "Unique"]
