# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Cut a text into windows for pre-training, order them, and collate them into batches.

Words become character ids and labels when a batch is collated. This takes a small part of a
training step because the tokenizer caches the ids of words.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..model.tokenization_elmo import ElmoTokenizer
from .corpora import WordStream


class PackedWindows(Dataset):
    """
    Class that cuts a text into windows of whole sentences and shuffles them in every epoch.

    A window contains as many consecutive sentences of one document as fit. A sentence longer than
    a window is cut into several windows of about equal length; no word is predicted across a cut.

    Args:
        stream: the text.
        window: the maximal number of words in a window, boundaries included.
        seed: seed of the order.
    """

    def __init__(self, stream: WordStream, window: int = 128, seed: int = 0) -> None:
        _require_at_least(4, window=window)
        self.stream, self.seed, self.epoch = stream, seed, 0
        self.bounds = plan_windows(stream.sentence_lengths, window)  # (windows, 2)

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, index: int) -> list[str]:
        return self.stream.words(*self.bounds[index].tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """Return the indices of all windows in the order of this epoch."""
        # Not grouped by length: the engines skip padding, so this would save no time, and batches
        # of short windows have noisy gradients.
        return np.random.default_rng([self.seed, self.epoch]).permutation(len(self))


def plan_windows(sentence_lengths: Iterable[int], window: int) -> np.ndarray:
    """Return the first position of each window and the one after its last, `(windows, 2)`."""
    bounds, begin, end = [], 0, 0
    for length in np.asarray(sentence_lengths).tolist():
        if end > begin and (length == 0 or end + length - begin > window):
            bounds.append((begin, end))
            begin = end
        end += length
        if end - begin > window:
            pieces = -(-length // window)
            cuts = [begin + length * i // pieces for i in range(pieces + 1)]
            bounds += pairwise(cuts)
            begin = end
    if end > begin:
        bounds.append((begin, end))
    return np.array(bounds, np.int64).reshape(-1, 2)


class RowStreams(Dataset):
    """
    Class that makes each row continue where its last window ended, so that states are carried.

    As in bilm-tf, each row of a batch reads its own part of the text, and the two directions read
    different text. A forward row moves forward from window to window, a backward row moves
    backward. In every epoch the parts begin at different words.

    Args:
        stream: the text.
        window: words per row and step.
        rows: rows of each direction, summed over all processes.
        seed: seed of the positions where the parts begin.

    Raises:
        ValueError: the text is too short for one window in each row.
    """

    def __init__(self, stream: WordStream, window: int = 20, rows: int = 1, seed: int = 0) -> None:
        _require_at_least(1, window=window, rows=rows)
        self.stream, self.window, self.rows, self.seed, self.epoch = stream, window, rows, seed, 0
        # A row also sees the word beyond its window, which it predicts.
        self.steps = (len(stream) // rows - 1) // window
        if self.steps < 1:
            raise ValueError(
                f"the text has {len(stream):,} words, too few for {rows} rows of {window}; use "
                "fewer or shorter rows, or more text"
            )

    def __len__(self) -> int:
        return self.steps * self.rows

    def __getitem__(self, index: int) -> tuple[list[str], list[str]]:
        """Return the windows of a forward and a backward row, each plus one word to predict."""
        epoch, position = divmod(index, len(self))
        step, row = divmod(position, self.rows)
        offsets = np.random.default_rng([self.seed, epoch]).integers(len(self.stream), size=2)
        part = len(self.stream) // self.rows
        walked = step * self.window
        begin = int(offsets[0]) + row * part + walked
        end = int(offsets[1]) + (row + 1) * part - walked
        return self._words(begin), self._words(end - self.window - 1)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """Return the indices of this epoch: the windows of all rows, step by step."""
        return self.epoch * len(self) + np.arange(len(self))

    def _words(self, begin: int) -> list[str]:
        """Return `window + 1` words from `begin`; the text's beginning follows its end."""
        begin %= len(self.stream)
        end = begin + self.window + 1
        words = self.stream.words(begin, min(end, len(self.stream)))
        return words + self.stream.words(0, max(0, end - len(self.stream)))


class EpochOrder(Sampler):
    """
    Sampler that yields a dataset's indices in this epoch's order, without a partial last batch.

    The epoch is stored in the dataset, not in this sampler: when several processes resume,
    accelerate sets the epoch of the dataset only.
    """

    def __init__(self, feed: PackedWindows | RowStreams, batch_size: int) -> None:
        self.feed = feed
        self.length = max(len(feed) // batch_size * batch_size, min(len(feed), batch_size))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self.feed.order()[: self.length].tolist())


class PreTrainingCollator:
    """
    Class that collates windows of `PackedWindows` or `RowStreams` for `ElmoForPreTraining`.

    `input_ids` are the characters of the words. `labels` `(batch, words)` are their vocabulary
    ids; words outside the vocabulary have the id of the unknown word. `attention_mask`
    `(batch, words, 2)` hides `</S>` from the forward direction and `<S>` from the backward one:
    each is predicted but never read (bilm-tf). With row streams the forward direction reads the
    first half of the batch, the backward direction the second half.

    Args:
        tokenizer: a tokenizer with a vocabulary.
        directions: the model's number of directions. With 1, a forward model, the mask is
            `(batch, words, 1)`.

    Raises:
        ValueError: the tokenizer has no vocabulary.
    """

    def __init__(self, tokenizer: ElmoTokenizer, directions: int = 2) -> None:
        vocabulary = tokenizer.lm_vocab
        if vocabulary is None:
            raise ValueError(
                "the tokenizer has no vocabulary, but its words are the labels; build one with "
                "build_vocabulary and pass it as ElmoTokenizer(lm_vocab=...)"
            )
        self.tokenizer, self.directions = tokenizer, directions
        words = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.word_unk_token]
        self.bos, self.eos, self.unknown = map(vocabulary.index, words)

    def __call__(self, windows: list[Any]) -> dict[str, torch.Tensor]:
        by_rows = isinstance(windows[0], tuple)
        texts = list(chain(*zip(*windows, strict=True))) if by_rows else windows
        batch = self.tokenizer(
            texts,
            is_split_into_words=True,
            add_special_tokens=False,
            padding=True,
            return_lm_labels=True,
            return_tensors="pt",
        )
        hidden = torch.tensor([self.eos, self.bos])  # per direction: forward, backward
        seen = batch["attention_mask"][..., None] * (batch["labels"][..., None] != hidden)
        if by_rows:
            half = len(windows)
            seen[:half, :, 1], seen[half:, :, 0] = 0, 0
            seen[:half, -1, 0], seen[half:, 0, 1] = 0, 0  # predicted, never read
        return {**batch, "attention_mask": seen[..., : self.directions]}


def _require_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")


__all__ = ["EpochOrder", "PackedWindows", "PreTrainingCollator", "RowStreams"]
