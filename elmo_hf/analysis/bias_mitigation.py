# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Changes vectors so that they tell less about gender, and measures what that costs."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..extras import require
from .bias_data import PersonSentence
from .estimates import Estimate, mean, share
from .sources import Vectors, Words

FOLDS = 5
# After "her" they show that it is no possessive: "her" is then "him", and else "his".
NOT_POSSESSED = re.compile(
    r"\W.*|a|about|after|again|all|an|and|as|at|away|back|because|before|but|by|during|for|from|how|"
    r"if|in|into|it|not|nothing|of|on|or|over|so|some|something|than|that|the|then|through|to|too|"
    r"until|up|well|what|when|where|while|with",
    re.IGNORECASE,
)


class SwapAverages:
    """
    Class that averages each sentence's vectors with those of its gender-swapped twin.

    The twin is the sentence in which each gendered word is replaced by its counterpart (test-time
    neutralization, Zhao et al. 2019). Each word's vector thus costs two sentences. What the rest of
    a sentence, or a word's own vector, tells about gender stays.

    Args:
        vectors: the source of the vectors.
        swaps: the counterpart of each gendered word, in lower case; for instance those of WinoBias.
    """

    def __init__(self, vectors: Vectors, swaps: Mapping[str, str]) -> None:
        self._vectors, self._swaps = vectors, swaps
        self.name, self.layers = f"{vectors.name}, swap averages", vectors.layers

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence, as `Vectors` says."""
        twins = (twin for words in sentences for twin in (words, swap_gender(words, self._swaps)))
        rows = iter(self._vectors(twins))
        for first in rows:
            yield (first + next(rows)) / 2


def swap_gender(words: Words, swaps: Mapping[str, str]) -> list[str]:
    """
    Replace each gendered word by its counterpart.

    "her" becomes "his", or "him" before punctuation and some function words: a rule of thumb.
    """
    swapped = []
    for word, following in zip(words, [*words[1:], "."], strict=False):
        lower = word.lower()
        other = swaps.get(lower, word)
        if lower == "her":
            other = "him" if NOT_POSSESSED.fullmatch(following) else "his"
        swapped.append(other.capitalize() if other != word and word[:1].isupper() else other)
    return swapped


def fit_eraser(rows: np.ndarray, labels: Sequence[bool]) -> Callable[[np.ndarray], np.ndarray]:
    """
    Return a function that erases from vectors what a linear classifier could learn of two labels.

    It is LEACE (Belrose et al. 2023): on the given vectors, no linear classifier is better than a
    constant afterwards. Other classifiers, and labels that go with these ones, may still be.

    Args:
        rows: the vectors, `(words, dimension)`.
        labels: the label of each.

    Returns:
        A function from `(..., dimension)` to the same shape.
    """
    erasure = require("concept_erasure", "analysis")
    concept = torch.tensor([*labels], dtype=torch.float64)
    eraser = erasure.LeaceEraser.fit(torch.from_numpy(rows).double(), concept)

    def erase(vectors: np.ndarray) -> np.ndarray:
        return eraser(torch.from_numpy(np.ascontiguousarray(vectors)).double()).float().numpy()

    return erase


class Erased:
    """
    Class that applies a function of its own, such as an eraser, to the vectors of each layer.

    Args:
        vectors: the source of the vectors.
        erasers: a function for each layer.
    """

    def __init__(
        self, vectors: Vectors, erasers: Sequence[Callable[[np.ndarray], np.ndarray]]
    ) -> None:
        self._vectors, self._erasers = vectors, erasers
        self.name, self.layers = f"{vectors.name}, LEACE", vectors.layers

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence, as `Vectors` says."""
        for layers in self._vectors(sentences):
            pairs = zip(self._erasers, layers, strict=True)
            yield np.stack([erase(rows) for erase, rows in pairs])


class Recovered(NamedTuple):
    """
    What fresh classifiers find in the vectors of occupations, in sentences of WinoBias.

    Attributes:
        linear: accuracy of a linear classifier of the gender of the occupation's pronoun, trained
            on the development part, on the test part. Chance is 0.5.
        kernel: the same of a support vector machine with a Gaussian kernel.
        stereotype: accuracy of a linear classifier that tells whether an occupation that it has
            not seen is stereotypically female, mean over occupations. Chance is 0.5.
    """

    linear: Estimate
    kernel: Estimate
    stereotype: Estimate


def recover_gender(
    vectors: Vectors,
    train: Sequence[PersonSentence],
    test: Sequence[PersonSentence],
    stereotypes: Mapping[str, bool],
) -> dict[str, Recovered]:
    """
    Measure, in each layer, whether fresh classifiers recover gender from occupations' vectors.

    Args:
        vectors: the source, for instance `SwapAverages` or `Erased`.
        train, test: the parts of WinoBias.
        stereotypes: for each occupation, whether women are its stereotype.
    """
    svm, linear_model = (
        require("sklearn.svm", "analysis"),
        require("sklearn.linear_model", "analysis"),
    )
    learned, tested = person_vectors(vectors, train), person_vectors(vectors, test)
    known, wanted = (np.array([s.is_female for s in part]) for part in (train, test))
    found = {}
    for layer, rows, others in zip(vectors.layers, learned, tested, strict=True):
        linear, kernel = (
            share(_fit(make, rows, known).predict(others) == wanted)
            for make in (linear_model.LogisticRegression(C=0.01, max_iter=1000), svm.SVC())
        )
        found[layer] = Recovered(linear, kernel, _recover_stereotype(others, test, stereotypes))
    return found


def person_vectors(vectors: Vectors, sentences: Sequence[PersonSentence]) -> np.ndarray:
    """Return the vectors of the persons' last words, `(layers, sentences, dimension)`."""
    rows = vectors(sentence.words for sentence in sentences)
    pairs = zip(rows, sentences, strict=True)
    return np.stack([layers[:, sentence.person] for layers, sentence in pairs], 1)


def _recover_stereotype(
    rows: np.ndarray, sentences: Sequence[PersonSentence], stereotypes: Mapping[str, bool]
) -> Estimate:
    selection = require("sklearn.model_selection", "analysis")
    linear = require("sklearn.linear_model", "analysis")
    kept = [i for i, sentence in enumerate(sentences) if sentence.occupation in stereotypes]
    names = np.array([sentences[i].occupation for i in kept])
    labels = np.array([stereotypes[name] for name in names.tolist()])
    predicted = selection.cross_val_predict(
        _pipeline(linear.LogisticRegression(C=0.01, max_iter=1000)),
        rows[kept],
        labels,
        groups=names,
        cv=selection.StratifiedGroupKFold(FOLDS),
    )
    right = predicted == labels
    return mean(np.array([right[names == name].mean() for name in np.unique(names)]))


def _fit(classifier: Any, rows: np.ndarray, labels: np.ndarray) -> Any:
    return _pipeline(classifier).fit(rows, labels)


def _pipeline(classifier: Any) -> Any:
    preprocessing = require("sklearn.preprocessing", "analysis")
    pipeline = require("sklearn.pipeline", "analysis")
    return pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)


__all__ = [
    "Erased",
    "Recovered",
    "SwapAverages",
    "fit_eraser",
    "person_vectors",
    "recover_gender",
    "swap_gender",
]
