# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""How much do a word's vectors differ between contexts? The measures of Ethayarajh (2019)."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .estimates import Estimate, mean
from .sources import Vectors, Words, unit

PAIRS = 2000  # of random words
MIN_CONTEXTS = 5
MAX_CONTEXTS = 100
MAX_WORDS = 500


class Geometry(NamedTuple):
    """
    The measures of Ethayarajh (2019), each by the name of the layer.

    Attributes:
        anisotropy: mean cosine of two random words; 0 if the vectors point in all directions alike.
        self_similarity: mean cosine of a word's vectors in different sentences; 1 if the context
            does not matter. The floor is the anisotropy.
        intra_sentence_similarity: mean cosine of a word with the mean vector of its sentence. The
            floor is the same for as many random words of other sentences.
        explained_variance: the largest share of the variance of a word's vectors that one static
            vector can explain. The floor is the same for as many random words.
    """

    anisotropy: dict[str, Estimate]
    self_similarity: dict[str, Estimate]
    intra_sentence_similarity: dict[str, Estimate]
    explained_variance: dict[str, Estimate]


def measure_geometry(
    vectors: Vectors, sentences: Sequence[Words], *, seed: int = 0, min_contexts: int = MIN_CONTEXTS
) -> Geometry:
    """
    Measure how a word's vectors differ between sentences.

    All vectors of the sentences are kept in memory. At most 500 words with at least `min_contexts`
    occurrences are measured, in at most 100 contexts each. Intervals are bootstrapped over random
    pairs, words or sentences.

    Args:
        vectors: the source of the vectors.
        sentences: a sample of text, in which words occur repeatedly.
        seed: seed of the random words, contexts and intervals.

    Raises:
        ValueError: no word occurs often enough.
    """
    rng = np.random.default_rng(seed)
    groups = _group(sentences, min_contexts, rng)
    lengths = [len(words) for words in sentences if len(words) > 1]
    number = sum(map(len, sentences))
    random_groups = [rng.choice(number, len(group), replace=False) for group in groups]
    random_sentences = [rng.choice(number, length, replace=False) for length in lengths]
    pairs = rng.choice(number, (min(PAIRS, number // 2), 2), replace=False)
    starts = np.cumsum([0, *map(len, sentences)])
    own = [np.arange(a, b) for a, b in itertools.pairwise(starts) if b - a > 1]
    found: dict[str, tuple[Estimate, ...]] = {}
    for layer, words in _by_layer(vectors, sentences):
        first, second = unit(words[pairs[:, 0]]), unit(words[pairs[:, 1]])
        base = mean(np.einsum("pd,pd->p", first, second), seed=seed)
        found[layer] = (
            base,
            mean(_each(_mean_cosine, words, groups), base.value, seed),
            _with_floor(_cosine_to_mean, words, own, random_sentences, seed),
            _with_floor(_explained, words, groups, random_groups, seed),
        )
    columns = zip(*found.values(), strict=True)
    return Geometry(*(dict(zip(found, column, strict=True)) for column in columns))


def _group(
    sentences: Sequence[Words], min_contexts: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the numbers of a word's occurrences, for random words that occur often enough."""
    places = defaultdict(list)
    for number, word in enumerate(word for words in sentences for word in words):
        places[word].append(number)
    frequent = [word for word in places if len(places[word]) >= min_contexts]
    if not frequent:
        raise ValueError(
            f"no word occurs {min_contexts} times in these {len(sentences)} sentences; pass more "
            "sentences, or a smaller min_contexts"
        )
    chosen = rng.permutation(frequent)[:MAX_WORDS]
    return [rng.permutation(places[word])[:MAX_CONTEXTS] for word in chosen.tolist()]


def _by_layer(vectors: Vectors, sentences: Sequence[Words]) -> list[tuple[str, np.ndarray]]:
    """Return the vectors `(words, dimension)` of all words, layer by layer."""
    return [*zip(vectors.layers, np.concatenate([*vectors(sentences)], axis=1), strict=True)]


def _with_floor(
    measure: Callable[[np.ndarray], float],
    words: np.ndarray,
    groups: Sequence[np.ndarray],
    random_groups: Sequence[np.ndarray],
    seed: int,
) -> Estimate:
    floor = float(np.mean(_each(measure, words, random_groups)))
    return mean(_each(measure, words, groups), floor, seed)


def _each(
    measure: Callable[[np.ndarray], float], words: np.ndarray, groups: Sequence[np.ndarray]
) -> np.ndarray:
    return np.array([measure(words[group]) for group in groups])


def _mean_cosine(words: np.ndarray) -> float:
    """Return the mean cosine of all pairs of different rows."""
    total = unit(words).sum(0, dtype=np.float64)
    return float((total @ total - len(words)) / (len(words) * (len(words) - 1)))


def _cosine_to_mean(words: np.ndarray) -> float:
    return float((unit(words) @ unit(words.mean(0))).mean())


def _explained(words: np.ndarray) -> float:
    """Return the share of the first singular value in the sum of squares."""
    products = words @ words.T if len(words) < words.shape[1] else words.T @ words
    squares = np.linalg.eigvalsh(products.astype(np.float64))  # in ascending order
    return float(squares[-1] / squares.sum())


__all__ = ["Geometry", "measure_geometry"]
