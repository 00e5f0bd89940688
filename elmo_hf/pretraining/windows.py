# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Feeds of pre-training: windows of a text, their order, and the batches made of them.

Words become rows of character ids and labels when a batch is made, by the tokenizer's table of
words met: a small part of a training step.
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
    Windows of whole consecutive sentences of one document, shuffled anew every epoch.

    A window holds as many sentences as fit. A sentence longer than a window is cut into windows
    of its own, of like length; what would be predicted across a cut is not.

    Args:
        stream: the text.
        window: the most words in a window, boundaries included.
        seed: of the order.
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
        """Return the numbers of all windows in the order of this epoch."""
        # Not by length: it saves no time where padding costs none, and batches of few words only
        # are noisy steps.
        return np.random.default_rng([self.seed, self.epoch]).permutation(len(self))


def plan_windows(sentence_lengths: Iterable[int], window: int) -> np.ndarray:
    """Return where each window begins and ends in the stream, `(windows, 2)`."""
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
    Rows that read on where their last window ended, for states carried from window to window.

    As in bilm-tf, each row of a batch walks through a part of the text of its own, sentence after
    sentence, and the two directions read different text. A forward row reads on from window to
    window, a backward row back. Every epoch the parts begin elsewhere.

    Args:
        stream: the text.
        window: words that a row reads at once.
        rows: rows of each direction, those of all processes together.
        seed: of the beginnings.

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
        """Return a forward and a backward row's window; each has one word more, to predict."""
        epoch, place = divmod(index, len(self))
        step, row = divmod(place, self.rows)
        offsets = np.random.default_rng([self.seed, epoch]).integers(len(self.stream), size=2)
        part = len(self.stream) // self.rows
        walked = step * self.window
        begin = int(offsets[0]) + row * part + walked
        end = int(offsets[1]) + (row + 1) * part - walked
        return self._words(begin), self._words(end - self.window - 1)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """Return what to ask for in this epoch: all rows' windows, step by step."""
        return self.epoch * len(self) + np.arange(len(self))

    def _words(self, begin: int) -> list[str]:
        """The text is a ring: its beginning follows its end."""
        begin %= len(self.stream)
        end = begin + self.window + 1
        words = self.stream.words(begin, min(end, len(self.stream)))
        return words + self.stream.words(0, max(0, end - len(self.stream)))


class EpochOrder(Sampler):
    """
    The order that a feed gives its current epoch, batches that are not full left out.

    The epoch is kept by the feed and not here, because of the two accelerate reaches only the
    feed after a resume on several processes.
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
    Makes what `ElmoForPreTraining` takes of the windows of `PackedWindows` or `RowStreams`.

    `input_ids` spell the real words; `labels` `(batch, words)` are their vocabulary ids, that of
    the unknown word for those it lacks. `attention_mask` `(batch, words, 2)` keeps `</S>` from the
    forward direction and `<S>` from the backward one, so that neither reads what can only be
    predicted (bilm-tf). Of row streams the first half of the batch is for the forward direction
    alone, the other for the backward one.

    Args:
        tokenizer: with a vocabulary.
        directions: of the model; for 1, a forward model, the mask is `(batch, words, 1)`.

    Raises:
        ValueError: the tokenizer has no vocabulary.
    """

    def __init__(self, tokenizer: ElmoTokenizer, directions: int = 2) -> None:
        vocabulary = tokenizer.lm_vocab
        if vocabulary is None:
            raise ValueError(
                "the tokenizer has no vocabulary, so there is nothing to predict; build one with "
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
        hidden = torch.tensor([self.eos, self.bos])  # from the forward and the backward direction
        seen = batch["attention_mask"][..., None] * (batch["labels"][..., None] != hidden)
        if by_rows:
            half = len(windows)
            seen[:half, :, 1], seen[half:, :, 0] = 0, 0
            seen[:half, -1, 0], seen[half:, 0, 1] = 0, 0  # there to be predicted
        return {**batch, "attention_mask": seen[..., : self.directions]}


def _require_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")


__all__ = ["EpochOrder", "PackedWindows", "PreTrainingCollator", "RowStreams"]
