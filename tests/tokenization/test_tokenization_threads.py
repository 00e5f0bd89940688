"""A tokenizer shared by threads returns the same as in a single thread."""

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.spelled import VOCABULARY, rows

from elmo_hf.model.tokenization_elmo import ElmoTokenizer

THREADS = 8
WORDS = {"is_split_into_words": True}
PADDED = {"padding": True, "return_tensors": "np"}
CUT = {"truncation": True, "max_length": 10}
OPTIONS = [
    {},
    PADDED,
    {"padding": "max_length", "max_length": 30, "padding_side": "left"},
    {"padding": True, "return_offsets_mapping": True},
    {"return_offsets_mapping": True, "return_length": True},
    CUT,
    {**CUT, **PADDED, "return_special_tokens_mask": True},
    {**CUT, "stride": 1, "return_overflowing_tokens": True},
    {"return_lm_labels": True, **PADDED},
    {"add_special_tokens": False, "return_token_type_ids": True},
    {"split_special_tokens": False},
]


@pytest.fixture
def switching_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def make_calls(count):
    """Texts, word lists and pairs of both, with every kind of option and always new words."""
    random.seed(0)
    calls = []
    for number in range(count):
        words = [f"don't{random.randrange(5000)}" for _ in range(random.randrange(3, 12))]
        others = [*words[::-1], "New York", "</S>"]
        options = OPTIONS[number % len(OPTIONS)]
        if number % 2:
            calls.append((([words, others],), {**WORDS, **options}))
        else:
            calls.append((([" ".join(words), " ".join(others)],), options))
        if number % 5 == 0:
            arguments, options = calls[-1]
            calls[-1] = (*arguments, [arguments[0][1], arguments[0][0]]), options
    return calls


def plain_output(tokenizer, call):
    arguments, options = call
    batch = tokenizer(*arguments, **options)
    data = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in batch.items()}
    return data, [batch.tokens(i) for i in range(len(batch.encodings))], batch.word_ids(0)


def test_mixed_calls_in_eight_threads_equal_those_of_one(switching_often):
    calls = make_calls(THREADS * len(OPTIONS) * 5)
    alone = ElmoTokenizer(lm_vocab=VOCABULARY)
    expected = [plain_output(alone, call) for call in calls]
    shared = ElmoTokenizer(lm_vocab=VOCABULARY)
    shared._words.limit = 500  # the table also starts anew now and then
    state = shared.backend_tokenizer.to_str()
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda call: plain_output(shared, call), calls))
    assert sum(f != e for f, e in zip(found, expected, strict=True)) == 0
    assert shared.word_splitter == "treebank"
    assert shared.backend_tokenizer.to_str() == state


def test_new_words_in_several_threads_get_correct_ids(switching_often):
    tokenizer = ElmoTokenizer()
    batches = [[f"word{i * 7 % 3000}" for i in range(n, n + 200)] for n in range(0, 4000, 50)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(tokenizer.words_to_ids, batches))
    for words, ids in zip(batches, found, strict=True):
        assert ids.tolist() == rows(words)
        assert tokenizer.words_to_ids(words).tolist() == rows(words)


def test_a_call_changes_nothing_of_the_rust_tokenizer(tokenizer):
    state = tokenizer.backend_tokenizer.to_str()
    for arguments, options in make_calls(2 * len(OPTIONS)):
        if "return_lm_labels" not in options:
            tokenizer(*arguments, **options)
            assert tokenizer.backend_tokenizer.to_str() == state
            assert tokenizer.backend_tokenizer.encode_special_tokens


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_while_a_thread_looks_words_up_can_go_on(tokenizer):
    expected = rows(["<S>", "a", "</S>"])
    with tokenizer._words._lock:  # as a thread would hold it
        child = os.fork()
        if not child:
            os._exit(int(tokenizer("a")["input_ids"] != expected))
    assert os.waitpid(child, 0)[1] == 0
    assert tokenizer("a")["input_ids"] == expected
