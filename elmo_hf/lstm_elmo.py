# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The recurrence of ELMo: an LSTM with a projected, doubly clipped state."""

import torch
from torch import nn

from .configuration_elmo import ElmoConfig


class ElmoLstm(nn.Module):
    """
    One direction of one layer: a projected LSTM whose memory and output are clipped.

    Gate rows of both maps stand in the order input, forget, candidate, output. The memory is
    clipped before the output is formed and carried clipped; without a projection the output is
    not clipped. These are the rules of TensorFlow's `LSTMCell` and of AllenNLP's
    `LstmCellWithProjection`. A padding word leaves the state as it was, wherever it stands, so
    that a sentence gives the same vectors alone, padded left, or padded right.

    Args:
        config: the model's configuration.
        reverse: read from the last word to the first.
    """

    def __init__(self, config: ElmoConfig, reverse: bool = False) -> None:
        super().__init__()
        self.reverse = reverse
        self.cell_clip = config.cell_clip
        self.projection_clip = config.projection_clip
        width, gates = config.projection_dim, 4 * config.cell_dim
        self.input_map = nn.Linear(width, gates)
        self.recurrent_map = nn.Linear(width, gates, bias=False)
        self.output_map = (
            nn.Linear(config.cell_dim, width, bias=False) if config.has_lstm_projection else None
        )

    def forward(
        self, inputs: torch.Tensor, mask: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """
        Run over a batch of sentences.

        Args:
            inputs: `(batch, words, projection_dim)`.
            mask: bool `(batch, words)`, False at padding.
            state: output `(batch, projection_dim)` and memory `(batch, cell_dim)` to start from.

        Returns:
            Outputs `(batch, words, projection_dim)`, zero at padding, and the state after each
            sentence's last word read.
        """
        hidden, cell = state
        gates = self.input_map(inputs)  # (batch, words, 4 * cell_dim)
        words = inputs.shape[1]
        outputs = [inputs] * words
        for t in reversed(range(words)) if self.reverse else range(words):
            valid = mask[:, t, None]  # (batch, 1)
            new_hidden, new_cell = self.step(gates[:, t], hidden, cell)
            hidden = torch.where(valid, new_hidden, hidden)
            cell = torch.where(valid, new_cell, cell)
            outputs[t] = hidden.masked_fill(~valid, 0)
        return torch.stack(outputs, 1) if words else inputs, (hidden, cell)

    def step(
        self, gates: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One word: the input's share of the gates `(batch, 4 * cell_dim)` and the state in,
        the next state out. The memory keeps its own, at least single, precision."""
        gates = (gates + self.recurrent_map(hidden)).to(cell.dtype)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, -1)
        cell = input_gate.sigmoid() * candidate.tanh() + forget_gate.sigmoid() * cell
        if self.cell_clip is not None:
            cell = cell.clamp(-self.cell_clip, self.cell_clip)
        output = (output_gate.sigmoid() * cell.tanh()).to(hidden.dtype)
        if self.output_map is not None:
            output = self.output_map(output)
            if self.projection_clip is not None:
                output = output.clamp(-self.projection_clip, self.projection_clip)
        return output, cell


__all__ = ["ElmoLstm"]
