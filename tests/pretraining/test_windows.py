"""Windows and rows show every word in its place, in an order that a seed decides."""

import pickle
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmo_hf import ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, build_vocabulary, read_corpus
from elmo_hf.pretraining.windows import (
    EpochOrder,
    PackedWindows,
    PreTrainingCollator,
    RowStreams,
    plan_windows,
)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """40 sentences of 1 to 12 words, 4 in each document."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    lines = [" ".join(f"w{generator.integers(30)}" for _ in range(1 + i % 12)) for i in range(40)]
    documents = ["\n".join(lines[i : i + 4]) for i in range(0, 40, 4)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    return WordStream(read_corpus([folder / "text.txt"], ElmoTokenizer(), folder / "cache"))


@pytest.fixture(scope="module")
def collator(stream):
    return PreTrainingCollator(ElmoTokenizer(lm_vocab=build_vocabulary(stream, size=20)))


lengths = st.lists(st.integers(2, 30) | st.just(0), max_size=60)


@given(lengths, st.integers(4, 40))
def test_windows_hold_every_word_once_and_are_as_full_as_sentences_allow(lengths, window):
    bounds = plan_windows(lengths, window).tolist()
    assert list(chain.from_iterable(range(*b) for b in bounds)) == list(range(sum(lengths)))
    ends = np.cumsum([0, *lengths]).tolist()
    documents = {ends[i] for i, length in enumerate(lengths) if length == 0}
    for begin, end in bounds:
        assert 2 <= end - begin <= window
        assert not any(begin < border < end for border in documents)
        if begin not in ends or end not in ends:  # of a sentence that is longer than a window
            start = max(e for e in ends if e <= begin)
            stop = min(e for e in ends if e >= end)
            assert stop - start in lengths and stop - start > window
        elif end not in documents and end != ends[-1]:
            assert next(e for e in ends if e > end) - begin > window


def test_every_epoch_has_all_windows_in_an_order_of_its_own(stream):
    feed = PackedWindows(stream, window=20, seed=1)
    orders = []
    for epoch in range(3):
        feed.set_epoch(epoch)
        orders.append(feed.order().tolist())
        assert sorted(orders[-1]) == list(range(len(feed)))
        assert feed.order().tolist() == orders[-1]
    assert orders[0] != orders[1] != orders[2]
    assert PackedWindows(stream, 20, seed=1).order().tolist() == orders[0]
    assert PackedWindows(stream, 20, seed=2).order().tolist() != orders[0]


def test_only_full_batches_are_trained_on_unless_there_is_none(stream):
    feed = PackedWindows(stream, window=20)
    assert len(feed) % 4 != 0
    assert list(EpochOrder(feed, 4)) == feed.order()[: len(feed) // 4 * 4].tolist()
    assert len(EpochOrder(feed, 1000)) == len(feed)


def test_rows_read_on_where_they_stopped_and_the_directions_read_different_text(stream):
    feed = RowStreams(stream, window=5, rows=3, seed=1)
    windows = [feed[i] for i in feed.order()]
    ring = stream.words(0, len(stream)) * 3
    for row in range(3):
        walk = windows[row::3]
        assert len(walk) == feed.steps
        forward = [f for f, _ in walk]
        backward = [b for _, b in walk]
        assert all(f[-1] == g[0] for f, g in pairwise(forward))
        assert all(b[0] == g[-1] for b, g in pairwise(backward))
        read = list(chain.from_iterable(f[:-1] for f in forward))
        read_back = list(chain.from_iterable(b[1:] for b in reversed(backward)))
        for text in (read, read_back):
            assert any(ring[i : i + len(text)] == text for i in range(len(stream)))
        assert read != read_back
    feed.set_epoch(1)
    assert [feed[i] for i in feed.order()] != windows


def test_text_that_is_too_short_for_the_rows_fails(stream):
    with pytest.raises(ValueError, match="too few for 100 rows of 20"):
        RowStreams(stream, window=20, rows=100)


def test_boundaries_are_predicted_but_never_read_in_the_wrong_direction(collator):
    batch = collator([["<S>", "w1", "w2", "</S>", "<S>", "w3", "</S>"], ["<S>", "</S>"]])
    assert batch["attention_mask"][0].T.tolist() == [[1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1, 1]]
    assert batch["attention_mask"][1].T.tolist() == [[1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]
    assert (batch["labels"][1] == -100).tolist() == [False] * 2 + [True] * 5
    assert batch["labels"][0, 3:5].tolist() == [collator.eos, collator.bos]


def test_unknown_words_are_spelled_but_labelled_unknown(collator):
    batch = collator([["<S>", "zzz", "</S>"]])
    assert batch["labels"][0, 1] == collator.unknown
    assert batch["input_ids"][0, 1].tolist() == collator.tokenizer.words_to_ids(["zzz"])[0].tolist()


def test_of_row_streams_half_the_rows_are_for_each_direction(stream, collator):
    feed = RowStreams(stream, window=5, rows=2)
    batch = collator([feed[0], feed[1]])
    assert batch["labels"].shape == (4, 6)
    mask = batch["attention_mask"].bool()
    assert not mask[:2, :, 1].any() and not mask[2:, :, 0].any()
    assert not mask[:2, -1].any() and not mask[2:, 0].any()
    text = [feed[0][0], feed[1][0], feed[0][1], feed[1][1]]
    for row, words in enumerate(text):
        kept = [word != ("</S>" if row < 2 else "<S>") for word in words]
        kept[-1 if row < 2 else 0] = False
        assert mask[row, :, row // 2].tolist() == kept


def test_a_forward_model_gets_a_mask_of_one_direction(collator):
    one = PreTrainingCollator(collator.tokenizer, directions=1)
    assert one([["<S>", "w1", "</S>"]])["attention_mask"].tolist() == [[[1], [1], [0]]]


def test_a_tokenizer_without_a_vocabulary_cannot_label():
    with pytest.raises(ValueError, match="has no vocabulary"):
        PreTrainingCollator(ElmoTokenizer())


def test_feeds_travel_to_worker_processes(stream):
    feed = pickle.loads(pickle.dumps(PackedWindows(stream, window=20)))
    assert feed[0] == PackedWindows(stream, window=20)[0]
