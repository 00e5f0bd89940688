# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""LSTMs over masked sentences, and the left alignment that sentence lengths need."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class ElmoTaskLstm(nn.Module):
    """
    A biLSTM that is trained with a task head, and dropout of its output.

    Args:
        input_size: width of its input vectors.
        hidden_size: width of each direction's output.
        dropout: probability of zeroing an output while training.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, words, input_size)` to `(batch, words, 2 * hidden_size)`, zero at padding."""
        return self.dropout(run_over_words(self.lstm, vectors, mask))


class LeftAlignment:
    """
    Moves the words of each sentence to the left, where code that takes lengths expects them.

    Args:
        mask: bool `(batch, words)`, True at words.

    Attributes:
        mask: the mask after the move.
        order: `(batch, words)`, the index that each row comes from.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.order = mask.int().argsort(dim=1, descending=True, stable=True)
        self.mask = mask.gather(1, self.order)

    def align(self, rows: torch.Tensor) -> torch.Tensor:
        """Move `(batch, words)` or `(batch, words, width)`."""
        return rows.gather(1, self._index(rows))

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo `align`."""
        return torch.empty_like(rows).scatter(1, self._index(rows), rows)

    def _index(self, rows: torch.Tensor) -> torch.Tensor:
        return self.order if rows.ndim == 2 else self.order[..., None].expand_as(rows)


def run_over_words(lstm: nn.LSTM, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Run one of torch's LSTMs over the words of a mask, wherever the padding stands.

    Args:
        lstm: batch first, in both directions.
        vectors: `(batch, words, width)`.
        mask: bool `(batch, words)`, False at padding.

    Returns:
        `(batch, words, 2 * lstm.hidden_size)`, zero at padding.
    """
    if not mask.numel():
        return vectors.new_zeros(*mask.shape, 2 * lstm.hidden_size)
    rows = LeftAlignment(mask)
    # packing refuses the length 0: the LSTM reads one row there, whose output is masked below.
    lengths = rows.mask.sum(1).clamp(min=1).cpu()
    packed = pack_padded_sequence(
        rows.align(vectors), lengths, batch_first=True, enforce_sorted=False
    )
    outputs, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
    return rows.restore(outputs).masked_fill(~mask[..., None], 0)


__all__ = ["ElmoTaskLstm", "LeftAlignment", "run_over_words"]
