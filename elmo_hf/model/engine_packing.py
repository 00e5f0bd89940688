# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Packing of padded batches for an LSTM: no padding, ordered by step, longest sentences first."""

import numpy as np
import torch

FRESH = torch.contiguous_format  # forces a copy, also for a single sentence


class Packing:
    """
    Class that removes the padding of a batch, wherever it is, and orders the words by step.

    As in `torch.nn.utils.rnn.PackedSequence`, sentences are sorted by length, longest first; the
    first words of all sentences come first, then all second words, and so on. If `reverse`, each
    sentence is read from its last word. So the sentences of step t are the first `sizes[t]`
    sentences of step t - 1.

    Args:
        mask: bool `(batch, words)`, False at padding, on the device of the tensors to pack.
        reverse: read from the last word to the first.

    Attributes:
        sizes: number of sentences at each step, all positive.
        offsets: index of each step's first packed word.
        places: `(packed words,)`, indices into the flattened batch; None if there is no padding.
        order: `(batch,)`, indices of the sentences sorted by length; None: unchanged order.
        lengths: number of words of each sorted sentence.
    """

    def __init__(self, mask: torch.Tensor, reverse: bool) -> None:
        self.batch, self.words = mask.shape
        self.reverse = reverse
        self.places: torch.Tensor | None = None
        self.order: torch.Tensor | None = None
        self.device = mask.device
        valid = mask.cpu().numpy()
        if valid.all():
            self.lengths = np.full(self.batch, self.words)
            self.sizes = [self.batch] * (self.words if self.batch else 0)
        else:
            self.lengths, self.sizes = self._sort(valid)
        self.offsets = np.cumsum([0, *self.sizes])

    def _sort(self, valid: np.ndarray) -> tuple[np.ndarray, list[int]]:
        lengths = valid.sum(1)
        if self.batch > 1:
            order = np.argsort(-lengths, kind="stable")
            self.order = torch.from_numpy(order).to(self.device)
            lengths = lengths[order]
        else:
            order = np.zeros(self.batch, np.int64)
        rows, columns = np.nonzero(valid[order])
        steps = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        if self.reverse:
            steps = lengths[rows] - 1 - steps
        by_step = np.argsort(steps, kind="stable")
        places = torch.from_numpy((order[rows] * self.words + columns)[by_step])
        self.places = places.to(self.device)
        return lengths, np.bincount(steps).tolist()

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Pack `(batch, words, ...)` to `(packed words, ...)`."""
        if self.places is not None:
            return padded.flatten(0, 1).index_select(0, self.places)
        if self.reverse:
            padded = padded.flip(1)
        return padded.transpose(0, 1).flatten(0, 1)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Unpack `(packed words, width)` to `(batch, words, width)`, zero at padding."""
        width = packed.shape[1]
        if self.places is not None:
            padded = packed.new_zeros(self.batch * self.words, width)
            return padded.index_copy_(0, self.places, packed).view(self.batch, self.words, width)
        padded = packed.view(self.words, self.batch, width).transpose(0, 1)
        return padded.flip(1) if self.reverse else padded.clone(memory_format=FRESH)

    def sort_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Sort `(batch, ...)` by length; return the same tensor if the order is unchanged."""
        return rows if self.order is None else rows.index_select(0, self.order)

    def unsort_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo `sort_rows`."""
        if self.order is None:
            return rows
        return torch.empty_like(rows).index_copy_(0, self.order, rows)

    def last_words(self) -> tuple[torch.Tensor, int]:
        """Return each nonempty sorted sentence's last packed index, and the number of these."""
        alive = int(np.count_nonzero(self.lengths))
        places = self.offsets[self.lengths[:alive] - 1] + np.arange(alive)
        return torch.from_numpy(places), alive


__all__ = ["Packing"]
