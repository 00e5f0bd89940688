# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Measures which words' vectors are near to each other: WEAT, CEAT and ML-EAT."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..extras import require
from .bias_data import AssociationTest
from .estimates import RESAMPLES, Estimate, bootstrap
from .sources import Vectors, Words, unit

PERMUTATIONS = 100_000  # beyond that many ways to divide the targets, so many random ones
SAMPLES = 1000  # of contexts, in CEAT
SAMPLES_PER_RESAMPLE = 100
LOST = 0.2
FEMALE = ("she", "her", "hers", "herself", "woman", "women", "female")
MALE = ("he", "him", "his", "himself", "man", "men", "male")


class WordVectors(NamedTuple):
    """
    The vectors of words, alone or in contexts.

    Attributes:
        layers: the names of the layers.
        found: the vectors of each word that has any, `(layers, contexts, dimension)`.
    """

    layers: Sequence[str]
    found: Mapping[str, np.ndarray]

    def layer(self, number: int) -> dict[str, np.ndarray]:
        """Return the vectors `(contexts, dimension)` in one layer, of length 1."""
        return {word: unit(rows[number]) for word, rows in self.found.items()}


class LostWordsError(ValueError):
    """Error: more than 20 % of a set's words have no vector; `lost` are these words."""

    def __init__(self, reason: str, lost: Sequence[str]) -> None:
        super().__init__(f"{reason}: {', '.join(lost)}")
        self.reason, self.lost = reason, lost


class Levels(NamedTuple):
    """
    What ML-EAT (Wolfe et al. 2024) reports beside the effect, which hides what caused it.

    Attributes:
        targets: for each target, its own association: how much nearer it is to the first than to
            the second attribute's words, in standard deviations over the attributes' words.
        cosines: the mean cosine of each target with each attribute: both of the first target, then
            both of the second.
    """

    targets: tuple[float, float]
    cosines: tuple[float, float, float, float]


@dataclass(frozen=True)
class Association:
    """
    The result of WEAT: with positive values, the first target is nearer to the first attribute.

    Attributes:
        effect: the effect size, between -2 and 2, with the interval of resampled target words;
            `n` is the number of target words.
        p: one-sided p-value of the permutation test.
        is_exact: whether all ways to divide the target words were tried.
        levels: the parts of the effect.
        lost: the words without a vector.
    """

    effect: Estimate
    p: float
    is_exact: bool
    levels: Levels
    lost: Sequence[str]


@dataclass(frozen=True)
class ContextAssociation:
    """
    The result of CEAT (Guo and Caliskan 2021): WEAT's effect with a random context of each word.

    Attributes:
        combined: the effects of all samples, combined by the random-effects model as published:
            the weight of a sample is 1 / (variance of its association scores + tau²).
        tau: standard deviation of the effect between samples, by that model.
        p: two-sided p-value of `combined`. It falls with the number of samples, which the
            experimenter chooses, and means nothing without it.
        mean: the plain mean of the effects, with the interval of resampled target words.
        opposite: share of the samples whose effect has the other sign.
        samples: the number of samples.
        contexts: the mean number of contexts of a word.
        levels: as in `Association`, means over the samples.
        lost: the words without a context.
    """

    combined: float
    tau: float
    p: float
    mean: Estimate
    opposite: float
    samples: int
    contexts: float
    levels: Levels
    lost: Sequence[str]


def embed_alone(vectors: Vectors, words: Iterable[str]) -> WordVectors:
    """
    Return the vectors of words that stand alone.

    In ELMo's layer 0 that is what the word is everywhere. The other layers see a sentence of one
    word, which training text hardly has: prefer `embed_in_context` for them.
    """
    knows = getattr(vectors, "knows", None)
    parts = {word: word.split() for word in dict.fromkeys(words)}
    kept = {word: own for word, own in parts.items() if not knows or all(map(knows, own))}
    rows = vectors(kept.values())
    return WordVectors(
        vectors.layers,
        {word: found.mean(1, keepdims=True) for word, found in zip(kept, rows, strict=True)},
    )


def embed_in_context(
    vectors: Vectors,
    words: Iterable[str],
    sentences: Sequence[Words],
    *,
    contexts: int = 100,
    seed: int = 0,
) -> WordVectors:
    """
    Return the vectors of words in random sentences of a text.

    Args:
        vectors: the source of the vectors.
        words: the words, found where the text spells them the same; of several words, the mean.
        sentences: the text.
        contexts: maximum number of sentences per word.
        seed: seed of the choice of sentences.
    """
    order = np.random.default_rng(seed).permutation(len(sentences))
    wanted: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    by_first: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    for word in dict.fromkeys(words):
        by_first[word.split()[0]].append((word, word.split()))
    for number in order.tolist():
        for word, start, stop in _occurrences(sentences[number], by_first):
            if counts[word] < contexts:
                counts[word] += 1
                wanted[number].append((word, start, stop))
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    rows = vectors(sentences[number] for number in wanted)
    for places, layers in zip(wanted.values(), rows, strict=True):
        for word, start, stop in places:
            found[word].append(layers[:, start:stop].mean(1))
    return WordVectors(vectors.layers, {word: np.stack(own, 1) for word, own in found.items()})


def _occurrences(
    sentence: Words, by_first: Mapping[str, list[tuple[str, list[str]]]]
) -> list[tuple[str, int, int]]:
    """Return the first occurrence of each wanted word in a sentence: the word, start and stop."""
    found: dict[str, tuple[str, int, int]] = {}
    for i, first in enumerate(sentence):
        for word, parts in by_first.get(first, ()):
            if [*sentence[i : i + len(parts)]] == parts:
                found.setdefault(word, (word, i, i + len(parts)))
    return [*found.values()]


def weat(words: WordVectors, test: AssociationTest, *, seed: int = 0) -> dict[str, Association]:
    """
    Measure WEAT (Caliskan et al. 2017) in each layer; of several contexts, the first counts.

    A word's score is its mean cosine with the first attribute's words minus that with the second
    attribute's. The effect size is the difference of the targets' mean scores, in standard
    deviations of all scores. The p-value is the share of the ways to divide the target words into
    two such sets whose difference is at least as large; of more than 100,000 ways, random ones.

    Raises:
        LostWordsError: more than 20 % of a set's words have no vector.
        ValueError: a set is no list of words, or has fewer than two words with vectors.
    """
    kept, lost = _keep(words, test)
    n = len(kept[0])
    found = {}
    for number, layer in enumerate(words.layers):
        rows = {word: own[:1] for word, own in words.layer(number).items()}
        cosines = _cosines(rows, kept)[0]
        scores = _scores(cosines, len(kept[2]))
        effect = bootstrap(_effect, scores[:n], scores[n:], seed=seed, vectorized=True)
        p, is_exact = _permute(scores[:n], scores[n:], seed)
        levels = _levels(cosines, n, len(kept[2]))
        found[layer] = Association(effect, p, is_exact, levels, lost)
    return found


def ceat(
    words: WordVectors, test: AssociationTest, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, ContextAssociation]:
    """
    Measure CEAT (Guo and Caliskan 2021) in each layer: WEAT with a random context of each word.

    Args:
        words: the vectors of words in contexts.
        test: the word sets.
        samples: how often a context is drawn for each word.
        seed: seed of the contexts.

    Raises:
        LostWordsError, ValueError: as `weat`.
    """
    kept, lost = _keep(words, test)
    n = len(kept[0])
    names = [word for own in kept for word in own]
    contexts = float(np.mean([words.found[word].shape[1] for word in names]))
    found = {}
    for number, layer in enumerate(words.layers):
        cosines = _cosines(words.layer(number), kept, samples, seed)
        scores = _scores(cosines, len(kept[2]))
        combined, tau, p = _combine(_effect(scores[:, :n], scores[:, n:]), scores.var(1, ddof=1))
        mean, opposite = _mean_effect(scores, n, np.sign(combined), seed)
        levels = _levels(cosines.mean(0), n, len(kept[2]))
        found[layer] = ContextAssociation(
            combined, tau, p, mean, opposite, samples, contexts, levels, lost
        )
    return found


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's method for as many tests."""
    order = np.argsort(ps, kind="stable")
    steps = np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1))
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


def occupations(words: WordVectors, shares: Mapping[str, float]) -> dict[str, Estimate]:
    """
    Correlate, in each layer, occupations' nearness to female words with their share of women.

    Nearness is the mean cosine with `FEMALE` minus that with `MALE` words, over all contexts.

    Args:
        words: the vectors of the occupations and of the gendered words.
        shares: the share of women in each occupation.

    Returns:
        By the name of the layer, Pearson's r with its interval (Fisher's transformation).

    Raises:
        LostWordsError: fewer than two occupations, or no female or male words, have vectors.
    """
    names = [name for name in shares if name in words.found]
    for what, given, least in (
        ("occupations", shares, 2),
        ("FEMALE", FEMALE, 1),
        ("MALE", MALE, 1),
    ):
        missing = [word for word in given if word not in words.found]
        if len(given) - len(missing) < least:
            raise LostWordsError(f"fewer than {least} words of {what} have vectors", missing)
    found = {}
    for number, layer in enumerate(words.layers):
        rows = {word: own.mean(0) for word, own in words.layer(number).items()}
        female, male = (
            unit(np.array([rows[word] for word in side if word in rows])) for side in (FEMALE, MALE)
        )
        own = unit(np.array([rows[name] for name in names]))
        nearness = (own @ female.T).mean(1) - (own @ male.T).mean(1)
        found[layer] = pearson(nearness, np.array([shares[name] for name in names]))
    return found


def pearson(first: np.ndarray, second: np.ndarray, floor: float | None = None) -> Estimate:
    """Return Pearson's r with its interval (Fisher's transformation); 0 if one side is constant."""
    stats = require("scipy.stats", "analysis")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Estimate(0.0, float("nan"), float("nan"), len(first), floor)
    result = stats.pearsonr(first, second)
    interval = result.confidence_interval()
    return Estimate(
        float(result.statistic), float(interval.low), float(interval.high), len(first), floor
    )


def _keep(words: WordVectors, test: AssociationTest) -> tuple[list[list[str]], list[str]]:
    """Return the words of each set that have vectors, and the lost ones."""
    kept, lost = [], []
    for name, given in test.sets:
        if isinstance(given, str) or not all(isinstance(word, str) for word in given):
            raise ValueError(f"the words of {name} are {given!r:.60}; expected a list of words")
        kept.append([word for word in given if word in words.found])
        missing = [word for word in given if word not in words.found]
        if len(missing) > LOST * len(given):
            raise LostWordsError(
                f"{test.name}: {len(missing)} of the {len(given)} words of {name} are missing, "
                f"more than {LOST:.0%}",
                missing,
            )
        if len(kept[-1]) < 2:
            raise ValueError(f"{test.name}: {name} has fewer than two words with vectors")
        lost += missing
    return kept, lost


def _cosines(
    rows: Mapping[str, np.ndarray], kept: Sequence[Sequence[str]], samples: int = 1, seed: int = 0
) -> np.ndarray:
    """Return the cosines `(samples, targets, attributes)`, each sample with random contexts."""
    rng = np.random.default_rng(seed)
    sides, chosen = [], []
    for names in ([*kept[0], *kept[1]], [*kept[2], *kept[3]]):
        counts = np.array([len(rows[name]) for name in names])
        starts = np.cumsum([0, *counts[:-1]])
        chosen.append(starts + rng.integers(0, counts, (samples, len(names))))
        sides.append(np.concatenate([rows[name] for name in names]))
    table = sides[0] @ sides[1].T
    return table[chosen[0][:, :, None], chosen[1][:, None, :]].astype(np.float64)


def _scores(cosines: np.ndarray, attributes: int) -> np.ndarray:
    """Return each target's mean cosine with the first minus that with the second attribute."""
    return cosines[..., :attributes].mean(-1) - cosines[..., attributes:].mean(-1)


def _effect(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    deviation = np.concatenate([first, second], axis).std(axis, ddof=1)
    difference = first.mean(axis) - second.mean(axis)
    return difference / np.maximum(deviation, np.finfo(np.float64).tiny)


def _permute(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, bool]:
    stats, special = require("scipy.stats", "analysis"), require("scipy.special", "analysis")

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return first.mean(axis) - second.mean(axis)

    result = stats.permutation_test(
        (first, second),
        difference,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=10_000,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    ways = special.comb(len(first) + len(second), len(first))
    return float(result.pvalue), bool(ways <= PERMUTATIONS)


def _levels(cosines: np.ndarray, n: int, attributes: int) -> Levels:
    means = [target.mean(0) for target in (cosines[:n], cosines[n:])]
    sides = [(own[:attributes], own[attributes:]) for own in means]
    first, second = (float(_effect(*pair)) for pair in sides)
    four = [float(part.mean()) for pair in sides for part in pair]
    return Levels((first, second), (four[0], four[1], four[2], four[3]))


def _combine(effects: np.ndarray, variances: np.ndarray) -> tuple[float, float, float]:
    """Return the combined effect, tau and p of the random-effects model (DerSimonian and Laird)."""
    stats = require("scipy.stats", "analysis")
    weights = 1 / variances
    fixed = np.average(effects, weights=weights)
    excess = (weights * (effects - fixed) ** 2).sum() - (len(effects) - 1)
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    between = max(0.0, float(excess / scale)) if len(effects) > 1 else 0.0
    weights = 1 / (variances + between)
    combined = float(np.average(effects, weights=weights))
    p = 2 * stats.norm.sf(abs(combined) * np.sqrt(weights.sum()))
    return combined, float(np.sqrt(between)), float(p)


def _mean_effect(scores: np.ndarray, n: int, sign: float, seed: int) -> tuple[Estimate, float]:
    """Return the mean effect, resampling target words, and the share of effects of other sign."""
    rng = np.random.default_rng(seed)
    effects = _effect(scores[:, :n], scores[:, n:])
    samples, words = scores.shape
    resampled = []
    for _ in range(RESAMPLES):
        some = scores[rng.integers(0, samples, SAMPLES_PER_RESAMPLE)]
        first, second = rng.integers(0, n, n), rng.integers(n, words, words - n)
        resampled.append(_effect(some[:, first], some[:, second]).mean())
    low, high = np.percentile(resampled, [2.5, 97.5])
    estimate = Estimate(float(effects.mean()), float(low), float(high), words, seed=seed)
    return estimate, float((np.sign(effects) != sign).mean())


__all__ = [
    "FEMALE",
    "MALE",
    "Association",
    "ContextAssociation",
    "Levels",
    "LostWordsError",
    "WordVectors",
    "ceat",
    "embed_alone",
    "embed_in_context",
    "holm",
    "occupations",
    "pearson",
    "weat",
]
