# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Disambiguates word senses by the nearest mean vector, as the ELMo paper does (section 5.3)."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .estimates import Estimate, share
from .sources import Vectors, unit

TIE = 1e-6  # cosines that differ by less are equal up to rounding
Predictions = list[list[str | None]]  # by layer, then by instance; None: no answer


class SenseTagged(NamedTuple):
    """
    Class that describes a word, or several words in a row, with its senses.

    Attributes:
        start, stop: the words are `words[start:stop]`; their vectors are averaged.
        lemma: what the senses belong to, with the part of speech, such as `"bank NOUN"`.
        senses: names of the right senses, such as WordNet's sense keys.
    """

    start: int
    stop: int
    lemma: str
    senses: Sequence[str]


class SenseSentence(NamedTuple):
    """A sentence's words, and those of them that have senses."""

    words: Sequence[str]
    tagged: Sequence[SenseTagged]


class SenseVectors:
    """
    Class that learns a mean vector per sense and predicts the sense with the nearest one.

    Each sense's vector is the mean over its training instances. The prediction is the sense of the
    instance's lemma whose mean vector has the largest cosine; among equal ones, up to rounding, the
    most frequent one.

    Args:
        vectors: the source of the vectors.
        train: sentences with senses.
    """

    def __init__(self, vectors: Vectors, train: Sequence[SenseSentence]) -> None:
        self._vectors = vectors
        counts: dict[str, Counter] = defaultdict(Counter)
        sums: dict[tuple[str, str], np.ndarray] = {}
        for one, vector in _instances(vectors, train):
            for sense in one.senses:
                counts[one.lemma][sense] += 1
                key = (one.lemma, sense)
                sums[key] = sums[key] + vector if key in sums else vector
        self.senses = {
            lemma: [sense for sense, _ in counter.most_common()]
            for lemma, counter in counts.items()
        }
        for key, total in sums.items():
            sums[key] = unit(total)
        self._means = sums

    def most_frequent(self) -> dict[str, str]:
        """Return the most frequent sense of each lemma in the training sentences."""
        return {lemma: senses[0] for lemma, senses in self.senses.items()}

    def predict(self, sentences: Sequence[SenseSentence]) -> Predictions:
        """Return each layer's predictions; None for a lemma that the training sentences lack."""
        rows = [self._nearest(one, vector) for one, vector in _instances(self._vectors, sentences)]
        return [[*column] for column in zip(*rows, strict=True)]

    def _nearest(self, one: SenseTagged, vector: np.ndarray) -> Sequence[str | None]:
        senses = self.senses.get(one.lemma)
        if senses is None:
            return [None] * len(self._vectors.layers)
        means = np.stack([self._means[one.lemma, sense] for sense in senses])
        cosines = np.einsum("sld,ld->ls", means, unit(vector))
        best = (cosines > cosines.max(1, keepdims=True) - TIE).argmax(1)
        return [senses[i] for i in best]


def score_senses(
    predictions: Sequence[str | None],
    tagged: Sequence[SenseTagged],
    first_senses: Mapping[str, str] | None = None,
    floor: float | None = None,
) -> Estimate:
    """
    Return the share of instances whose predicted sense is one of the right ones.

    With a back-off for every lemma, precision, recall and F1 are all equal to this share.

    Args:
        predictions: one per instance; None, unless the back-off has an answer, counts as wrong.
        tagged: the instances.
        first_senses: the back-off: the sense to predict for a lemma where the prediction is None.
        floor: see `Estimate`.
    """
    back_off = first_senses or {}
    answers = [
        back_off.get(one.lemma) if sense is None else sense
        for sense, one in zip(predictions, tagged, strict=True)
    ]
    right = [answer in one.senses for answer, one in zip(answers, tagged, strict=True)]
    return share(np.array(right), floor)


def disambiguate(
    vectors: Vectors,
    train: Sequence[SenseSentence],
    test: Sequence[SenseSentence],
    first_senses: Mapping[str, str] | None = None,
) -> dict[str, Estimate]:
    """
    Train on sentences with senses and return each layer's accuracy on others.

    The floor is the accuracy of the most frequent sense in the training sentences, with the same
    back-off.

    Args:
        vectors: the source of the vectors.
        train, test: sentences with senses.
        first_senses: the sense to predict for lemmas that `train` lacks; default: no answer.
    """
    model = SenseVectors(vectors, train)
    tagged = [one for sentence in test for one in sentence.tagged]
    frequent = model.most_frequent()
    floor = score_senses([frequent.get(one.lemma) for one in tagged], tagged, first_senses).value
    return {
        layer: score_senses(predictions, tagged, first_senses, floor)
        for layer, predictions in zip(vectors.layers, model.predict(test), strict=True)
    }


def _instances(
    vectors: Vectors, sentences: Sequence[SenseSentence]
) -> Iterator[tuple[SenseTagged, np.ndarray]]:
    """Yield the instances with their vectors `(layers, dimension)`."""
    layers = vectors(sentence.words for sentence in sentences)
    for sentence, found in zip(sentences, layers, strict=True):
        for one in sentence.tagged:
            yield one, found[:, one.start : one.stop].mean(1)


__all__ = [
    "SenseSentence",
    "SenseTagged",
    "SenseVectors",
    "disambiguate",
    "score_senses",
]
