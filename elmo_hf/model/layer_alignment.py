# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Batches aligned to the left, for layers that know sentence lengths instead of masks."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class LeftAlignment:
    """
    Moves the rows of a mask to the left, where programs that know lengths only expect them.

    Args:
        mask: bool `(batch, words)`.

    Attributes:
        mask: the same, moved.
        order: `(batch, words)`, the place that each row comes from.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.order = mask.int().argsort(dim=1, descending=True, stable=True)
        self.mask = mask.gather(1, self.order)

    def align(self, rows: torch.Tensor) -> torch.Tensor:
        """Move `(batch, words)` or `(batch, words, width)`."""
        return rows.gather(1, self._index(rows))

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """The way back from `align`."""
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
    # A sentence of padding alone is read as one word, and what comes out thrown away.
    lengths = rows.mask.sum(1).clamp(min=1).cpu()
    packed = pack_padded_sequence(
        rows.align(vectors), lengths, batch_first=True, enforce_sorted=False
    )
    outputs, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
    return rows.restore(outputs).masked_fill(~mask[..., None], 0)


__all__ = ["LeftAlignment", "run_over_words"]
