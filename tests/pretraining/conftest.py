"""Tiny texts, and trainers of tiny models on them."""

import numpy as np
import pytest
import torch
from helpers.pretraining import TINY
from transformers import TrainingArguments

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, build_vocabulary, read_corpus
from elmo_hf.pretraining.trainer import ElmoPreTrainer
from elmo_hf.pretraining.windows import PackedWindows, RowStreams


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """train.txt and valid.txt, of sentences of 1 to 12 words, 6 in each document."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    for name, count in (("train", 60), ("valid", 20)):
        words = [[f"w{w}" for w in generator.geometric(0.1, 1 + i % 12)] for i in range(count)]
        lines = [
            " ".join(sentence) + ("\n" if i % 6 == 5 else "") for i, sentence in enumerate(words)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def texts(folder):
    def read(name):
        corpus = read_corpus([folder / f"{name}.txt"], ElmoTokenizer(), folder / "cache")
        return WordStream(corpus)

    return {name: read(name) for name in ("train", "valid")}


@pytest.fixture(scope="session")
def tokenizer(texts):
    return ElmoTokenizer(lm_vocab=build_vocabulary(texts["train"], size=30))


@pytest.fixture
def make_trainer(texts, tokenizer, tmp_path):
    def make(feed=PackedWindows, window=12, rows=4, name="run", callbacks=(), muon=None, **changes):
        torch.manual_seed(0)
        fields = {key: changes.pop(key) for key in ("dropout", "bidirectional") if key in changes}
        config = ElmoConfig(**{**TINY, **fields}, lm_vocab_size=tokenizer.lm_vocab_size)
        settings = {
            "per_device_train_batch_size": rows, "max_steps": 8, "save_steps": 3,
            "logging_steps": 1, "learning_rate": 0.01, "use_cpu": True, "disable_tqdm": True,
            "report_to": "none",
        }  # fmt: skip
        args = TrainingArguments(str(tmp_path / name), **{**settings, **changes})
        shape = {"rows": rows} if feed is RowStreams else {}
        return ElmoPreTrainer(
            model=ElmoForPreTraining(config),
            args=args,
            train_dataset=feed(texts["train"], window, **shape),
            eval_dataset=PackedWindows(texts["valid"], window),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            muon_learning_rate=muon,
        )

    return make
