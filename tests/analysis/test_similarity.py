"""Words in two contexts: chance without context, and each score by brute force."""

import numpy as np
import pytest
import torch
from helpers.vectors import Given, noisy
from scipy.stats import spearmanr

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.analysis.similarity import (
    Cosines,
    Pair,
    WordInSentence,
    pair_cosines,
    rating_change_correlation,
    rating_correlation,
    same_sense_accuracy,
    same_sense_auc,
)
from elmo_hf.analysis.sources import ElmoVectors

FORMS = ["bank", "rose", "Bank's", "über", "plant"]


def make_pairs(count, seed=0):
    rng = np.random.default_rng(seed)

    def place(form):
        words = rng.choice(["the", "a", "river", "money", "grew", "."], rng.integers(1, 9)).tolist()
        index = int(rng.integers(len(words) + 1))
        return WordInSentence([*words[:index], form, *words[index:]], index)

    forms = rng.choice(FORMS, count)
    return [Pair(place(form), place(form), i % 2) for i, form in enumerate(forms.tolist())]


def given(values, gold):
    values = np.atleast_2d(values).astype(float)
    layers = [f"layer {i}" for i in range(len(values))]
    return Cosines(layers, values, np.zeros_like(values), np.array(gold), 0)


def test_without_context_the_same_word_twice_is_chance_exactly():
    torch.manual_seed(0)
    config = ElmoConfig(filters=[[1, 8], [2, 8]], projection_dim=8, cell_dim=16)
    model = ElmoModel(config).eval()
    source = ElmoVectors(ElmoEmbedder(model, ElmoTokenizer(), batch_words=64))
    tune, test = (pair_cosines(source, make_pairs(40, seed)) for seed in (0, 1))
    assert all(pair.has_one_form() for pair in make_pairs(40))
    assert (test.values[0] == 1).all() and test.values[1].max() < 1
    assert (test.floors[0] < 1).mean() > 0.5
    accuracy, area = same_sense_accuracy(tune, test)["layer 0"], same_sense_auc(test)["layer 0"]
    assert (accuracy.value, accuracy.n) == (0.5, 40) and accuracy.low < 0.5 < accuracy.high
    assert (area.value, area.low, area.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("center", [False, True])
def test_cosines_are_those_of_the_words_in_their_sentences(center):
    source, pairs = noisy(), make_pairs(6)
    found = pair_cosines(source, pairs, center=center, seed=3)
    places = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    vectors = [next(source([words]))[:, index] for words, index in places]
    average = np.mean(vectors, 0) * center
    for i in range(6):
        a, b = vectors[i] - average, vectors[i + 6] - average
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(found.values[:, i], cosines, atol=2e-6)
    again = pair_cosines(source, pairs, center=center, seed=3)
    np.testing.assert_array_equal(found.floors, again.floors)
    assert (found.floors != pair_cosines(source, pairs, center=center, seed=4).floors).any()
    mean = found.mean()["layer 1"]
    assert mean.low <= mean.value <= mean.high and mean.floor == found.floors[1].mean()


def test_the_threshold_comes_from_the_tuning_pairs():
    tune = given([0.1, 0.4, 0.5, 0.6, 0.9], [0, 0, 1, 0, 1])
    test = given([0.2, 0.45, 0.5, 0.7], [0, 1, 1, 0])
    best = max(
        [*tune.values[0], 2.0], key=lambda t: (((tune.values[0] >= t) == tune.gold).sum(), t)
    )
    wanted = ((test.values[0] >= best) == test.gold).mean()
    assert same_sense_accuracy(tune, test)["layer 0"].value == wanted


def test_ranking_counts_ties_half():
    test = given([0.3, 0.5, 0.5, 0.9], [0, 0, 1, 1])
    found = same_sense_auc(test)["layer 0"]
    assert (found.value, found.floor, found.n) == ((1 + 0.5 + 1 + 1) / 4, 0.5, 4)


def test_ratings_are_correlated_by_rank():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=60)
    rated = given([gold + rng.normal(size=60), np.ones(60)], gold)
    found = rating_correlation(rated)
    wanted = spearmanr(rated.values[0], gold).statistic
    assert found["layer 0"].value == pytest.approx(wanted)
    assert found["layer 0"].low < wanted < found["layer 0"].high < 1
    assert found["layer 1"].value == found["layer 0"].floor == 0
    half = rating_correlation(rated.select(np.arange(60) < 30))["layer 0"]
    assert half.n == 30


def test_changes_of_context_are_correlated_around_zero():
    first, second = given([0.5, 0.2, 0.4], [5, 2, 4]), given([0.7, 0.1, 0.4], [8, 3, 4])
    moved, rated = np.array([0.2, -0.1, 0]), np.array([3, 1, 0])
    wanted = moved @ rated / np.sqrt((moved @ moved) * (rated @ rated))
    assert rating_change_correlation(first, second)["layer 0"].value == pytest.approx(wanted)


def test_a_place_outside_of_its_sentence_is_refused():
    source = Given(1, lambda words: np.ones((1, len(words), 2)))
    outside = Pair(WordInSentence(["a", "b"], 2), WordInSentence(["a"], 0), 1)
    with pytest.raises(
        ValueError, match="position 2 is outside of the sentence 'a b', which has 2 words"
    ):
        pair_cosines(source, [outside])
    with pytest.raises(ValueError, match="pairs is empty"):
        pair_cosines(source, [])
