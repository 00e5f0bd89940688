# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Run torch's LSTMs over sentences with padding anywhere, by moving the words to the left."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class ElmoTaskLstm(nn.Module):
    """
    Bidirectional LSTM of a task head, with dropout on its output.

    Args:
        input_size: width of the input vectors.
        hidden_size: width of each direction's output.
        dropout: dropout probability.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map `(batch, words, input_size)` to `(batch, words, 2 * hidden_size)`, 0 at padding."""
        return self.dropout(run_over_words(self.lstm, vectors, mask))


class LeftAlignment:
    """
    Class that moves the words of each sentence to the left, for code that expects lengths.

    Args:
        mask: bool `(batch, words)`, True at words.

    Attributes:
        mask: the left-aligned mask.
        order: `(batch, words)`, the original position of each left-aligned word.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.order = mask.int().argsort(dim=1, descending=True, stable=True)
        self.mask = mask.gather(1, self.order)

    def align(self, padded: torch.Tensor) -> torch.Tensor:
        """Left-align `(batch, words)` or `(batch, words, width)`."""
        return padded.gather(1, self._index(padded))

    def restore(self, aligned: torch.Tensor) -> torch.Tensor:
        """Undo `align`."""
        return torch.empty_like(aligned).scatter(1, self._index(aligned), aligned)

    def _index(self, values: torch.Tensor) -> torch.Tensor:
        return self.order if values.ndim == 2 else self.order[..., None].expand_as(values)


def run_over_words(lstm: nn.LSTM, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Run a torch LSTM over the words of each sentence, wherever the padding is.

    Args:
        lstm: with `batch_first=True` and `bidirectional=True`.
        vectors: `(batch, words, width)`.
        mask: bool `(batch, words)`, False at padding.

    Returns:
        `(batch, words, 2 * lstm.hidden_size)`, zero at padding.
    """
    if not mask.numel():
        return vectors.new_zeros(*mask.shape, 2 * lstm.hidden_size)
    left = LeftAlignment(mask)
    # Packing refuses length 0, so the LSTM reads one padding vector; its output is masked below.
    lengths = left.mask.sum(1).clamp(min=1).cpu()
    packed = pack_padded_sequence(
        left.align(vectors), lengths, batch_first=True, enforce_sorted=False
    )
    outputs, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
    return left.restore(outputs).masked_fill(~mask[..., None], 0)


__all__ = ["ElmoTaskLstm", "LeftAlignment", "run_over_words"]
