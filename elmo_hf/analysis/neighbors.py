# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Finds the contexts in which words are nearest to a word in its own (the paper's Table 4)."""

import heapq
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .similarity import DIGITS, Place
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
    place: Place


def nearest_contexts(
    vectors: Vectors,
    place: Place,
    sentences: Iterable[Words],
    *,
    count: int = 5,
    same_word: bool = False,
) -> dict[str, list[Neighbor]]:
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
        The neighbors by the name of the layer, nearest first; at most one per sentence.
    """
    query = unit(next(iter(vectors([place.words])))[:, place.position])
    best: list[list] = [[] for _ in vectors.layers]
    given, embedded = itertools.tee(sentences)
    for number, (words, rows) in enumerate(zip(given, vectors(embedded), strict=True)):
        cosines = np.einsum("lwd,ld->lw", unit(rows), query).round(DIGITS)
        if same_word:
            cosines[:, [word != place.word for word in words]] = -np.inf
        for heap, row in zip(best, cosines, strict=True):
            if row.size and np.isfinite(cosine := row.max()):
                item = (float(cosine), -number, Place(words, int(row.argmax())))
                (heapq.heappushpop if len(heap) == count else heapq.heappush)(heap, item)
    return {
        layer: [Neighbor(cosine, -number, found) for cosine, number, found in sorted(heap)[::-1]]
        for layer, heap in zip(vectors.layers, best, strict=True)
    }


__all__ = ["Neighbor", "nearest_contexts"]
