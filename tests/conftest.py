"""Settings and fixtures of every test process."""

import os

# Tiny operations on many threads crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from helpers.spelled import VOCABULARY


@pytest.fixture
def tokenizer():
    from elmo_hf import ElmoTokenizer

    return ElmoTokenizer()


@pytest.fixture
def with_vocabulary():
    from elmo_hf import ElmoTokenizer

    return ElmoTokenizer(lm_vocab=VOCABULARY)
