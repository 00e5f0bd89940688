# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Linear probes of word vectors, with the control tasks of Hewitt and Liang (2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..extras import require
from .estimates import Estimate, bootstrap
from .sources import Vectors, Words

STRENGTHS = (0.001, 0.01, 0.1)  # of scikit-learn's C: the smaller, the more regularization
HELD_OUT = 5  # every fifth training sentence measures the strengths


class Labelled(NamedTuple):
    """A sentence's words, each with its label; None: the word has none and is left out."""

    words: Words
    labels: Sequence[str | None]


@dataclass(frozen=True)
class Probe:
    """
    What a linear classifier of word vectors finds.

    Attributes:
        task: accuracy of the labels; the floor is that of the most frequent label.
        control: accuracy of the control task, in which each word form has a random label.
        selectivity: accuracy minus that of the control task. If it is low, the classifier may have
            memorized the words instead of reading the label off the vectors.
        strength: the C of both logistic regressions.
    """

    task: Estimate
    control: Estimate
    selectivity: Estimate
    strength: float


def probe(
    vectors: Vectors,
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    *,
    words: int = 3000,
    seeds: Sequence[int] = (0, 1, 2),
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, Probe]:
    """
    Train a logistic regression on the vectors of each layer and measure it on other sentences.

    Vectors are standardized. Each seed draws its training sentences and the control task's labels;
    accuracies are means over the seeds, their intervals are bootstrapped over test sentences.

    Args:
        vectors: the source of the vectors.
        train: sentences to draw the training words from.
        test: sentences to measure on; all of them.
        words: number of training words, up to the end of the last sentence drawn.
        seeds: one training per seed.
        strengths: values of scikit-learn's C to choose from for each layer: the best one for every
            fifth of the first seed's training sentences, after training on the others.

    Raises:
        ValueError: a sentence has not one label per word, the training words have one label, or the
            test words have none.
    """
    _check([*train, *test])
    if not any({*one.labels} - {None} for one in test):
        raise ValueError("no word of the test sentences has a label")
    tested = _Words(vectors, test)
    chosen = _choose(strengths, vectors, _draw(train, words, np.random.default_rng(seeds[0])))
    runs = [_run(vectors, train, tested, words, seed, chosen) for seed in seeds]
    labels = np.concatenate([run.labels for run in runs])
    floor = float((tested.labels == _most_frequent(labels)).mean())
    found = {}
    for i, layer in enumerate(vectors.layers):
        task = np.mean([run.task[i] for run in runs], 0)
        control = np.mean([run.control[i] for run in runs], 0)
        found[layer] = Probe(
            _accuracy(tested, task, seeds[0], floor),
            _accuracy(tested, control, seeds[0]),
            _accuracy(tested, task - control, seeds[0]),
            chosen[i],
        )
    return found


class _Words:
    """Class that holds the labelled words of sentences."""

    def __init__(self, vectors: Vectors, sentences: Sequence[Labelled]) -> None:
        sentences = [one for one in sentences if {*one.labels} - {None}]
        kept = [[i for i, label in enumerate(s.labels) if label is not None] for s in sentences]
        layers = vectors(sentence.words for sentence in sentences)
        found = [rows[:, chosen] for rows, chosen in zip(layers, kept, strict=True)]
        self.layers = np.concatenate(found, axis=1)  # (layers, words, dimension)
        pairs = [(s, i) for s, chosen in zip(sentences, kept, strict=True) for i in chosen]
        self.forms = [s.words[i] for s, i in pairs]
        self.labels = np.array([s.labels[i] for s, i in pairs])
        self.lengths = [len(chosen) for chosen in kept]


class _Run(NamedTuple):
    """Which test words one seed's classifiers got right, by layer; and the training labels."""

    task: list[np.ndarray]
    control: list[np.ndarray]
    labels: np.ndarray


def _choose(
    strengths: Sequence[float], vectors: Vectors, drawn: Sequence[Labelled]
) -> Sequence[float]:
    """Return the best strength for each layer; of equally good ones the first."""
    rest = [one for i, one in enumerate(drawn) if i % HELD_OUT]
    if len(strengths) == 1 or not rest:
        return [strengths[0]] * len(vectors.layers)
    learned, tested = _Words(vectors, rest), _Words(vectors, drawn[::HELD_OUT])
    chosen = []
    for rows, others in zip(learned.layers, tested.layers, strict=True):
        right = [
            (_predict(rows, learned.labels, others, strength) == tested.labels).mean()
            for strength in strengths
        ]
        chosen.append(strengths[int(np.argmax(right))])
    return chosen


def _run(
    vectors: Vectors,
    train: Sequence[Labelled],
    tested: _Words,
    words: int,
    seed: int,
    strengths: Sequence[float],
) -> _Run:
    rng = np.random.default_rng(seed)
    learned = _Words(vectors, _draw(train, words, rng))
    random = _random_labels(learned, tested, rng)
    task: list[np.ndarray] = []
    control: list[np.ndarray] = []
    for rows, others, strength in zip(learned.layers, tested.layers, strengths, strict=True):
        for found, known, wanted in (
            (task, learned.labels, tested.labels),
            (control, random[0], random[1]),
        ):
            found.append(_predict(rows, known, others, strength) == wanted)
    return _Run(task, control, learned.labels)


def _draw(train: Sequence[Labelled], words: int, rng: np.random.Generator) -> list[Labelled]:
    """Return random sentences with so many labelled words together."""
    drawn: list[Labelled] = []
    for i in rng.permutation(len(train)):
        if words <= 0:
            break
        count = sum(label is not None for label in train[i].labels)
        if count:
            drawn.append(train[i])
            words -= count
    if len({label for one in drawn for label in one.labels} - {None}) < 2:
        raise ValueError("the training words have fewer than two different labels")
    return drawn


def _random_labels(
    learned: _Words, tested: _Words, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Give each word form one random label, drawn as often as the task's labels occur."""
    forms = sorted({*learned.forms, *tested.forms})
    table = dict(zip(forms, rng.choice(learned.labels, len(forms)), strict=True))
    found = [np.array([table[form] for form in words.forms]) for words in (learned, tested)]
    return found[0], found[1]


def _predict(
    rows: np.ndarray, labels: np.ndarray, others: np.ndarray, strength: float
) -> np.ndarray:
    """Learn the labels of the rows and return those of the others."""
    linear = require("sklearn.linear_model", "analysis")
    preprocessing = require("sklearn.preprocessing", "analysis")
    pipeline = require("sklearn.pipeline", "analysis")
    if len({*labels.tolist()}) == 1:  # of very few words
        return np.full(len(others), labels[0])
    return (
        pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            linear.LogisticRegression(C=strength, max_iter=1000, tol=1e-3),
        )
        .fit(rows, labels)
        .predict(others)
    )


def _accuracy(tested: _Words, right: np.ndarray, seed: int, floor: float | None = None) -> Estimate:
    """Return the mean over words, with the interval over sentences."""
    starts = np.cumsum([0, *tested.lengths[:-1]])
    sums = np.add.reduceat(right.astype(np.float64), starts)

    def ratio(sums: np.ndarray, lengths: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / lengths.sum(axis)

    return bootstrap(ratio, sums, np.array(tested.lengths), paired=True, floor=floor, seed=seed)


def _most_frequent(labels: np.ndarray) -> str:
    names, counts = np.unique(labels, return_counts=True)
    return str(names[counts.argmax()])


def _check(sentences: Sequence[Labelled]) -> None:
    for words, labels in sentences:
        if len(words) != len(labels):
            raise ValueError(
                f"{len(words)} words have {len(labels)} labels: {' '.join(words)!r:.60}; give each "
                "word a label or None"
            )


__all__ = ["Labelled", "Probe", "probe"]
