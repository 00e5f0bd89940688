"""Make the baselines of the tasks: the untrained architecture, and word2vec."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer  # before transformers: hides its noise

# isort: split
from transformers import AutoTokenizer, set_seed

SPECIALS = ["<S>", "</S>", "<UNK>"]
WORD2VEC = {"window": 5, "min_count": 5, "negative": 5, "sg": 1, "sample": 1e-4, "epochs": 3}


def write_random(checkpoint: str, folder: Path, seed: int = 0) -> Path:
    """Write a model with the checkpoint's architecture and newly initialized weights."""
    if not (folder / "config.json").is_file():
        set_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model = ElmoModel(ElmoConfig.from_pretrained(checkpoint))
        save(model, tokenizer, folder)
    return folder


def train_word2vec(files: Sequence[str], width: int, words: Path, threads: int):
    """Train word2vec (skip-gram) on text files; return gensim's KeyedVectors.

    The folder `words` stores the words of the text.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise ValueError("word2vec needs gensim: pip install gensim, or leave --text out") from None
    from elmo_hf.pretraining.corpora import WordStream, read_corpus

    corpus = read_corpus(files, ElmoTokenizer(), words)
    print(f"word2vec: {len(WordStream(corpus)):,} words", file=sys.stderr, flush=True)
    return Word2Vec(Sentences(corpus), vector_size=width, workers=threads, **WORD2VEC).wv


def write_word2vec(files: Sequence[str], width: int, folder: Path, threads: int) -> Path:
    """
    Write word2vec, trained on text files, as a model that heads open.

    The model is a word table and one LSTM layer, which is required but not used: heads mix layer 0.
    Layer 0 has the vector twice, once per direction. Rare words share the mean of all vectors.
    """
    if (folder / "config.json").is_file():
        return folder
    trained = train_word2vec(files, width, folder.parent / "words", threads)
    vectors = torch.from_numpy(trained.vectors.copy())
    rare = vectors.mean(0, keepdim=True).expand(1 + len(SPECIALS), -1)  # padding comes first
    table = torch.cat([rare, vectors])
    config = ElmoConfig(
        filters=[],
        word_vocab_size=len(table),
        word_embedding_dim=width,
        projection_dim=width,
        cell_dim=width,
        num_hidden_layers=1,
        num_highway_layers=0,
        dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
    )
    tokenizer = ElmoTokenizer(use_characters=False, lm_vocab=[*SPECIALS, *trained.index_to_key])
    model = ElmoModel(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
    save(model, tokenizer, folder)
    return folder


class Sentences:
    """Class that gensim can iterate over again: a corpus' sentences without boundaries."""

    def __init__(self, corpus) -> None:
        self.corpus = corpus

    def __iter__(self) -> Iterator[list[str]]:
        for chunk in self.corpus.data.column("words").chunks:
            for sentence in chunk:
                if len(sentence) > 2:
                    yield sentence.as_py()[1:-1]


def save(model: ElmoModel, tokenizer: ElmoTokenizer, folder: Path) -> None:
    """Write the folder completely or not at all."""
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
