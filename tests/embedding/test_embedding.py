"""Corpora: the same vectors whatever the workers and batches, in order, one error at most."""

import contextvars
import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from elmo_hf import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
    embed_corpus,
    use_engine,
)

SENTENCES = [[f"w{i * j % 7}" for j in range(1 + i * 5 % 11)] for i in range(30)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ElmoConfig(
        filters=[[1, 4], [3, 6]], projection_dim=6, cell_dim=8, char_embedding_dim=4
    )
    return ElmoModel(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return ElmoTokenizer()


def one_by_one(model, tokenizer, sentences, **kwargs):
    for sentence in sentences:
        inputs = tokenizer([sentence], return_tensors="pt", **kwargs)
        with torch.no_grad():
            hidden = model(**inputs, output_hidden_states=True).hidden_states
        yield torch.stack(hidden)[:, 0].float().numpy()


def test_workers_use_the_autocast_of_the_caller(model, tokenizer):
    alone = dict(workers=2, batch_size=1)
    with torch.autocast("cpu", torch.bfloat16):
        expected = list(one_by_one(model, tokenizer, SENTENCES, is_split_into_words=True))
        found = embed_corpus(model, tokenizer, SENTENCES, **alone)
    for vectors, whole in zip(found, expected, strict=True):
        np.testing.assert_array_equal(vectors, whole[:, 1:-1])
    precise = next(embed_corpus(model, tokenizer, SENTENCES, **alone))
    assert 1e-4 < np.abs(precise - expected[0][:, 1:-1]).max() < 1e-1


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("sizes", [{}, {"batch_size": 3, "window": 7}, {"batch_words": 1}])
def test_vectors_come_in_order_and_do_not_depend_on_workers_or_batches(
    model, tokenizer, workers, sizes
):
    found = list(embed_corpus(model, tokenizer, SENTENCES, workers=workers, **sizes))
    expected = one_by_one(model, tokenizer, SENTENCES, is_split_into_words=True)
    for vectors, whole, words in zip(found, expected, SENTENCES, strict=True):
        assert vectors.shape == (3, len(words), 12) and vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, whole[:, 1:-1], atol=1e-6, rtol=0)


def test_texts_are_split_by_the_tokenizer(model, tokenizer):
    texts = ["I don't.", "", "Yes, well: no"]
    found = embed_corpus(model, tokenizer, texts, boundaries=True, workers=2)
    for vectors, expected in zip(found, one_by_one(model, tokenizer, texts), strict=True):
        np.testing.assert_allclose(vectors, expected, atol=1e-6, rtol=0)


def test_layers_and_boundaries_are_chosen(model, tokenizer):
    def embed(**kwargs):
        return list(embed_corpus(model, tokenizer, SENTENCES, workers=2, **kwargs))

    for boundaries in (False, True):
        whole = embed(boundaries=boundaries)
        choices = [({"layers": -1}, 2), ({"layers": 0}, 0), ({"layers": [2, 0]}, [2, 0])]
        for kwargs, index in choices:
            for found, expected in zip(embed(boundaries=boundaries, **kwargs), whole, strict=True):
                np.testing.assert_array_equal(found, expected[index])


@pytest.mark.parametrize(
    "variant", [{}, {"bidirectional": False}, {"num_mixed_lstms": 2, "num_hidden_layers": 1}]
)
def test_a_direction_reads_its_last_boundary_only_where_that_is_seen(variant, tokenizer):
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(filters=[[1, 4]], projection_dim=6, cell_dim=8, **variant)).eval()
    reads = []  # how many words each direction reads of each batch

    def listen(module, args, kwargs):
        mask = kwargs["attention_mask"]
        reads.append(mask.sum((0, 1)) if mask.ndim == 3 else mask.sum().expand(2))

    model.register_forward_pre_hook(listen, with_kwargs=True)
    for boundaries in (True, False):
        reads.clear()
        found = list(embed_corpus(model, tokenizer, SENTENCES, boundaries=boundaries))
        spared = not boundaries and "num_mixed_lstms" not in variant
        words = sum(len(sentence) + 2 - spared for sentence in SENTENCES)
        assert sum(reads).unique().tolist() == [words]
        expected = one_by_one(model, tokenizer, SENTENCES, is_split_into_words=True)
        for vectors, whole in zip(found, expected, strict=True):
            whole = whole if boundaries else whole[:, 1:-1]
            np.testing.assert_allclose(vectors, whole, atol=1e-6, rtol=0)


def test_padding_may_stand_on_the_left(model):
    left = ElmoTokenizer(padding_side="left")
    found = embed_corpus(model, left, SENTENCES)
    expected = embed_corpus(model, ElmoTokenizer(), SENTENCES)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)


def test_sentences_without_words_and_corpora_without_sentences_are_fine(model, tokenizer):
    found = list(embed_corpus(model, tokenizer, [["a"], [], ["b"]], layers=1))
    assert [len(vectors) for vectors in found] == [1, 0, 1]
    assert not list(embed_corpus(model, tokenizer, []))


def test_an_endless_corpus_is_read_two_windows_ahead_at_most(model, tokenizer):
    read = itertools.count()
    endless = (["word"] for _ in read)
    vectors = embed_corpus(model, tokenizer, endless, window=5, batch_size=2, workers=2)
    for _ in range(12):
        next(vectors)
    vectors.close()
    assert next(read) <= 21


@pytest.mark.parametrize("workers", [1, 3])
def test_only_the_workers_numbers_of_threads_change(model, tokenizer, workers):
    def numbers():
        with ThreadPoolExecutor(1) as pool:  # a new thread takes what was set last
            return torch.get_num_threads(), pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        list(embed_corpus(model, tokenizer, SENTENCES, workers=workers))
        assert numbers() == (4, 4)
        half_way = embed_corpus(model, tokenizer, SENTENCES, workers=workers)
        other = embed_corpus(model, tokenizer, SENTENCES, workers=workers)
        next(half_way), next(other)
        assert numbers() == (4, 4)
        torch.set_num_threads(2)
        half_way.close(), list(other)
        assert numbers() == (2, 2)
        alive = threading.active_count()
        with pytest.raises(RuntimeError):
            list(embed_corpus(model, tokenizer, [["a"], [3]], workers=workers))
        assert numbers() == (2, 2)
    finally:
        torch.set_num_threads(before)
    assert threading.active_count() == alive


def test_workers_run_in_the_context_of_the_call(model, tokenizer):
    color, seen = contextvars.ContextVar("color", default="none"), set()
    handle = model.register_forward_hook(lambda *_: seen.add(color.get()))
    token = color.set("red")
    vectors = embed_corpus(model, tokenizer, SENTENCES, workers=2)
    color.reset(token)
    try:
        list(vectors)
    finally:
        handle.remove()
    assert seen == {"red"}


def test_two_corpora_at_once_leave_no_words_behind(model, tokenizer):
    halves = [SENTENCES[:15], SENTENCES[15:]]
    expected = [list(embed_corpus(model, tokenizer, half)) for half in halves]
    corpora = [embed_corpus(model, tokenizer, half, workers=2) for half in halves]
    for row, pair in enumerate(zip(*corpora, strict=True)):
        for vectors, half in zip(pair, expected, strict=True):
            np.testing.assert_allclose(vectors, half[row], atol=1e-6, rtol=0)
    inputs = tokenizer(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
    weight = model.embeddings.char_embeddings.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        model(**inputs)
        weight.data[ord("w") + 1] = 1  # a write that PyTorch does not count
        found = model(**inputs).last_hidden_state
        with use_engine("reference"):
            changed = model(**inputs).last_hidden_state
        weight.copy_(kept)
    torch.testing.assert_close(found, changed, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", [ElmoForPreTraining, ElmoForTokenClassification])
def test_a_model_with_a_head_embeds_by_its_biLM(head, tokenizer):
    torch.manual_seed(0)
    config = ElmoConfig(filters=[[1, 4]], projection_dim=6, cell_dim=8, lm_vocab_size=9)
    model = head(config).eval()
    found = embed_corpus(model, tokenizer, SENTENCES)
    for vectors, expected in zip(
        found, embed_corpus(model.elmo, tokenizer, SENTENCES), strict=True
    ):
        np.testing.assert_array_equal(vectors, expected)


UNFINISHED = """
import torch
from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer, embed_corpus
torch.set_num_threads(2)
model = ElmoModel(ElmoConfig(filters=[[1, 4]], projection_dim=6, cell_dim=8)).eval()
vectors = embed_corpus(model, ElmoTokenizer(), [["a"]] * 40, window=10)
next(vectors)
"""


@pytest.mark.slow
def test_a_program_may_end_within_a_corpus(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", UNFINISHED]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert result.returncode == 0 and "ignored" not in result.stderr, result.stderr


def test_workers_have_their_share_of_the_threads(model, tokenizer):
    seen = set()
    handle = model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for workers, share in ((1, 4), (2, 2), (4, 1), (8, 1)):
            seen.clear()
            list(embed_corpus(model, tokenizer, SENTENCES, workers=workers, batch_size=4))
            assert seen == {share}
    finally:
        handle.remove()
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers, batches", [(1, 1), (2, 4), (4, 8), (50, 30)])
def test_few_sentences_are_shared_among_the_workers(model, tokenizer, workers, batches):
    counts = []
    list(embed_corpus(model, tokenizer, SENTENCES, workers=workers, progress=counts.append))
    assert len(counts) == batches and max(counts) - min(counts) <= 2


@pytest.mark.parametrize("bad", [["a", 3], 7, None])
def test_a_failing_sentence_is_named(model, tokenizer, bad):
    sentences = [*SENTENCES[:17], bad, *SENTENCES[17:]]
    with pytest.raises(RuntimeError, match=r"^sentence 17, "):
        list(embed_corpus(model, tokenizer, sentences, workers=2, batch_size=4))


def test_what_was_finished_before_a_failure_is_given(model, tokenizer):
    vectors = embed_corpus(model, tokenizer, [["a"], ["b"], [3]], window=2, workers=1)
    assert next(vectors).shape == next(vectors).shape == (3, 1, 12)
    with pytest.raises(RuntimeError, match="sentence 2"):
        next(vectors)


def test_progress_counts_every_sentence_once(model, tokenizer):
    counts = []
    list(embed_corpus(model, tokenizer, SENTENCES, batch_size=7, progress=counts.append))
    assert sum(counts) == len(SENTENCES) and max(counts) <= 7


def test_wrong_arguments_are_refused_at_the_call(model, tokenizer):
    for kwargs in ({"workers": 0}, {"batch_size": 0}, {"window": -1}, {"layers": 3}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            embed_corpus(model, tokenizer, SENTENCES, **kwargs)
    with pytest.raises(ValueError, match="sentences is one string"):
        embed_corpus(model, tokenizer, "a text")
    for wrong in ({"text": ["a"]}, pandas.DataFrame({"text": ["a"]}), 3):
        with pytest.raises(ValueError, match=f"sentences is a {type(wrong).__name__}, "):
            embed_corpus(model, tokenizer, wrong)
    with pytest.raises(ValueError, match="does not add both boundaries"):
        embed_corpus(model, ElmoTokenizer(add_bos_token=False), SENTENCES)
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        embed_corpus(model, tokenizer, SENTENCES)
    model.eval()


def test_a_corpus_sees_writes_before_it_that_pytorch_does_not_count(tokenizer):
    sizes = {"filters": [[1, 4]], "projection_dim": 32, "cell_dim": 64, "num_hidden_layers": 1}
    model = ElmoModel(ElmoConfig(**sizes)).eval()
    weight = model.layers[0].forward_lstm.recurrent_map.weight
    sentence = ["one", "short", "sentence"]
    for row in range(0, 256, 16):
        weight.data[row, row % 32] += 3
        (found,) = embed_corpus(model, tokenizer, [sentence], layers=-1, workers=1)
        with use_engine("reference"):
            (expected,) = embed_corpus(model, tokenizer, [sentence], layers=-1, workers=1)
        np.testing.assert_allclose(found, expected, atol=2e-5)
