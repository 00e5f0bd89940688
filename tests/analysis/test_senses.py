"""Sense disambiguation by hand: means, ties, back-off, several words, the score."""

import numpy as np
import pytest
from helpers.vectors import Given

from elmo_hf.analysis.senses import (
    SenseSentence,
    SenseTagged,
    SenseVectors,
    disambiguate,
    score_senses,
)

# Layer 0 has one vector for all words, layer 1 the two digits of the word.
SOURCE = Given(
    2, lambda words: [[[1, 1]] * len(words), [[int(digit) for digit in w[-2:]] for w in words]]
)


def sentence(*words_with_senses, lemma="bank NOUN"):
    words = [word for word, _ in words_with_senses]
    tagged = [
        SenseTagged(i, i + 1, lemma, senses)
        for i, (_, senses) in enumerate(words_with_senses)
        if senses
    ]
    return SenseSentence(words, tagged)


TRAIN = [
    sentence(("bank90", ["river"]), ("the55", None), ("bank31", ["money"])),
    sentence(("bank19", ["money"]), ("banks28", ["money", "house"])),
    sentence(("run40", ["go"]), lemma="run VERB"),
]


def test_the_nearest_mean_of_the_lemma_wins():
    model = SenseVectors(SOURCE, TRAIN)
    # Means in layer 1: river (9, 0), money (2, 6), house (2, 8).
    test = [sentence(("bank81", ["river"]), ("bank23", ["x"]), ("bank19", ["x"]))]
    assert model.predict(test)[1] == ["river", "money", "house"]
    assert model.most_frequent() == {"bank NOUN": "money", "run VERB": "go"}


def test_equal_cosines_give_the_most_frequent_sense():
    test = [sentence(("bank81", ["river"]), ("bank19", ["house"]))]
    assert SenseVectors(SOURCE, TRAIN).predict(test)[0] == ["money", "money"]


def test_a_lemma_that_was_not_seen_has_no_answer():
    test = [sentence(("sea11", ["water"]), lemma="sea NOUN")]
    assert SenseVectors(SOURCE, TRAIN).predict(test) == [[None], [None]]


def test_several_words_are_averaged():
    train = [sentence(("a10", ["one"]), ("a01", ["two"]), lemma="a")]
    words = ["a90", "a18"]
    for stop, wanted in ((1, "one"), (2, "one")):
        test = [SenseSentence(words, [SenseTagged(0, stop, "a", ["one"])])]
        assert SenseVectors(SOURCE, train).predict(test)[1] == [wanted]
    test = [SenseSentence(words, [SenseTagged(1, 2, "a", ["two"])])]
    assert SenseVectors(SOURCE, train).predict(test)[1] == ["two"]


def test_the_score_by_hand():
    tagged = [
        SenseTagged(0, 1, lemma, senses)
        for lemma, senses in [("a", ["a1"]), ("a", ["a2", "a3"]), ("b", ["b1"]), ("c", ["c1"])]
    ]
    predictions = ["a1", "a3", None, "c2"]
    plain = score_senses(predictions, tagged)
    assert (plain.value, plain.n) == (0.5, 4)
    assert (plain.low, plain.high) == pytest.approx((0.0676, 0.9324), abs=1e-4)  # exact binomial
    assert score_senses(predictions, tagged, {"b": "b1", "c": "c1"}).value == 0.75
    with pytest.raises(ValueError):
        score_senses(predictions[1:], tagged)


def test_layers_are_scored_beside_the_most_frequent_sense():
    test = [
        sentence(("bank81", ["river"]), ("bank23", ["money"]), ("bank92", ["river"])),
        sentence(("sea11", ["water"]), lemma="sea NOUN"),
    ]
    found = disambiguate(SOURCE, TRAIN, test)
    assert (found["layer 0"].value, found["layer 1"].value) == (0.25, 0.75)
    assert found["layer 1"].floor == 0.25
    found = disambiguate(SOURCE, TRAIN, test, {"sea NOUN": "water"})
    assert (found["layer 0"].value, found["layer 1"].value, found["layer 1"].floor) == (0.5, 1, 0.5)
    assert isinstance(found["layer 1"].value, float) and np.isfinite(found["layer 1"].high)
