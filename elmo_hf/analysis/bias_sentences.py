# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Measures bias by a language model's probabilities: pronouns, pairs of sentences, descriptors."""

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..gaps import Direction, Filler
from ..model.modeling_elmo_pretraining import ElmoForPreTraining
from ..model.tokenization_elmo import ElmoTokenizer
from ..scoring import SentenceScores, score_sentences
from .bias_associations import pearson
from .bias_data import Descriptor, HolisticData, PronounPair, SentencePair
from .estimates import Estimate, bootstrap, mean

DIRECTIONS = ("forward", "backward", "both")
DIGITS = 3  # of log-probabilities: smaller differences are rounding, and count as ties


@dataclass(frozen=True)
class LanguageModel:
    """
    A language model with its tokenizer.

    Args:
        model: the model, in evaluation mode.
        tokenizer: the tokenizer saved with it.
        name: its name in tables.
    """

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer
    name: str

    def random(self, seed: int = 0) -> "LanguageModel":
        """Return a model of the same configuration with new random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = ElmoForPreTraining(copy.deepcopy(self.model.config)).eval()
        return LanguageModel(model.to(self.model.device), self.tokenizer, "random weights")

    @property
    def directions(self) -> Sequence[str]:
        """The names of the directions; "both" is their sum."""
        return DIRECTIONS if self.model.config.bidirectional else DIRECTIONS[:1]

    def split(self, text: str) -> list[str]:
        """Split a text into words."""
        return self.tokenizer(text, add_special_tokens=False).tokens()


class Preferences(NamedTuple):
    """
    How often a model prefers the more stereotypical sentence of a CrowS-Pairs item.

    Attributes:
        shared: share of items whose shared words are more probable in that sentence.
        whole: share of items in which the whole sentence is more probable.
    """

    shared: Estimate
    whole: Estimate


def pronoun_preferences(language_model: LanguageModel, pairs: Sequence[PronounPair]) -> np.ndarray:
    """
    Return log P(female pronoun) - log P(male pronoun) at the pronoun's place.

    Returns:
        `(directions, pairs)`: given the words before the pronoun, given those after it, and the sum
        of the two.

    Raises:
        ValueError: the vocabulary lacks a pronoun.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    direction: Direction = "both" if model.config.bidirectional else "forward"
    # Sentences of the same length, pronouns and place are one batch.
    groups: dict[tuple[str, str, int, int], list[int]] = {}
    for number, pair in enumerate(pairs):
        key = (pair.male, pair.female, pair.place, len(pair.words))
        groups.setdefault(key, []).append(number)
    found = np.zeros((len(language_model.directions), len(pairs)))
    for (male, female, place, _), numbers in groups.items():
        filler = Filler(model, tokenizer, direction, [male, female], True)
        sign = 1 if filler.vocabulary[int(filler.ids[1])] == female else -1
        sides = filler.predict([[*pairs[number].words] for number in numbers], [place])
        for row, side in zip(found, sides, strict=False):
            row[numbers] = sign * (side[:, 1] - side[:, 0]).numpy()
    if direction == "both":
        found[2] = found[0] + found[1]
    return found


def winogender(
    language_model: LanguageModel, pairs: Sequence[PronounPair], shares: Mapping[str, float]
) -> dict[str, Estimate]:
    """
    Correlate the preference for the female pronoun with the occupations' share of women.

    Args:
        language_model: the language model.
        pairs: the Winogender sentences.
        shares: the share of women in each occupation.

    Returns:
        By direction, Pearson's r over occupations, of the sentences whose pronoun stands for the
        occupation. The floor is that of the sentences whose pronoun stands for someone else.
    """
    found = {}
    rows = pronoun_preferences(language_model, pairs)
    for direction, preferences in zip(language_model.directions, rows, strict=True):
        others, own = (_by_occupation(pairs, preferences, of_it) for of_it in (False, True))
        floor = _correlate(others, shares).value if others else None
        found[direction] = _correlate(own, shares, floor)
    return found


def winobias(language_model: LanguageModel, pairs: Sequence[PronounPair]) -> dict[str, Estimate]:
    """
    Measure how much more probable the pronoun of the stereotype is than the other.

    Returns:
        By direction, the mean of log P(pro-stereotypical pronoun) - log P(the other), natural
        logarithm. In WinoBias as many stereotypes are female as male, so a preference for one
        pronoun everywhere cancels out, as far as no pairs were left out.
    """
    signs = np.array([1.0 if pair.female_stereotype else -1.0 for pair in pairs])
    rows = pronoun_preferences(language_model, pairs)
    return {
        direction: mean(preferences * signs)
        for direction, preferences in zip(language_model.directions, rows, strict=True)
    }


def crows_pairs(
    language_model: LanguageModel, pairs: Sequence[SentencePair]
) -> dict[str, Preferences]:
    """
    Measure CrowS-Pairs (Nangia et al. 2020), by kind of bias and as "all".

    The authors compare the probability of the words that both sentences share. Here it is the sum
    of their log-probabilities in both directions. Ties count half. Blodgett et al. (2021) found
    that many of the pairs do not measure what they claim to: read the result as a rough check only.
    """
    shared, whole = compare_pairs(language_model, pairs)
    kinds = np.array([pair.kind for pair in pairs])
    groups = {"all": np.ones(len(pairs), bool)} | {kind: kinds == kind for kind in sorted({*kinds})}
    return {
        kind: Preferences(_preferred(shared[group]), _preferred(whole[group]))
        for kind, group in groups.items()
    }


def compare_pairs(
    language_model: LanguageModel, pairs: Sequence[SentencePair]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much more probable the first sentences are: by shared words, and as a whole."""
    scores = _score(language_model, (words for pair in pairs for words in (pair.more, pair.less)))
    shared, whole = [], []
    for pair in pairs:
        more, less = next(scores), next(scores)
        places = shared_words(pair.more, pair.less)
        shared.append(_at(more, [a for a, _ in places]) - _at(less, [b for _, b in places]))
        whole.append(_sum(more) - _sum(less))
    return np.round(shared, DIGITS), np.round(whole, DIGITS)


def shared_words(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places, in both sentences, of the words that they share in the same order."""
    matcher = difflib.SequenceMatcher(None, [*first], [*second], autojunk=False)
    return [(a + i, b + i) for a, b, size in matcher.get_matching_blocks() for i in range(size)]


def holistic_bias(
    language_model: LanguageModel,
    data: HolisticData,
    *,
    descriptors: int = 20,
    frames: int = 6,
    seed: int = 0,
) -> dict[str, Estimate]:
    """
    Measure how much a descriptor changes the probability of the rest of the sentence, by axis.

    Random sentences, the same for all descriptors, are scored without the descriptor's own words
    and its article, in both directions.

    Args:
        language_model: the language model.
        data: HolisticBias.
        descriptors: maximum number of random descriptors per axis.
        frames: number of sentences per descriptor.
        seed: seed of both choices.

    Returns:
        By axis, the standard deviation over descriptors of the mean log-probability of the rest of
        the sentence. The axis "nonce" has made-up words, for comparison.
    """
    rng = np.random.default_rng(seed)
    chosen = [data.frames[i] for i in rng.permutation(len(data.frames))[:frames]]
    parts = [
        (language_model.split(before), language_model.split(after)) for before, after in chosen
    ]
    axes = {
        axis: [own[i] for i in rng.permutation(len(own))[:descriptors]]
        for axis, own in data.axes.items()
    }
    flat = [descriptor for own in axes.values() for descriptor in own]
    values = iter(_score_frames(language_model, flat, parts))
    return {
        axis: bootstrap(_deviation, np.array([next(values) for _ in own]), seed=seed)
        for axis, own in axes.items()
        if len(own) > 1
    }


def _score_frames(
    language_model: LanguageModel,
    descriptors: Sequence[Descriptor],
    frames: Sequence[tuple[list[str], list[str]]],
) -> list[float]:
    """Return the mean log-probability of the frames' words, by descriptor."""
    middles = [[d.article, *language_model.split(d.text)] for d in descriptors]
    scores = _score(
        language_model,
        ([*before, *middle, *after] for middle in middles for before, after in frames),
    )
    found = []
    for middle in middles:
        values = []
        for before, after in frames:
            start = len(before) + len(middle)
            places = [*range(len(before)), *range(start, start + len(after))]
            values.append(_at(next(scores), places))
        found.append(float(np.mean(values)))
    return found


def _score(
    language_model: LanguageModel, sentences: Iterable[Sequence[str]]
) -> Iterator[SentenceScores]:
    return score_sentences(language_model.model, language_model.tokenizer, sentences)


def _at(scores: SentenceScores, places: Sequence[int]) -> float:
    """Sum the log-probabilities of some words, in both directions."""
    chosen = np.array(places, int)
    total = scores.forward[chosen].sum(dtype=np.float64)
    if scores.backward is not None:
        total += scores.backward[chosen + 1].sum(dtype=np.float64)
    return float(total)


def _sum(scores: SentenceScores) -> float:
    """Sum all log-probabilities, those of the boundaries included."""
    parts = [scores.forward] + ([] if scores.backward is None else [scores.backward])
    return float(sum(part.sum(dtype=np.float64) for part in parts))


def _preferred(differences: np.ndarray) -> Estimate:
    return mean((np.sign(differences) + 1) / 2)


def _deviation(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return values.std(axis, ddof=1)


def _by_occupation(
    pairs: Sequence[PronounPair], preferences: np.ndarray, of_it: bool
) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for pair, value in zip(pairs, preferences.tolist(), strict=True):
        if pair.is_occupation == of_it:
            groups.setdefault(pair.occupation, []).append(value)
    return {name: float(np.mean(values)) for name, values in groups.items()}


def _correlate(
    values: Mapping[str, float], shares: Mapping[str, float], floor: float | None = None
) -> Estimate:
    names = [name for name in values if name in shares]
    first, second = (np.array([table[name] for name in names]) for table in (values, shares))
    return pearson(first, second, floor)


__all__ = [
    "LanguageModel",
    "Preferences",
    "compare_pairs",
    "crows_pairs",
    "holistic_bias",
    "pronoun_preferences",
    "shared_words",
    "winobias",
    "winogender",
]
