# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Learn how the vectors of one language map to those of another (Schuster et al. 2019)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..conversion.alignment import align
from ..extras import require
from .sources import Vectors, Words, unit

NEIGHBORS = 10  # of a word, for CSLS
FREQUENT = 2_000  # words that further rounds pair
BATCH = 2048  # words whose similarities to all others are computed at once


class Anchors(NamedTuple):
    """
    The mean vector of each word over its sentences.

    Attributes:
        words: the words in lower case, the most frequent first.
        vectors: `(layers, words, dimension)`.
    """

    words: list[str]
    vectors: np.ndarray


def find_anchors(
    vectors: Vectors, sentences: Sequence[Words], *, min_count: int = 5, most: int = 10_000
) -> Anchors:
    """
    Average the vectors of each word over all its sentences, in each layer.

    Args:
        vectors: the source of the vectors.
        sentences: lists of words; words that differ in capitals only count as one.
        min_count: rarer words have no anchor.
        most: the maximal number of words.

    Raises:
        ValueError: no word is frequent enough.
    """
    counts = Counter(word.lower() for words in sentences for word in words)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    words = [word for word, count in frequent if count >= min_count]
    if not words:
        raise ValueError(f"no word occurs {min_count} times; pass more sentences")
    index = {word: i for i, word in enumerate(words)}
    sums: np.ndarray | None = None
    for sentence, rows in zip(sentences, vectors(sentences), strict=True):
        if sums is None:
            sums = np.zeros((len(words), len(rows), rows.shape[-1]))
        for i, word in enumerate(sentence):
            if (found := index.get(word.lower())) is not None:
                sums[found] += rows[:, i]
    assert sums is not None
    totals = np.array([counts[word] for word in words])
    means = sums / totals[:, None, None]
    return Anchors(words, np.ascontiguousarray(means.swapaxes(0, 1), np.float32))


def learn_alignment(
    source: Anchors,
    target: Anchors,
    pairs: Sequence[tuple[str, str]],
    *,
    rounds: int = 0,
    directions: bool = False,
) -> dict[int, torch.Tensor]:
    """
    Learn for each layer the rotation that maps the source language to the target language.

    The rotation is the orthogonal matrix that brings the anchors of the pairs closest together
    (Procrustes; anchors are scaled to length 1). Each further round learns it again, from the pairs
    of words that are each other's nearest neighbour after the round before.

    Args:
        source, target: anchors of both languages, from models with the same layers.
        pairs: a dictionary of source and target words; pairs with an unknown word are left out.
        rounds: number of further rounds.
        directions: rotate the forward and the backward half of each vector separately. This has
            half as many parameters, which helps if there are few pairs.

    Returns:
        A matrix `(dimension, dimension)` per layer; `elmo_hf.conversion.alignment` applies it to
        hidden states and stores it.

    Raises:
        ValueError: the models differ in layers or dimension, or fewer than two pairs are known.
    """
    if source.vectors.shape[::2] != target.vectors.shape[::2]:
        shapes = " and ".join(
            f"{a.vectors.shape[0]} layers of {a.vectors.shape[2]}" for a in (source, target)
        )
        raise ValueError(f"the anchors have {shapes}; expected equal layers and dimensions")
    rows, columns = _known(source.words, target.words, pairs)
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} of {len(pairs)} pairs have anchors for both words; pass more pairs, in "
            "lower case, as (source word, target word)"
        )
    found = {}
    for layer, (own, other) in enumerate(zip(source.vectors, target.vectors, strict=True)):
        own, other = unit(own), unit(other)
        rotation = _rotate(own[rows], other[columns], directions)
        for _ in range(rounds):
            rotation = _rotate(*_mutual(own, other, rotation), directions)
        found[layer] = torch.from_numpy(rotation.T.copy())
    return found


def translate(
    source: Anchors,
    target: Anchors,
    words: Sequence[str],
    layer: int,
    alignment: Mapping[int, torch.Tensor] | None = None,
    *,
    count: int = 5,
) -> list[list[str]]:
    """
    Return the target words that are nearest to each source word by CSLS (Conneau et al. 2018).

    CSLS is the cosine, corrected for words that are near to everything.

    Args:
        source, target: anchors of both languages.
        words: source words that have anchors.
        layer: the layer that is compared.
        alignment: matrices by layer, from `learn_alignment`; None: compare the vectors as they are.
        count: number of words to return, the nearest first.

    Raises:
        ValueError: a word has no anchor, or the alignment lacks the layer.
    """
    index = {word: i for i, word in enumerate(source.words)}
    if missing := [word for word in words if word not in index]:
        raise ValueError(f"no anchor for {', '.join(missing[:5])}; leave these words out")
    if alignment is not None and layer not in alignment:
        raise ValueError(f"the alignment has layers {sorted(alignment)}, not {layer}")
    own, other = unit(source.vectors[layer]), unit(target.vectors[layer])
    if alignment is not None:
        own = own @ alignment[layer].numpy().T
    scores = _csls(own, other, np.array([index[word] for word in words], int))
    nearest = np.argsort(-scores, axis=1)[:, :count]
    return [[target.words[i] for i in row] for row in nearest]


class AlignedVectors:
    """
    Class that maps another source's vectors with an alignment, for every measure and probe.

    Args:
        vectors: the source.
        alignment: matrices by layer; other layers are left as they are.
    """

    def __init__(self, vectors: Vectors, alignment: Mapping[int, torch.Tensor]) -> None:
        self._vectors, self._alignment = vectors, dict(alignment)
        self.name, self.layers = f"{vectors.name}, aligned", vectors.layers

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence, as `Vectors` says."""
        for layers in self._vectors(sentences):
            yield torch.stack(align([*torch.from_numpy(layers)], self._alignment)).numpy()


def _known(
    sources: Sequence[str], targets: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int]]:
    """Return the indices of the pairs of which both words are known."""
    own, other = ({word: i for i, word in enumerate(words)} for words in (sources, targets))
    found = [(own[a], other[b]) for a, b in pairs if a in own and b in other]
    return [a for a, _ in found], [b for _, b in found]


def _rotate(own: np.ndarray, other: np.ndarray, directions: bool) -> np.ndarray:
    """Return the orthogonal matrix with `own @ matrix` closest to `other`."""
    linear = require("scipy.linalg", "analysis")
    parts = zip(*(np.split(rows, 1 + directions, axis=1) for rows in (own, other)), strict=True)
    return linear.block_diag(*(linear.orthogonal_procrustes(*part)[0] for part in parts))


def _mutual(
    own: np.ndarray, other: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of frequent words that are each other's nearest neighbours."""
    own, other = own[:FREQUENT], other[:FREQUENT]
    scores = _csls(own @ rotation, other, np.arange(len(own)))
    forward, backward = scores.argmax(1), scores.argmax(0)
    rows = np.flatnonzero(backward[forward] == np.arange(len(own)))
    return own[rows], other[forward[rows]]


def _csls(own: np.ndarray, other: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return twice the cosines of the rows, minus the mean cosine with the nearest neighbours."""
    return 2 * own[rows] @ other.T - _density(own[rows], other)[:, None] - _density(other, own)


def _density(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean cosine of each row with its nearest neighbours in the other language."""
    count = min(NEIGHBORS, len(other))
    parts = (own[start : start + BATCH] @ other.T for start in range(0, len(own), BATCH))
    return np.concatenate([np.partition(part, -count)[:, -count:].mean(1) for part in parts])


__all__ = ["AlignedVectors", "Anchors", "find_anchors", "learn_alignment", "translate"]
