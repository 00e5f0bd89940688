"""Linear classifiers on frozen vectors, and their scores with intervals."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mixed_texts import Item, Parts, Task

from elmo_hf.analysis.estimates import Estimate, bootstrap
from elmo_hf.analysis.sources import Vectors
from elmo_hf.extras import require

REGULARIZATIONS = (3e-4, 3e-3, 3e-2)  # scikit-learn's C
WORDS, SENTENCES, HELD_OUT = SIZES = (20_000, 3_000, 2_000)  # see `shorten`
BATCH = 500  # sentences whose vectors are held in memory
Labels = list[list[str]]  # of each sentence


class Counts(NamedTuple):
    """What a metric is computed from, a row per sentence, of the two held-out parts."""

    dev: np.ndarray
    test: np.ndarray


def measure(vectors: Vectors, task: Task, parts: Parts) -> Counts:
    """
    Train a logistic regression on a task's training part and count on the others.

    The vectors of all layers are concatenated and standardized. A sentence has the mean and the
    maximum of its words. The regularization is the best one of the development part.
    """
    linear = require("sklearn.linear_model", "analysis")
    preprocessing = require("sklearn.preprocessing", "analysis")
    rows = np.concatenate([*features(vectors, task, parts.train)])
    labels = np.array([label for item in parts.train for label in item.labels])
    scaler = preprocessing.StandardScaler(copy=False)
    rows = scaler.fit_transform(rows)
    heads = [
        linear.LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(rows, labels)
        for c in REGULARIZATIONS
    ]
    del rows

    def predict(items: Sequence[Item]) -> list[Labels]:
        found: list[Labels] = [[] for _ in heads]
        for start in range(0, len(items), BATCH):
            some = [*features(vectors, task, items[start : start + BATCH])]
            scaled = scaler.transform(np.concatenate(some))
            ends = np.cumsum([len(one) for one in some])[:-1]
            for head, into in zip(heads, found, strict=True):
                into += [one.tolist() for one in np.split(head.predict(scaled), ends)]
        return found

    return best(task, parts, predict(parts.dev), predict(parts.test))


def features(vectors: Vectors, task: Task, items: Iterable[Item]) -> Iterator[np.ndarray]:
    """Yield a row per word, or one row, of each sentence."""
    for layers in vectors(item.words for item in items):
        words = np.concatenate([*layers], axis=-1)  # (words, layers * dimension)
        yield np.concatenate([words.mean(0), words.max(0)])[None] if task.by_sentence else words


def shorten(task: Task, parts: Parts) -> Parts:
    """
    Return the first sentences of each part.

    Training: so many sentences with 20,000 words together, or 3,000 labelled sentences. The other
    parts: 2,000 sentences.
    """
    if task.by_sentence:
        count = SENTENCES
    else:
        ends = np.cumsum([len(item.words) for item in parts.train])
        count = int(np.searchsorted(ends, WORDS)) + 1
    return Parts(parts.train[:count], parts.dev[:HELD_OUT], parts.test[:HELD_OUT])


def measure_characters(task: Task, parts: Parts) -> Counts:
    """Measure n-grams of 2 to 5 characters, weighted by tf-idf, without any vectors."""
    text = require("sklearn.feature_extraction.text", "analysis")
    linear = require("sklearn.linear_model", "analysis")
    grams = text.TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2
    )

    def read(items: Sequence[Item]) -> list[str]:
        return [" ".join(item.words) for item in items]

    rows = grams.fit_transform(read(parts.train))
    labels = [item.labels[0] for item in parts.train]
    heads = [linear.LogisticRegression(C=c, max_iter=300).fit(rows, labels) for c in (0.3, 3, 30)]
    predicted = [
        [head.predict(grams.transform(read(part)))[:, None].tolist() for head in heads]
        for part in (parts.dev, parts.test)
    ]
    return best(task, parts, *predicted)


def measure_majority(task: Task, parts: Parts) -> Counts:
    """Measure the most frequent label of the training part, given to everything."""
    frequent = most_frequent(label for item in parts.train for label in item.labels)
    dev, test = ([[frequent] * len(item.labels) for item in part] for part in parts[1:])
    return best(task, parts, [dev], [test])


def measure_lexicon(task: Task, parts: Parts) -> Counts:
    """Measure each word's most frequent label in the training part; others get the majority's."""
    frequent = most_frequent(label for item in parts.train for label in item.labels)
    found: dict[str, list[str]] = {}
    for item in parts.train:
        for word, label in zip(item.words, item.labels, strict=True):
            found.setdefault(word, []).append(label)
    table = {word: most_frequent(labels) for word, labels in found.items()}
    dev, test = (
        [[table.get(word, frequent) for word in item.words] for item in part] for part in parts[1:]
    )
    return best(task, parts, [dev], [test])


def most_frequent(labels: Iterable[str]) -> str:
    names, counts = np.unique([*labels], return_counts=True)
    return str(names[counts.argmax()])


def best(task: Task, parts: Parts, dev: list[Labels], test: list[Labels]) -> Counts:
    """Return the counts of the classifier that is best in the development part."""
    counts, value = METRICS[task.metric]
    gold = [[item.labels for item in part] for part in (parts.dev, parts.test)]
    developed = [counts(gold[0], labels) for labels in dev]
    chosen = int(np.argmax([value(*one.sum(0)) for one in developed]))
    return Counts(developed[chosen], counts(gold[1], test[chosen]))


def estimate(task: Task, counts: np.ndarray) -> Estimate:
    """Return the metric, with its interval over sentences."""
    return bootstrap(_statistic(task), *counts.T.astype(float), paired=True, vectorized=True)


def difference(task: Task, counts: np.ndarray, others: np.ndarray) -> Estimate:
    """Return the metric of `counts` minus that of `others`, of the same sentences."""
    value, half = _statistic(task), counts.shape[1]

    def statistic(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        return value(*columns[:half], axis=axis) - value(*columns[half:], axis=axis)

    columns = np.concatenate([counts, others], axis=1).T.astype(float)
    return bootstrap(statistic, *columns, paired=True, vectorized=True)


def _statistic(task: Task) -> Callable[..., np.ndarray]:
    value = METRICS[task.metric][1]

    def statistic(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        return value(*(column.sum(axis) for column in columns))

    return statistic


def count_right(gold: Labels, predicted: Labels) -> np.ndarray:
    """Return the right labels and all labels of each sentence: `(sentences, 2)`."""
    pairs = zip(gold, predicted, strict=True)
    return np.array([[sum(map(str.__eq__, one, other)), len(one)] for one, other in pairs])


def count_spans(gold: Labels, predicted: Labels) -> np.ndarray:
    """Return right, predicted and true spans of each sentence: `(sentences, 3)`."""
    entities = require("seqeval.metrics.sequence_labeling", "train").get_entities
    found = [({*entities(a)}, {*entities(b)}) for a, b in zip(gold, predicted, strict=True)]
    return np.array([[len(a & b), len(b), len(a)] for a, b in found])


def count_classes(gold: Labels, predicted: Labels) -> np.ndarray:
    """Return right, predicted and true items of each class: `(sentences, 3 * classes)`."""
    classes = sorted({label for labels in gold for label in labels})
    true, found = (
        np.array([[one == c for c in classes] for (one,) in x]) for x in (gold, predicted)
    )
    return np.concatenate([true & found, found, true], axis=1)


def f1(right: Any, predicted: Any, true: Any) -> Any:
    return 2 * right / np.maximum(predicted + true, 1)


def macro_f1(*counts: Any) -> Any:
    classes = len(counts) // 3
    return np.mean([f1(*counts[i::classes]) for i in range(classes)], axis=0)


METRICS: dict[str, tuple[Callable, Callable]] = {
    "accuracy": (count_right, np.divide),
    "span F1": (count_spans, f1),
    "macro F1": (count_classes, macro_f1),
}
