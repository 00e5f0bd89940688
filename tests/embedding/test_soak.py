"""One tokenizer and one model in many threads at once, for a minute: never a wrong row."""

import os
import random
import threading
import time

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer, embed_corpus

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
THREADS = 8


def make_sentences():
    draw = random.Random(0)
    letters = "abcdefghij'-.é日"
    words = ["".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(2000)]
    return [draw.choices(words, k=draw.randint(0, 15)) for _ in range(300)]


SENTENCES = make_sentences()
TEXTS = [" ".join(words) for words in SENTENCES]


def tokenize(tokenizer, kind, sentences, texts):
    """Make one kind of tokenizer call; return its values as lists."""
    if kind == "raw":
        encoded = [tokenizer(texts, padding=True, return_tensors="pt")]
    elif kind == "split":
        encoded = [tokenizer(sentences, is_split_into_words=True, padding=True)]
    elif kind == "offsets":
        encoded = [tokenizer(texts, return_offsets_mapping=True)]
    elif kind == "split offsets":
        options = {"return_offsets_mapping": True, "truncation": True, "max_length": 9}
        encoded = [tokenizer(sentences, is_split_into_words=True, **options)]
    else:
        encoded = [tokenizer(text, return_tensors="pt") for text in texts]
    values = [value for one in encoded for value in one.values()]
    return [value.tolist() if isinstance(value, torch.Tensor) else value for value in values]


KINDS = ("raw", "split", "offsets", "split offsets", "single")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ElmoConfig(filters=[[1, 8], [3, 16]], projection_dim=16, cell_dim=32)
    return ElmoModel(config).eval()


@pytest.mark.slow
def test_threads_get_what_one_thread_got_before(model):
    fresh, shared = ElmoTokenizer(), ElmoTokenizer()
    groups = [slice(start, start + 20) for start in range(0, len(SENTENCES), 20)]
    calls = [(kind, group) for kind in KINDS for group in groups]
    ids = {
        (kind, group.start): tokenize(fresh, kind, SENTENCES[group], TEXTS[group])
        for kind, group in calls
    }
    alone = [
        vectors for sentence in SENTENCES for vectors in embed_corpus(model, fresh, [sentence])
    ]
    rows, wrong, failed = [0] * THREADS, [0] * THREADS, []
    end = time.monotonic() + SECONDS

    def work(thread):
        draw = random.Random(thread)
        try:
            while time.monotonic() < end:
                kind, group = draw.choice(calls)
                found = tokenize(shared, kind, SENTENCES[group], TEXTS[group])
                wrong[thread] += found != ids[kind, group.start]
                chosen = draw.sample(range(len(SENTENCES)), 40)
                sentences = [SENTENCES[i] for i in chosen]
                if draw.random() < 0.5:
                    vectors = embed_corpus(model, shared, sentences, workers=2, window=16)
                else:
                    vectors = call(sentences)
                for i, found in zip(chosen, vectors, strict=True):
                    wrong[thread] += not np.allclose(found, alone[i], atol=1e-5, rtol=0)
                    rows[thread] += len(SENTENCES[i])
        except Exception as error:
            failed.append(error)

    def call(sentences):
        options = {"is_split_into_words": True, "padding": True, "return_tensors": "pt"}
        inputs = shared(sentences, **options)
        with torch.no_grad():
            hidden = model(**inputs, output_hidden_states=True).hidden_states
        layers = torch.stack(hidden)
        for row, words in enumerate(sentences):
            yield layers[:, row, 1 : 1 + len(words)].numpy()

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    print(f"{sum(rows):,} rows by {THREADS} threads in {SECONDS:.0f} s")
    assert min(rows) > 0 and sum(wrong) == 0
    assert shared.word_splitter == fresh.word_splitter
