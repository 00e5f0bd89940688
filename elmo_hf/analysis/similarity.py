# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""How similar are two words, or one word twice, each in its sentence?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..extras import require
from .estimates import Estimate, bootstrap, share
from .sources import Vectors, Words, unit

DIGITS = 6  # of a cosine; the same vector computed in two batches differs by rounding


class WordInSentence(NamedTuple):
    """A word in its sentence: the sentence's words, and the word's position, from 0."""

    words: Words
    position: int

    @property
    def word(self) -> str:
        """The word itself."""
        return self.words[self.position]


class Pair(NamedTuple):
    """Two words in their sentences, and what people said: same meaning or not, or a rating."""

    first: WordInSentence
    second: WordInSentence
    gold: float

    def has_one_form(self) -> bool:
        """Whether both places have the same word form, and so the same vector in layer 0."""
        return self.first.word == self.second.word


@dataclass(frozen=True)
class Cosines:
    """
    The cosines of pairs, layer by layer.

    Attributes:
        layers: names of the layers.
        values: `(layers, pairs)`.
        floors: the same for another word of each sentence, drawn at random.
        gold: what people said, `(pairs,)`.
        seed: seed of the random words.
    """

    layers: Sequence[str]
    values: np.ndarray
    floors: np.ndarray
    gold: np.ndarray
    seed: int

    def select(self, chosen: np.ndarray) -> "Cosines":
        """Return the cosines of the pairs where `chosen` is True."""
        values, floors = self.values[:, chosen], self.floors[:, chosen]
        return replace(self, values=values, floors=floors, gold=self.gold[chosen])

    def mean(self) -> dict[str, Estimate]:
        """Return the mean cosine of each layer; the floor is that of random words."""
        rows = zip(self.layers, self.values, self.floors, strict=True)
        return {
            layer: bootstrap(np.mean, values, floor=float(floors.mean()), seed=self.seed)
            for layer, values, floors in rows
        }


@dataclass(frozen=True)
class PairVectors:
    """
    The vectors of pairs of words.

    Attributes:
        layers: names of the layers.
        words: `(layers, 2, pairs, dimension)`.
        others: the same for another word of each sentence, drawn at random.
        gold: what people said, `(pairs,)`.
        seed: seed of the random words.
    """

    layers: Sequence[str]
    words: np.ndarray
    others: np.ndarray
    gold: np.ndarray
    seed: int

    def cosines(self, *, center: bool = False) -> Cosines:
        """
        Return the cosine of the two words of each pair.

        Args:
            center: subtract the layer's mean vector over all words of the pairs first. In many
                models all vectors share a direction, which raises every cosine.
        """
        average = self.words.mean((1, 2), keepdims=True) * center
        values, floors = _cosines(self.words - average), _cosines(self.others - average)
        return Cosines(self.layers, values, floors, self.gold, self.seed)


def pair_cosines(
    vectors: Vectors, pairs: Sequence[Pair], *, center: bool = False, seed: int = 0
) -> Cosines:
    """
    Compute the cosine of the words of each pair.

    Args:
        vectors: the source of the vectors.
        pairs: words in their sentences.
        center: see `PairVectors.cosines`.
        seed: seed of the random words for the floor.

    Raises:
        ValueError: a position is outside of its sentence, or there are no pairs.
    """
    return embed_pairs(vectors, pairs, seed=seed).cosines(center=center)


def embed_pairs(vectors: Vectors, pairs: Sequence[Pair], *, seed: int = 0) -> PairVectors:
    """Compute the vectors of the words of each pair; see `pair_cosines`."""
    places = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    _check(places)
    words, others = _pick(vectors, places, np.random.default_rng(seed))
    shape = (len(vectors.layers), 2, len(pairs), -1)
    gold = np.array([pair.gold for pair in pairs])
    return PairVectors(vectors.layers, words.reshape(shape), others.reshape(shape), gold, seed)


def same_sense_accuracy(tune: Cosines, test: Cosines) -> dict[str, Estimate]:
    """
    Predict from the cosine whether a word has the same sense twice; return each layer's accuracy.

    The threshold with the best accuracy on `tune` is used, as for WiC (Pilehvar and
    Camacho-Collados 2019). The floor is the accuracy of random words of the same sentences.

    Args:
        tune: cosines of the development part; `gold` is 1 for the same sense, else 0.
        test: cosines of the test part.

    Raises:
        ValueError: all pairs of `tune` have the same sense, or none has.
    """
    _check_senses(tune)
    found = {}
    for i, layer in enumerate(test.layers):
        right = _apply(tune.values[i], tune.gold, test.values[i], test.gold)
        random = _apply(tune.floors[i], tune.gold, test.floors[i], test.gold)
        found[layer] = share(right, float(random.mean()), test.seed)
    return found


def same_sense_auc(test: Cosines) -> dict[str, Estimate]:
    """
    Return how often a pair of the same sense has a higher cosine than one of different senses.

    This is the area under the ROC curve: 0.5 is chance, and ties count half. It needs no threshold.

    Raises:
        ValueError: all pairs have the same sense, or none has.
    """
    _check_senses(test)

    def compute(values: np.ndarray) -> Estimate:
        same, different = values[test.gold == 1], values[test.gold == 0]
        return bootstrap(_area, same, different, seed=test.seed)

    rows = zip(test.layers, test.values, test.floors, strict=True)
    return {
        layer: replace(compute(values), floor=compute(floors).value)
        for layer, values, floors in rows
    }


def rating_correlation(rated: Cosines) -> dict[str, Estimate]:
    """
    Return Spearman's correlation of the cosines with people's ratings.

    For SCWS (Huang et al. 2012) and other ratings of words in context. The floor is the correlation
    of random words of the same sentences.
    """
    found = {}
    for layer, values, floors in zip(rated.layers, rated.values, rated.floors, strict=True):
        floor = _spearman(floors, rated.gold)
        found[layer] = bootstrap(
            _spearman, values, rated.gold, paired=True, floor=floor, seed=rated.seed
        )
    return found


def rating_change_correlation(first: Cosines, second: Cosines) -> dict[str, Estimate]:
    """
    Return how well a change of context changes the cosines as it changes people's ratings.

    The measure is the uncentered correlation of the changes (CoSimLex, Armendariz et al. 2020).

    Args:
        first: cosines and ratings of word pairs in one context.
        second: the same pairs in another context.
    """
    gold = second.gold - first.gold
    found = {}
    for i, layer in enumerate(first.layers):
        floor = _uncentered(second.floors[i] - first.floors[i], gold)
        moved = second.values[i] - first.values[i]
        found[layer] = bootstrap(
            _uncentered, moved, gold, paired=True, floor=floor, seed=first.seed
        )
    return found


def _check_senses(pairs: Cosines) -> None:
    if len({*pairs.gold.tolist()} & {0, 1}) < 2:
        raise ValueError("gold has one value only; expected pairs of gold 1 and of gold 0")


def _check(places: Sequence[WordInSentence]) -> None:
    if not places:
        raise ValueError("pairs is empty; pass at least one pair")
    for words, position in places:
        if not 0 <= position < len(words):
            raise ValueError(
                f"the position {position} is outside of the sentence {' '.join(words)!r:.60}, "
                f"which has {len(words)} words; positions start at 0"
            )


def _pick(
    vectors: Vectors, places: Sequence[WordInSentence], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors `(layers, places, dimension)` of the places and of random words there."""
    wanted = defaultdict(list)  # each sentence is embedded once
    for number, place in enumerate(places):
        wanted[tuple(place.words)].append(number)
    words: list[Any] = [None] * len(places)
    others: list[Any] = [None] * len(places)
    for (sentence, numbers), layers in zip(wanted.items(), vectors(wanted), strict=True):
        for number in numbers:
            position = places[number].position
            step = rng.integers(1, len(sentence)) if len(sentence) > 1 else 0
            words[number] = layers[:, position]
            others[number] = layers[:, (position + step) % len(sentence)]
    return np.stack(words, 1), np.stack(others, 1)


def _cosines(words: np.ndarray) -> np.ndarray:
    first, second = np.moveaxis(unit(words), 1, 0)
    return np.einsum("lpd,lpd->lp", first, second, dtype=np.float64).round(DIGITS)


def _apply(tune: np.ndarray, gold: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return which test pairs the best threshold of the tuning pairs gets right."""
    metrics = require("sklearn.metrics", "analysis")
    wrong, right, thresholds = metrics.roc_curve(gold, tune, drop_intermediate=False)
    correct = right * (gold == 1).sum() - wrong * (gold == 0).sum()
    return (test >= thresholds[correct.argmax()]) == (wanted == 1)


def _area(same: np.ndarray, different: np.ndarray, axis: int = -1) -> np.ndarray:
    stats = require("scipy.stats", "analysis")
    wins = stats.mannwhitneyu(same, different, axis=axis, method="asymptotic").statistic
    return wins / (same.shape[axis] * different.shape[axis])


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return the rank correlation; 0 where one side is constant."""
    stats = require("scipy.stats", "analysis")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def _uncentered(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation around 0 instead of the means; 0 where one side is 0 throughout."""
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length else 0.0


__all__ = [
    "Cosines",
    "Pair",
    "PairVectors",
    "WordInSentence",
    "embed_pairs",
    "pair_cosines",
    "rating_change_correlation",
    "rating_correlation",
    "same_sense_accuracy",
    "same_sense_auc",
]
