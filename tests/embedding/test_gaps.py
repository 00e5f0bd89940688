"""Gaps filled by a language model: the numbers are those of its own softmax."""

import numpy as np
import pytest
import torch
from test_scoring import WORDS, make_model, plainly

from elmo_hf import ElmoModel, ElmoTokenizer, fill_gaps
from elmo_hf.gaps import find_gaps

SENTENCE = ["the", "___", "rose", "of", "the", "bank", "."]
CANDIDATES = WORDS[3:]
PRIOR = np.log(np.log1p(1 / np.arange(4, len(WORDS) + 1)))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tokenizer():
    return ElmoTokenizer(lm_vocab=WORDS, max_characters_per_token=12)


def filled(words, fillers):
    fillers = iter(fillers)
    return [next(fillers) if word == "___" else word for word in words]


def predictions(model, tokenizer, words, place):
    """Log-probabilities of all candidates at a place, forward and backward."""
    inputs = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    forward = output.forward_logits[0, place].log_softmax(-1)
    backward = output.backward_logits[0, place + 2].log_softmax(-1)
    return np.array([forward[3:], backward[3:]])


def normalised(scores):
    return scores - np.logaddexp.reduce(scores)


def by_word(gap, name):
    found = {candidate.word: getattr(candidate, name) for candidate in gap.candidates}
    return [found[word] for word in CANDIDATES]


def test_each_side_is_the_words_own_score_in_the_filled_sentence(model, tokenizer):
    (gap,) = fill_gaps(model, tokenizer, SENTENCE)
    assert gap.position == 1 and len(gap.candidates) == len(CANDIDATES)
    scores = [plainly(model, tokenizer, filled(SENTENCE, [word])) for word in CANDIDATES]
    forward = np.array([forward[1] for forward, _, _ in scores])
    backward = np.array([backward[2] for _, backward, _ in scores])
    np.testing.assert_allclose(by_word(gap, "forward"), forward, rtol=1e-5)
    np.testing.assert_allclose(by_word(gap, "backward"), backward, rtol=1e-5)
    both = normalised(forward + backward - PRIOR)
    np.testing.assert_allclose(by_word(gap, "both"), both, rtol=1e-5)
    found = [candidate.both for candidate in gap.candidates]
    assert found == sorted(found, reverse=True)


def test_the_sides_decide_alone_or_without_frequencies(model, tokenizer):
    for direction in ("forward", "backward"):
        (gap,) = fill_gaps(model, tokenizer, SENTENCE, direction=direction, top=3)
        found = [getattr(candidate, direction) for candidate in gap.candidates]
        everything = predictions(model, tokenizer, SENTENCE, 1)[int(direction == "backward")]
        np.testing.assert_allclose(found, np.sort(everything)[:-4:-1], rtol=1e-5)
    (gap,) = fill_gaps(model, tokenizer, SENTENCE, sorted_by_frequency=False)
    both = normalised(predictions(model, tokenizer, SENTENCE, 1).sum(0))
    np.testing.assert_allclose(by_word(gap, "both"), both, rtol=1e-5)


def test_candidates_can_be_named(model, tokenizer):
    (gap,) = fill_gaps(model, tokenizer, SENTENCE, words=["river", "a", "river"])
    assert {candidate.word for candidate in gap.candidates} == {"a", "river"}
    assert sum(np.exp(candidate.both) for candidate in gap.candidates) == pytest.approx(1)
    (everything,) = fill_gaps(model, tokenizer, SENTENCE)
    forward = {candidate.word: candidate.forward for candidate in everything.candidates}
    for candidate in gap.candidates:
        assert candidate.forward == pytest.approx(forward[candidate.word])


def test_neighbouring_gaps_are_read_in_their_likely_words(model, tokenizer):
    """Three gaps; the middle one reads its two neighbours, the outer ones also the farthest."""
    words = ["the", "___", "___", "of", "___", "."]
    places, unknown = [1, 2, 4], filled(words, ["<UNK>"] * 3)
    first = [
        normalised(predictions(model, tokenizer, unknown, place).sum(0) - PRIOR) for place in places
    ]
    best = [CANDIDATES[scores.argmax()] for scores in first]
    gaps = fill_gaps(model, tokenizer, words)
    assert [gap.position for gap in gaps] == places
    for number, (gap, place) in enumerate(zip(gaps, places, strict=True)):
        for side, name in enumerate(("forward", "backward")):
            near = number + (1 if side else -1)
            weights = first[near] if near in range(3) else np.zeros(len(CANDIDATES))
            means = []
            for word in CANDIDATES:
                fillers = [word if i == near else best[i] for i in range(3)]
                means.append(predictions(model, tokenizer, filled(words, fillers), place)[side])
            expected = np.logaddexp.reduce(normalised(weights)[:, None] + np.array(means), 0)
            np.testing.assert_allclose(by_word(gap, name), expected, rtol=1e-4)


def test_a_model_of_one_direction_fills_forward_only(tokenizer):
    model = make_model(bidirectional=False)
    for words in (SENTENCE, ["the", "___", "___"]):
        gap = fill_gaps(model, tokenizer, words, direction="forward")[0]
        assert all(candidate.backward is candidate.both is None for candidate in gap.candidates)
    with pytest.raises(ValueError, match='no backward LSTMs; pass direction="forward"'):
        fill_gaps(model, tokenizer, SENTENCE)


@pytest.mark.parametrize("splitter", ["treebank", "billion-words", "whitespace"])
@pytest.mark.parametrize("gap", ["___", "[MASK]", "<mask>", "_", "gap"])
def test_gaps_of_a_text_are_found_whatever_splits_it(splitter, gap):
    tokenizer = ElmoTokenizer(word_splitter=splitter)
    words, places = find_gaps(tokenizer, f"{gap} of words , the {gap} {gap} .", gap)
    assert places == [0, 5, 6] and words[1:5] == ["of", "words", ",", "the"]


def test_punctuation_may_touch_a_gap(model, tokenizer):
    words, places = find_gaps(tokenizer, "(___), the ___'s “___”.", "___")
    assert words[1] == words[5] == "word" and places == [1, 5, 8]
    (gap,) = fill_gaps(model, tokenizer, "the ___.")
    (same,) = fill_gaps(model, tokenizer, ["the", "___", "."])
    assert gap == same


def test_a_longer_row_of_underscores_is_one_gap(tokenizer):
    for gap in ("____", "_____", "_" * 12):
        assert find_gaps(tokenizer, f"the {gap} rose.", "___")[1] == [1]
        assert find_gaps(tokenizer, ["the", gap, "rose"], "___")[1] == [1]


def test_what_cannot_be_filled_is_refused(model, tokenizer):
    def refused(message, sentence=SENTENCE, model=model, tokenizer=tokenizer, **options):
        with pytest.raises(ValueError, match=message):
            fill_gaps(model, tokenizer, sentence, **options)

    refused("has no gap; write ___", "the river rose.")
    refused("has no gap; write ___", [])
    refused("part of a word", "un___ed")
    refused("part of a word", ["un___ed", "___"])
    refused("gap is ' '", gap=" ")
    refused("top is 0", top=0)
    refused("direction is 'left'; expected both, forward, backward", direction="left")
    refused(r"lacks \['unicorn', '<UNK>'\]", words=["unicorn", "<UNK>", "a"])
    refused("words is 'river'; expected a list", words="river")
    bare = ElmoTokenizer(lm_vocab=WORDS, max_characters_per_token=12, add_eos_token=False)
    refused("does not add both boundaries", tokenizer=bare)
    refused("has 0 words, the model's softmax 10", tokenizer=ElmoTokenizer())
    refused("ElmoModel, which predicts no words; load the language", model=ElmoModel(model.config))
    refused("training mode", model=make_model().train())


def test_a_model_of_word_ids_reads_other_gaps_as_its_unknown_word():
    tokenizer = ElmoTokenizer(use_characters=False, lm_vocab=WORDS)
    rows = len(WORDS) + 1
    boundaries = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = make_model(
        filters=[], vocab_size=rows, word_vocab_size=rows, word_embedding_dim=6, **boundaries
    )
    (gap,) = fill_gaps(model, tokenizer, SENTENCE)
    forward, _ = predictions(model, tokenizer, SENTENCE, 1)
    np.testing.assert_allclose(by_word(gap, "forward"), forward, rtol=1e-5)


def test_half_precision_and_threads_are_left_alone(model, tokenizer):
    (expected,) = fill_gaps(model, tokenizer, SENTENCE)
    (found,) = fill_gaps(make_model().to(torch.bfloat16), tokenizer, SENTENCE)
    np.testing.assert_allclose(by_word(found, "forward"), by_word(expected, "forward"), atol=0.1)
