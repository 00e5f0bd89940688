"""Scores of a language model's words, one by one, and perplexity."""

import math

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer, scoring
from elmo_hf.scoring import Perplexity, SentenceScores, perplexity, score_sentences, score_text

WORDS = ["<S>", "</S>", "<UNK>", "the", "bank", "of", "a", "river", "rose", "."]
TEXT = [
    ["the", "river", "rose", "."],
    ["a", "bank"],
    [],
    ["the", "flooded", "bank", "of", "the", "river", "rose", "."],
    ["rose"],
    ["of", "the", "<UNK>", "river", "of", "a", "bank"],
]


def make_model(**changes):
    torch.manual_seed(0)
    tiny = {
        "cell_dim": 12,
        "projection_dim": 6,
        "filters": [[1, 4], [2, 4]],
        "char_embedding_dim": 3,
        "num_highway_layers": 1,
        "lm_vocab_size": len(WORDS),
        "max_characters_per_token": 12,
    }
    model = ElmoForPreTraining(ElmoConfig(**(tiny | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that contexts matter
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tokenizer():
    return ElmoTokenizer(lm_vocab=WORDS, max_characters_per_token=12)


def plainly(model, tokenizer, words):
    """Scores from the model's own logits, a sentence at a time."""
    inputs = tokenizer(
        [words], is_split_into_words=True, return_tensors="pt", return_lm_labels=True
    )
    with torch.no_grad():
        output = model(**inputs)
    ids = inputs["labels"][0]
    steps = torch.arange(len(ids) - 1)
    forward = output.forward_logits[0].log_softmax(-1)[steps, ids[1:]]
    backward = output.backward_logits[0].log_softmax(-1)[steps + 1, ids[:-1]]
    return forward.numpy(), backward.numpy(), output.loss.item()


def test_each_word_has_the_log_probability_of_the_models_logits(model, tokenizer):
    scores = list(score_sentences(model, tokenizer, TEXT))
    assert len(scores) == len(TEXT)
    for words, score in zip(TEXT, scores, strict=True):
        forward, backward, loss = plainly(model, tokenizer, words)
        np.testing.assert_allclose(score.forward, forward, rtol=1e-5)
        np.testing.assert_allclose(score.backward, backward, rtol=1e-5)
        assert math.isclose(math.log(perplexity([score]).mean), loss, rel_tol=1e-5)
        assert score.unknown.tolist() == [w not in WORDS or w == "<UNK>" for w in words]


@pytest.mark.parametrize("batch_words", [1, 12, 1000])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_workers_do_not_change_the_scores(
    model, tokenizer, batch_words, workers, monkeypatch
):
    expected = list(score_sentences(model, tokenizer, TEXT))
    monkeypatch.setattr(scoring, "WINDOW", 4)
    monkeypatch.setattr(scoring, "MAX_LOGITS", 25)  # two words at a time
    finished, threads = [], torch.get_num_threads()
    found = score_sentences(
        model,
        tokenizer,
        iter(TEXT),
        batch_words=batch_words,
        workers=workers,
        progress=finished.append,
    )
    for score, same in zip(found, expected, strict=True):
        np.testing.assert_allclose(score.forward, same.forward, rtol=1e-5)
        np.testing.assert_allclose(score.backward, same.backward, rtol=1e-5)
    assert sum(finished) == len(TEXT)
    assert torch.get_num_threads() == threads


def test_texts_are_split_by_the_tokenizer(model, tokenizer):
    (from_text,) = score_sentences(model, tokenizer, ["the river rose."])
    (from_words,) = score_sentences(model, tokenizer, TEXT[:1])
    np.testing.assert_allclose(from_text.forward, from_words.forward, rtol=1e-5)


def test_running_text_is_one_sequence_in_each_direction(model, tokenizer, monkeypatch):
    """bilm-tf's streams: forward without </S>, backward without <S>, read by a model in one go."""
    forward = [word for words in TEXT for word in ("<S>", *words)]
    backward = [word for words in TEXT for word in (*words, "</S>")]
    inputs = tokenizer(
        [forward, backward],
        is_split_into_words=True,
        add_special_tokens=False,
        return_tensors="pt",
        padding=True,
    )
    with torch.no_grad():
        output = model(**inputs)
    nexts = [word for words in TEXT for word in (*words, "</S>")]
    previous = [word for words in TEXT for word in ("<S>", *words)]
    expected = []
    for logits, targets in (
        (output.forward_logits[0], nexts),
        (output.backward_logits[1], previous),
    ):
        ids = [WORDS.index(word) if word in WORDS else 2 for word in targets]
        expected.append(logits.log_softmax(-1)[range(len(ids)), ids].numpy())
    monkeypatch.setattr(scoring, "BLOCK_WORDS", 7)
    scores = score_text(model, tokenizer, TEXT)
    for direction, name in enumerate(("forward", "backward")):
        found = np.concatenate([getattr(score, name) for score in scores])
        np.testing.assert_allclose(found, expected[direction], rtol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("streams", [2, 3, 50])
def test_streams_are_parts_of_the_text_read_alone(model, tokenizer, streams, workers, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK_WORDS", 5)
    found = score_text(model, tokenizer, TEXT, streams=streams, workers=workers)
    ends = np.cumsum([len(words) + 2 for words in TEXT])
    part_of = [(end - 1) * streams // ends[-1] for end in ends]
    expected = []
    for part in sorted(set(part_of)):
        own = [words for words, p in zip(TEXT, part_of, strict=True) if p == part]
        expected += score_text(model, tokenizer, own)
    for score, same in zip(found, expected, strict=True):
        np.testing.assert_allclose(score.forward, same.forward, rtol=1e-5)
        np.testing.assert_allclose(score.backward, same.backward, rtol=1e-5)


def test_a_model_of_word_ids_is_scored_too():
    tokenizer = ElmoTokenizer(use_characters=False, use_word_ids=True, lm_vocab=WORDS)
    rows = len(WORDS) + 1
    model = make_model(
        filters=[],
        vocab_size=rows,
        word_vocab_size=rows,
        word_embedding_dim=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    for words, score in zip(TEXT, score_sentences(model, tokenizer, TEXT), strict=True):
        np.testing.assert_allclose(score.forward, plainly(model, tokenizer, words)[0], rtol=1e-5)


def test_a_model_of_one_direction_has_forward_scores_only(tokenizer):
    model = make_model(bidirectional=False)
    for scores in (
        list(score_sentences(model, tokenizer, TEXT)),
        score_text(model, tokenizer, TEXT),
    ):
        assert all(score.backward is None for score in scores)
        total = perplexity(scores)
        assert total.backward is None and total.mean == total.forward > 1


def test_perplexity_is_what_one_computes_by_hand():
    scores = [
        SentenceScores(np.log([0.5, 0.25]), np.log([0.5, 0.5]), np.array([True])),
        SentenceScores(np.log([0.125, 1, 1]), np.log([0.25, 1, 1]), np.array([False, False])),
    ]
    found = perplexity(iter(scores))
    assert found == Perplexity(
        forward=pytest.approx(2 ** (6 / 5)),
        backward=pytest.approx(2 ** (4 / 5)),
        mean=pytest.approx(2),
        unknown_rate=pytest.approx(1 / 3),
        words=3,
        sentences=2,
    )


def test_perplexity_can_leave_the_boundaries_out():
    scores = [
        SentenceScores(np.log([0.5, 0.25]), np.log([0.125, 1]), np.array([True])),
        SentenceScores(np.log([0.125]), np.log([0.25]), np.array([], bool)),
    ]
    found = perplexity(scores, boundaries=False)
    assert (found.forward, found.backward) == (pytest.approx(2), pytest.approx(1))
    assert (found.words, found.sentences, found.unknown_rate) == (1, 2, 1)
    with pytest.raises(ValueError, match="scores is empty"):
        perplexity(scores[1:], boundaries=False)


def test_a_softmax_that_knows_nothing_has_the_vocabularys_perplexity(tokenizer):
    model = make_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.zeros_(model.lm_head.bias)
    found = perplexity(score_text(model, tokenizer, TEXT, streams=2))
    assert found.forward == found.backward == pytest.approx(len(WORDS))
    assert found.unknown_rate == pytest.approx(2 / 22)


def test_what_does_not_fit_is_refused_at_once(model, tokenizer):
    with pytest.raises(ValueError, match="training mode"):
        score_sentences(make_model().train(), tokenizer, TEXT)
    with pytest.raises(ValueError, match="sentences is one string"):
        score_text(model, tokenizer, "the river rose .")
    with pytest.raises(ValueError, match="has 0 words, the model's softmax 10"):
        score_sentences(model, ElmoTokenizer(), TEXT)
    with pytest.raises(ValueError, match="streams is 0"):
        score_text(model, tokenizer, TEXT, streams=0)
    with pytest.raises(ValueError, match="batch_words is 0"):
        score_sentences(model, tokenizer, TEXT, batch_words=0)
    with pytest.raises(ValueError, match="scores is empty"):
        perplexity(score_sentences(model, tokenizer, []))
    assert score_text(model, tokenizer, []) == []
