# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Misspell words, and measure how far their vectors move."""

import hashlib
import itertools
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..extras import require
from ..text_files import read_lines
from .estimates import Estimate, mean
from .sources import Vectors, Words, unit

Noise = Callable[[Words], list[str]]
Case = Literal["lower", "upper", "title"]
Pairs = Iterable[tuple[str, str]]  # a word and its misspelling

MAX_RATE = 0.5  # textnoisr cannot swap more characters than that
LEAST_ALIKE = 0.3  # of misspellings and their words; in running text it is 0.1
SAMPLE = 4000  # words whose cosines are the floor

# --- Noise ---


class MisspellWords:
    """
    Class that replaces words by misspellings which people made.

    A word is looked up as it is, then in lower case; the misspelling gets its capitals. The noise
    of a sentence depends on its words and the seed only, not on other calls.

    Args:
        misspellings: the misspellings of each word, from `read_misspellings`. One that stands
            several times in a list is drawn more often.
        probability: the probability that a word with listed misspellings is replaced. The words
            that a smaller one replaces, a larger one replaces as well, if the seed is the same.
        seed: seed of the choices.

    Raises:
        ValueError: `probability` is not from 0 to 1.
    """

    def __init__(
        self, misspellings: Mapping[str, Sequence[str]], probability: float = 1.0, seed: int = 0
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability}; expected a number from 0 to 1")
        self.misspellings, self.probability, self.seed = misspellings, probability, seed

    def __call__(self, words: Words) -> list[str]:
        """Return as many words."""
        rng = _generator("misspellings", self.seed, words)
        return [self._replace(word, rng) for word in words]

    def find(self, word: str) -> list[str]:
        """Return the misspellings of a word, with its capitals; an empty list: none is listed."""
        if word in self.misspellings:
            return [*self.misspellings[word]]
        return [_like(word, other) for other in self.misspellings.get(word.lower(), ())]

    def cover(self, sentences: Iterable[Words]) -> float:
        """Return the share of the words that have a listed misspelling; NaN without words."""
        found = [bool(self.find(word)) for words in sentences for word in words]
        return float(np.mean(found)) if found else float("nan")

    def _replace(self, word: str, rng: random.Random) -> str:
        found = self.find(word)
        if not found:
            return word
        chance, misspelling = rng.random(), rng.choice(found)
        return misspelling if chance < self.probability else word


class ReplaceCharacters:
    """
    Class that inserts, deletes, substitutes and swaps characters at random, by textnoisr.

    New characters are ASCII letters. A word that would lose all its characters stays as it is. The
    noise of a sentence depends on its words and the seed only, not on other calls.

    Args:
        rate: the character error rate within words: edits (Levenshtein) per character. It is met
            on average; in English text, 0.2 gives 0.19.
        seed: seed of the choices.

    Raises:
        ValueError: `rate` is not from 0 to 0.5.
        MissingExtraError: textnoisr is not installed.
    """

    def __init__(self, rate: float, seed: int = 0) -> None:
        if not 0 <= rate <= MAX_RATE:
            raise ValueError(
                f"rate is {rate}; expected a share of the characters from 0 to {MAX_RATE}, such as "
                "0.05"
            )
        self.rate, self.seed = rate, seed
        self._augmenter = require("textnoisr.noise", "analysis").CharNoiseAugmenter

    def __call__(self, words: Words) -> list[str]:
        """Return as many words."""
        seed = _generator("characters", self.seed, words).getrandbits(64)
        augmenter = self._augmenter(self.rate, seed=seed)
        with warnings.catch_warnings():
            # It solves an equation to swap as often as wanted, which one character cannot meet.
            warnings.simplefilter("ignore", RuntimeWarning)
            # Word by word: of a list, textnoisr would change more to make up for the spaces.
            return [augmenter.add_noise(word) or word for word in words]


class ChangeCase:
    """
    Class that writes words in lower case, in upper case, or each with one capital.

    Args:
        case: "lower", "upper" or "title".

    Raises:
        ValueError: `case` is none of these.
    """

    def __init__(self, case: Case) -> None:
        if case not in get_args(Case):
            raise ValueError(f"case is {case!r}; expected one of {', '.join(get_args(Case))}")
        self._change = {"lower": str.lower, "upper": str.upper, "title": str.capitalize}[case]

    def __call__(self, words: Words) -> list[str]:
        """Return as many words."""
        return [self._change(word) for word in words]


def _generator(kind: str, seed: int, words: Words) -> random.Random:
    if isinstance(words, str):
        raise ValueError(f"words is one string, {words!r:.60}; pass a list of words")
    digest = hashlib.sha256("\0".join([kind, str(seed), *words]).encode("utf-8", "surrogatepass"))
    return random.Random(digest.digest())


def _like(word: str, misspelling: str) -> str:
    """Return the misspelling with capitals as in `word`."""
    if len(word) > 1 and word.isupper():
        return misspelling.upper()
    return misspelling[:1].upper() + misspelling[1:] if word[:1].isupper() else misspelling


# --- Lists of misspellings ---


def read_misspellings(*paths: str | os.PathLike[str]) -> dict[str, list[str]]:
    """
    Read lists of misspellings; those of several files are joined.

    The format of a file is recognized by its first line:

    - `wrong->right` or `wrong->right, right,`: the dictionaries of codespell.
    - `right wrong wrong ..`: the lists of charNMT-noise (Belinkov and Bisk 2018). Misspellings with
      a question mark are left out: it stands for a letter that the list has lost.
    - a header with the columns Misspelling and Correction, separated by tabs: TOEFL-Spell.

    Only single words are kept on both sides.

    Args:
        paths: UTF-8 files, also compressed.

    Returns:
        The misspellings of each word, as often as they are listed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is in no such format, or a file holds no misspellings.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        pairs = [(right, wrong) for right, wrong in _read(path) if _is_pair(right, wrong)]
        if not pairs:
            raise ValueError(f"{path} holds no pair of a word and its misspelling")
        if sum(right[0] == wrong[0] for right, wrong in pairs) < LEAST_ALIKE * len(pairs):
            right, wrong = pairs[0]
            raise ValueError(
                f"{path} is no list of misspellings: few of its pairs, such as {right!r} and "
                f"{wrong!r}, begin with the same letter"
            )
        for right, wrong in pairs:
            found[right].append(wrong)
    return dict(found)


def _read(path: str | os.PathLike[str]) -> Pairs:
    numbered = [(number, line) for number, line in enumerate(read_lines(path), 1) if line]
    first = numbered[0][1] if numbered else ""
    columns = first.split("\t")
    if "->" in first:
        parse = _parse_codespell
    elif {"Misspelling", "Correction"} <= {*columns}:
        wrong, right = columns.index("Misspelling"), columns.index("Correction")
        numbered = numbered[1:]

        def parse(line: str) -> Pairs:
            fields = line.split("\t")
            return [(fields[right], fields[wrong])]
    else:
        parse = _parse_charnmt
    for number, line in numbered:
        try:
            yield from parse(line)
        except (ValueError, IndexError):
            raise ValueError(
                f"{path}, line {number}, is {line!r:.60}; expected misspellings as in its first "
                f"line, {first!r:.60}: wrong->right (codespell), right wrong wrong (charNMT-noise) "
                "or the columns of TOEFL-Spell"
            ) from None


def _parse_codespell(line: str) -> Pairs:
    wrong, right = line.split("->")
    # After the last comma stands nothing, or the reason why a correction is disabled.
    rights = right.split(",")[:-1] or [right]
    return [(right.strip(), wrong.strip()) for right in rights]


def _parse_charnmt(line: str) -> Pairs:
    right, *wrongs = line.split()
    if not wrongs:
        raise ValueError
    return [(right, wrong) for wrong in wrongs if "?" not in wrong]


def _is_pair(right: str, wrong: str) -> bool:
    return right != wrong and len(right.split()) == len(wrong.split()) == 1


# --- Vectors under noise ---


class NoiseEffect(NamedTuple):
    """
    How far noise moves the vectors of words, each by the name of the layer.

    Attributes:
        changed: mean cosine of a changed word's vector with its vector before; the floor is that
            of two random words of the text. 1: the vector stayed; at the floor: it is like that of
            any other word.
        kept: the same for words that stayed as they were but whose sentence changed; None if there
            are none.
        share: the share of the words that changed.
    """

    changed: dict[str, Estimate]
    kept: dict[str, Estimate] | None
    share: float


def measure_noise(
    vectors: Vectors, sentences: Sequence[Words], noise: Noise, *, seed: int = 0
) -> NoiseEffect:
    """
    Measure how far noise moves the vectors of words.

    Args:
        vectors: the source of the vectors.
        sentences: lists of words.
        noise: function that returns as many words, for instance `ReplaceCharacters(0.05)`.
        seed: seed of the random words and of the intervals, which are bootstrapped over words.

    Raises:
        ValueError: the noise changes no word, or not as many words come back.
    """
    noised = [noise(words) for words in sentences]
    masks = [_changed(*pair) for pair in zip(sentences, noised, strict=True)]
    if not any(mask.any() for mask in masks):
        count = sum(map(len, sentences))
        raise ValueError(f"the noise changes none of these {count} words; pass more text or noise")
    cosines, rows = _cosines(vectors, sentences, noised, _sample(sentences, seed))
    changed = np.concatenate(masks)
    # In a sentence without any change all vectors stay, which says nothing.
    kept = np.concatenate([~mask & mask.any() for mask in masks])
    half = rows.shape[1] // 2
    random_cosines = np.einsum("lwd,lwd->lw", rows[:, :half], rows[:, half : 2 * half])
    floors = random_cosines.mean(1).tolist()

    def estimate(chosen: np.ndarray) -> dict[str, Estimate]:
        layers = zip(vectors.layers, cosines[:, chosen], floors, strict=True)
        return {name: mean(values, floor, seed) for name, values, floor in layers}

    return NoiseEffect(
        estimate(changed), estimate(kept) if kept.any() else None, float(changed.mean())
    )


def _changed(words: Words, noised: Words) -> np.ndarray:
    """Return which words changed."""
    if len(words) != len(noised):
        raise ValueError(
            f"the noise makes {len(noised)} words of {len(words)}: {' '.join(words)!r:.60}"
        )
    return np.array([a != b for a, b in zip(words, noised, strict=True)], bool)


def _sample(sentences: Sequence[Words], seed: int) -> np.ndarray:
    """Return the positions of random words, in the order of the text."""
    count = sum(map(len, sentences))
    return np.sort(np.random.default_rng(seed).choice(count, min(SAMPLE, count), replace=False))


def _cosines(
    vectors: Vectors, sentences: Sequence[Words], noised: Sequence[Words], sample: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines `(layers, words)`, and the sample's vectors of length 1, shuffled."""
    found, rows, start = [], [], 0
    layers = vectors(itertools.chain.from_iterable(zip(sentences, noised, strict=True)))
    for before in layers:
        clean, noisy = unit(before), unit(next(layers))
        found.append(np.einsum("lwd,lwd->lw", clean, noisy))
        stop = start + clean.shape[1]
        inside = sample[(sample >= start) & (sample < stop)] - start
        rows.append(clean[:, inside])
        start = stop
    order = np.random.default_rng(len(sample)).permutation(len(sample))
    return np.concatenate(found, 1), np.concatenate(rows, 1)[:, order]


__all__ = [
    "ChangeCase",
    "MisspellWords",
    "Noise",
    "NoiseEffect",
    "ReplaceCharacters",
    "measure_noise",
    "read_misspellings",
]
