# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Finds the contexts in which words are nearest to a word in its own (the paper's Table 4)."""

import heapq
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .similarity import DIGITS, WordInSentence
from .sources import Vectors, Words, unit


class Neighbor(NamedTuple):
    """
    A word in its sentence, and its cosine with the word that was asked for.

    Attributes:
        cosine: the cosine of the two vectors.
        sentence: number of the sentence.
        place: the sentence's words and the word's position.
    """

    cosine: float
    sentence: int
    place: WordInSentence


class Nearest:
    """
    Class that keeps the nearest of all words that it is shown.

    Args:
        query: the vector that words are compared with.
        count: number of words to keep.
        word: compare only words of this form; default: all.

    Attributes:
        compared: number of words that were compared.
    """

    def __init__(self, query: np.ndarray, count: int, word: str | None = None) -> None:
        self._query, self._count, self._word = unit(query), count, word
        self._kept: list[tuple[float, int, int, Words]] = []
        self._total, self.compared = 0.0, 0

    def add(self, sentence: int, words: Words, vectors: np.ndarray) -> None:
        """
        Compare the words of a sentence.

        Args:
            sentence: number of the sentence; numbers increase.
            words: its words.
            vectors: their vectors, `(words, dimension)`.
        """
        cosines = (unit(vectors) @ self._query).round(DIGITS).tolist()
        for position, (word, cosine) in enumerate(zip(words, cosines, strict=True)):
            if self._word not in (None, word):
                continue
            self._total, self.compared = self._total + cosine, self.compared + 1
            item = (cosine, -sentence, -position, words)  # of equals, the first is kept
            if len(self._kept) < self._count:
                heapq.heappush(self._kept, item)
            elif item[:3] > self._kept[0][:3]:
                heapq.heapreplace(self._kept, item)

    @property
    def neighbors(self) -> list[Neighbor]:
        """The words that were kept, nearest first."""
        return [
            Neighbor(cosine, -sentence, WordInSentence(words, -position))
            for cosine, sentence, position, words in sorted(self._kept, reverse=True)
        ]

    @property
    def mean(self) -> float:
        """Mean cosine of all words that were compared; NaN if there are none."""
        return self._total / self.compared if self.compared else float("nan")


def nearest_contexts(
    vectors: Vectors,
    place: WordInSentence,
    sentences: Iterable[Words],
    *,
    count: int = 5,
    same_word: bool = False,
) -> dict[str, Nearest]:
    """
    Find the words of a text that are nearest to a word in its sentence, in each layer.

    Each word of the text is compared in its own sentence. The text may be of any size.

    Args:
        vectors: the source of the vectors.
        place: the word that is asked for.
        sentences: the text to search, sentence by sentence.
        count: number of neighbors per layer.
        same_word: search other places of the same word form only.

    Returns:
        By the name of the layer: `neighbors`, nearest first, and for comparison the `mean` cosine.
    """
    (query,) = vectors([place.words])
    word = place.word if same_word else None
    found = [Nearest(row, count, word) for row in query[:, place.position]]
    given, embedded = itertools.tee(sentences)
    for number, (words, layers) in enumerate(zip(given, vectors(embedded), strict=True)):
        for nearest, rows in zip(found, layers, strict=True):
            nearest.add(number, words, rows)
    return dict(zip(vectors.layers, found, strict=True))


__all__ = ["Nearest", "Neighbor", "nearest_contexts"]
