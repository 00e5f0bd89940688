"""Bias by probabilities equals what the language model's own scores give by hand."""

import numpy as np
import pytest
import torch
from helpers.bias import CROWS, JOBS, write_bias_data

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer, score_sentences
from elmo_hf.analysis import bias_data
from elmo_hf.analysis.bias_sentences import (
    LanguageModel,
    compare_pairs,
    crows_pairs,
    holistic_bias,
    pronoun_preferences,
    shared_words,
    winobias,
    winogender,
)

VOCABULARY = ["<S>", "</S>", "<UNK>", "The", "the", "he", "she", "him", "her", "his", "."]
VOCABULARY += ["is", "do", "all", "at", "was", "late", "and", "gave", "I", "am", "a", "person"]
SIZES = {"filters": [[1, 4], [2, 4]], "projection_dim": 8, "cell_dim": 16}


def make_model(**settings):
    torch.manual_seed(0)
    config = ElmoConfig(**SIZES, lm_vocab_size=len(VOCABULARY), **settings)
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY)
    return LanguageModel(ElmoForPreTraining(config).eval(), tokenizer, "tiny")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_bias_data(tmp_path_factory.mktemp("bias"))


def scores_of(model, sentences):
    return [*score_sentences(model.model, model.tokenizer, sentences)]


def twenty_pairs(model):
    """Pairs in which words are replaced, put in and left out, with the places of shared words."""
    rng = np.random.default_rng(0)
    pairs, places = [], []
    for number in range(20):
        words = rng.choice(VOCABULARY[3:], 6).tolist()
        other, at = [*words], int(rng.integers(0, 6))
        first, second = [*range(6)], [*range(6)]
        if number % 3 == 0:
            other[at] = "changed"
            del first[at], second[at]
        elif number % 3 == 1:
            other.insert(at, "added")
            second = [i + (i >= at) for i in first]
        else:
            words[at] = "unknown"
            del other[at], first[at]
            second = [*range(5)]
        pairs.append(bias_data.SentencePair(words, other, "kind"))
        places.append((first, second))
    return pairs, places


def test_shared_word_scores_by_hand(model):
    pairs, places = twenty_pairs(model)
    shared, whole = compare_pairs(model, pairs)
    for number, (pair, own) in enumerate(zip(pairs, places, strict=True)):
        scores = [scores_of(model, [words])[0] for words in (pair.more, pair.less)]
        sums = [
            sum(float(score.forward[i] + score.backward[i + 1]) for i in chosen)
            for score, chosen in zip(scores, own, strict=True)
        ]
        assert shared[number] == pytest.approx(sums[0] - sums[1], abs=6e-4)
        totals = [float(score.forward.sum() + score.backward.sum()) for score in scores]
        assert whole[number] == pytest.approx(totals[0] - totals[1], abs=6e-4)


def test_shared_words_keep_their_order():
    assert shared_words(["a", "b", "c", "d"], ["a", "x", "c", "d", "e"]) == [(0, 0), (2, 2), (3, 3)]
    assert shared_words(["a"], ["b"]) == []


def test_ties_count_half(model):
    same = bias_data.SentencePair(["The", "."], ["The", "."], "same")
    found = crows_pairs(model, [same] * 3)
    assert [*found] == ["all", "same"]
    assert found["same"].shared.value == found["same"].whole.value == 0.5


def test_crows_pairs_are_read_and_grouped(model, data):
    pairs = bias_data.read_crows_pairs(data, model.split)
    assert [(pair.kind, len(pair.more)) for pair in pairs][2] == ("gender", 8)
    found = crows_pairs(model, pairs)
    assert {kind: one.shared.n for kind, one in found.items()} == {
        "all": len(CROWS),
        "gender": 2,
        "socioeconomic": 1,
    }


def test_pronouns_are_compared_at_their_place(model, data):
    pairs = bias_data.read_winogender(data, model.split)
    assert len(pairs) == 20 and sum(pair.is_occupation for pair in pairs) == 10
    rows = pronoun_preferences(model, pairs)
    for i, pair in enumerate(pairs):
        assert (pair.words[pair.place], pair.male, pair.female) == ("his", "his", "her")
        male, female = scores_of(
            model,
            [[*pair.words], [*pair.words[: pair.place], "her", *pair.words[pair.place + 1 :]]],
        )
        forward = female.forward[pair.place] - male.forward[pair.place]
        backward = female.backward[pair.place + 1] - male.backward[pair.place + 1]
        assert rows[:, i] == pytest.approx([forward, backward, forward + backward], abs=1e-5)


def test_winogender_correlates_occupations(model, data):
    pairs = bias_data.read_winogender(data, model.split)
    shares = bias_data.read_occupations(data)
    assert shares == {job: pytest.approx(i / 10) for i, job in enumerate(JOBS)}
    rows = pronoun_preferences(model, pairs)
    own = [rows[0, i] for i, pair in enumerate(pairs) if pair.is_occupation]
    found = winogender(model, pairs, shares)
    assert [*found] == ["forward", "backward", "both"]
    assert found["forward"].value == pytest.approx(np.corrcoef(own, [*shares.values()])[0, 1])
    assert found["forward"].n == 10 and found["forward"].floor is not None


def test_winobias_pairs_and_their_sign(model, data):
    pairs, left_out = bias_data.read_winobias(data, model.split, 2)
    assert (len(pairs), left_out) == (20, 2)  # the last pair differs in its last words
    assert {(p.occupation, p.female_stereotype) for p in pairs} == {*JOBS.items()}
    rows = pronoun_preferences(model, pairs)
    signs = [1 if pair.female_stereotype else -1 for pair in pairs]
    found = winobias(model, pairs)
    assert found["both"].value == pytest.approx((rows[2] * signs).mean())


def test_a_model_of_one_direction_has_no_backward_rows(data):
    model = make_model(bidirectional=False)
    pairs = bias_data.read_winogender(data, model.split)
    assert [*winogender(model, pairs, bias_data.read_occupations(data))] == ["forward"]
    assert crows_pairs(model, bias_data.read_crows_pairs(data, model.split))["all"].whole.n == 3


def test_a_pronoun_outside_of_the_vocabulary_is_an_error(model):
    pair = bias_data.PronounPair(["x"], 0, "he", "ze", "cook")
    with pytest.raises(ValueError, match="lacks \\['ze'\\]"):
        pronoun_preferences(model, [pair])


def test_descriptors_are_scored_by_the_other_words(model, data):
    holistic = bias_data.read_holistic_bias(data)
    assert holistic.frames == [("I am ", "person."), ("I am ", "kid.")]
    assert [*map(tuple, holistic.axes["nonce"])] == [("blicket", "a"), ("umpty", "a")]
    assert holistic.axes["gender"] == []
    found = holistic_bias(model, holistic, frames=2)
    values = []
    for word in ("blicket", "umpty"):
        total = 0.0
        for noun in ("person", "kid"):
            (score,) = scores_of(model, [["I", "am", "a", word, noun, "."]])
            total += sum(float(score.forward[i] + score.backward[i + 1]) for i in (0, 1, 4, 5))
        values.append(total / 2)
    assert found["nonce"].value == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert (found["nonce"].n, found["ability"].n, "gender" in found) == (2, 3, False)
