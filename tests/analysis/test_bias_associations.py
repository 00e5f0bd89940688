"""WEAT, CEAT and Holm against brute force and a second computation."""

import itertools
import math

import numpy as np
import pytest
from gensim.models import KeyedVectors
from helpers.bias import WEAT
from helpers.vectors import noisy

from elmo_hf.analysis import StaticVectors
from elmo_hf.analysis.bias_associations import (
    LostWordsError,
    WordVectors,
    ceat,
    embed_alone,
    embed_in_context,
    holm,
    occupations,
    weat,
)
from elmo_hf.analysis.bias_data import AssociationTest, WordSet

SETS = [WordSet(part["category"], part["examples"]) for part in WEAT.values()]
TEST = AssociationTest("weat6", (SETS[0], SETS[1]), (SETS[2], SETS[3]))
WORDS = [word for own in SETS for word in own.words]


def cosine(first, second):
    return float(first @ second / math.sqrt((first @ first) * (second @ second)))


def brute_force(rows):
    """Effect size and exact p of one vector per word, written out."""

    def score(word):
        career, family = (
            np.mean([cosine(rows[word], rows[other]) for other in own.words]) for own in SETS[2:]
        )
        return career - family

    scores = {word: score(word) for own in SETS[:2] for word in own.words}
    names, first = [*scores], SETS[0].words

    def difference(chosen):
        inside = [scores[name] for name in chosen]
        outside = [scores[name] for name in names if name not in chosen]
        return sum(inside) / len(inside) - sum(outside) / len(outside)

    observed = difference(first)
    mean = sum(scores.values()) / len(scores)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores.values()) / (len(scores) - 1))
    ways = [difference(chosen) for chosen in itertools.combinations(names, len(first))]
    return observed / deviation, sum(way >= observed - 1e-12 for way in ways) / len(ways)


def test_weat_equals_brute_force():
    words = embed_alone(noisy(layers=2), WORDS)
    found = weat(words, TEST)
    for i, layer in enumerate(("layer 0", "layer 1")):
        rows = {word: words.found[word][i, 0].astype(np.float64) for word in WORDS}
        effect, p = brute_force(rows)
        assert found[layer].effect.value == pytest.approx(effect, abs=1e-5)
        assert found[layer].p == pytest.approx(p, abs=1e-12)
        assert found[layer].is_exact and found[layer].effect.n == 8
        assert found[layer].effect.low < effect < found[layer].effect.high
        four = [
            np.mean([cosine(rows[a], rows[b]) for a in target.words for b in attribute.words])
            for target in SETS[:2]
            for attribute in SETS[2:]
        ]
        assert found[layer].levels.cosines == pytest.approx(four, abs=1e-5)


def test_the_own_association_of_a_target_by_hand():
    # Both targets point along the first axis; attributes' cosines with it are 1, 0.6 and 0, -1.
    axis = {"x": [1, 0], "y": [2, 0], "z": [1, 0], "w": [3, 0]}
    axis |= {"a": [1, 0], "b": [3, 4], "c": [0, 1], "d": [-1, 0]}
    found = {word: np.array(row, np.float32)[None, None] for word, row in axis.items()}
    pairs = [WordSet(name, [*name]) for name in ("xy", "zw", "ab", "cd")]
    test = AssociationTest("t", (pairs[0], pairs[1]), (pairs[2], pairs[3]))
    levels = weat(WordVectors(["static"], found), test)["static"].levels
    wanted = (0.8 - -0.5) / np.std([1, 0.6, 0, -1], ddof=1)
    assert levels.targets == pytest.approx((wanted, wanted))


def test_many_words_are_permuted_at_random():
    many = [WordSet(name, [f"{name}{i}" for i in range(12)]) for name in "xyab"]
    test = AssociationTest("large", (many[0], many[1]), (many[2], many[3]))
    words = embed_alone(noisy(layers=1), [word for own in many for word in own.words])
    found = weat(words, test)["layer 0"]
    assert not found.is_exact and 0 < found.p < 1
    assert weat(words, test)["layer 0"] == found


def contexts_of_words(count=7):
    rng = np.random.default_rng(1)
    rows = {word: rng.normal(size=(1, count, 5)).astype(np.float32) for word in WORDS}
    return WordVectors(["layer 0"], rows)


def test_ceat_equals_a_second_computation(monkeypatch):
    words, seed, samples = contexts_of_words(), 3, 50
    found = ceat(words, TEST, samples=samples, seed=seed)["layer 0"]
    # The same contexts, drawn as the function documents: targets first, then attributes.
    rng = np.random.default_rng(seed)
    targets, attributes = rng.integers(0, 7, (samples, 8)), rng.integers(0, 7, (samples, 6))
    effects, variances = [], []
    for sample in range(samples):
        chosen = [*targets[sample], *attributes[sample]]
        rows = {word: words.found[word][0, i] for word, i in zip(WORDS, chosen, strict=True)}
        effects.append(brute_force(rows)[0])
        scores = [
            np.mean([cosine(rows[w], rows[a]) for a in SETS[2].words])
            - np.mean([cosine(rows[w], rows[a]) for a in SETS[3].words])
            for w in WORDS[:8]
        ]
        variances.append(np.var(scores, ddof=1))
    weights = [1 / v for v in variances]
    total = sum(weights)
    squares = sum(w * e * e for w, e in zip(weights, effects, strict=True))
    sums = sum(w * e for w, e in zip(weights, effects, strict=True))
    q = squares - sums**2 / total
    tau2 = max(0, (q - (samples - 1)) / (total - sum(w * w for w in weights) / total))
    weights = [1 / (v + tau2) for v in variances]
    combined = sum(w * e for w, e in zip(weights, effects, strict=True)) / sum(weights)
    p = math.erfc(abs(combined) * math.sqrt(sum(weights)) / math.sqrt(2))
    assert found.combined == pytest.approx(combined, rel=1e-4)
    assert found.tau == pytest.approx(math.sqrt(tau2), rel=1e-3, abs=1e-4)
    assert found.p == pytest.approx(p, rel=1e-3)
    assert found.mean.value == pytest.approx(np.mean(effects), rel=1e-4)
    assert found.opposite == np.mean(np.sign(effects) != np.sign(combined))
    assert found.mean.low < found.mean.value < found.mean.high
    assert (found.samples, found.contexts, found.mean.n) == (samples, 7, 8)


def test_contexts_are_the_words_own_vectors():
    source = noisy(layers=2)
    text = [["my", "office", "is", "home"], ["New", "York", "is", "New"], ["office"], ["pays"]]
    words = embed_in_context(source, ["office", "New York", "pay"], text, contexts=5)
    assert {word: rows.shape for word, rows in words.found.items()} == {
        "office": (2, 2, 6),
        "New York": (2, 1, 6),
    }
    rows = [*source(text)]
    np.testing.assert_allclose(words.found["New York"][:, 0], rows[1][:, :2].mean(1))
    expected = sorted([rows[0][1, 1].tolist(), rows[2][1, 0].tolist()])
    assert sorted(words.found["office"][1].tolist()) == expected
    assert embed_in_context(source, ["office"], text, contexts=1).found["office"].shape[1] == 1


def test_lost_words_are_named_and_more_than_a_fifth_refused():
    vectors = KeyedVectors(2)
    vectors.add_vectors([word for word in WORDS if word != "Ann"], np.eye(13, 2) + 1)
    words = embed_alone(StaticVectors(vectors), WORDS)
    assert "Ann" not in words.found and "New York" not in words.found  # "New" has no vector
    with pytest.raises(
        LostWordsError, match=r"1 of the 4 words of Male are missing, more than 20%: Ann"
    ):
        weat(words, TEST)
    found = {word: np.ones((1, 1, 2), np.float32) for word in "abcdefghijk"}
    five = [WordSet(name, [*letters]) for name, letters in zip("XYAB", WORDS_OF_FIVE, strict=True)]
    test = AssociationTest("five", (five[0], five[1]), (five[2], five[3]))
    assert weat(WordVectors(["static"], found), test)["static"].lost == ["z"]


WORDS_OF_FIVE = ("abcdz", "efghi", "ab", "cd")


def test_a_string_instead_of_a_word_list_is_refused():
    test = TEST._replace(attributes=(WordSet("Career", "office"), SETS[3]))
    with pytest.raises(ValueError, match="Career are 'office'; expected a list of words"):
        weat(embed_alone(noisy(), [*WORDS, *"office"]), test)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1, 1]


def test_occupations_are_correlated_with_their_share():
    # The cosine of each job with "she" minus that with "he" is proportional to its share of women.
    rows = {"she": [1, 0], "he": [-1, 0], "nurse": [3, 4], "cook": [0, 1], "guard": [-3, 4]}
    found = {word: np.array(row, np.float32)[None, None] for word, row in rows.items()}
    shares = {"nurse": 0.9, "cook": 0.5, "guard": 0.1, "absent": 0.3}
    result = occupations(WordVectors(["static"], found), shares)["static"]
    assert (result.value, result.n) == (pytest.approx(1), 3)
    for lost, what in (("he", "fewer than 1 words of MALE"), ("nurse", "2 words of occupations")):
        left = {word: rows for word, rows in found.items() if word not in (lost, "cook")}
        with pytest.raises(LostWordsError, match=what):
            occupations(WordVectors(["static"], left), shares)
