# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Vectors of words on their own, for gensim (extra `gensim`) and sentence-transformers."""

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models

from ..conversion.outputs import new_folder
from ..embedder import ElmoEmbedder
from ..extras import require
from ..layers import Layers, to_indices


def to_keyed_vectors(
    embedder: ElmoEmbedder | str | os.PathLike, words: Iterable[str], *, layers: Layers = 0
) -> Any:
    """
    Return the vectors of words as gensim `KeyedVectors`.

    Layer 0 depends on the word alone. In the other layers a word's vector depends on its sentence;
    here it is the vector of the word as a sentence of its own.

    Args:
        embedder: an embedder, a folder, or the name of a Hub repository.
        words: the words; repeated ones count once.
        layers: as in `ElmoEmbedder`, instead of the embedder's own; several are put side by side.

    Raises:
        ValueError: `words` is empty or not an iterable of non-empty strings, or `layers` is
            invalid.
    """
    gensim: Any = require("gensim.models", "gensim")
    names, rows = _embed_alone(embedder, words, layers)
    keyed = gensim.KeyedVectors(rows.shape[1])
    keyed.add_vectors(names, rows[1:])
    return keyed


def to_static(
    embedder: ElmoEmbedder | str | os.PathLike,
    words: Iterable[str],
    folder: str | os.PathLike,
    *,
    layers: Layers = 0,
) -> None:
    """
    Write the vectors of words as a folder for sentence-transformers and model2vec.

    `SentenceTransformer(folder).encode(text)` is then the mean of the vectors of the text's words,
    without ELMo and its package. Text is split into words as the model's tokenizer does. An unknown
    word has a zero vector.

    Args:
        embedder, words, layers: as in `to_keyed_vectors`.
        folder: the new folder.

    Raises:
        ValueError: as in `to_keyed_vectors`.
        WeightsError: the folder exists and is not empty, or cannot be written.
    """
    library: Any = require("sentence_transformers", "sentences")
    static: Any = require("sentence_transformers.sentence_transformer.modules", "sentences")
    embedder = _to_embedder(embedder)
    names, rows = _embed_alone(embedder, words, layers)
    module = static.StaticEmbedding(_make_tokenizer(embedder, names), rows)
    with new_folder(Path(folder)) as scratch:
        library.SentenceTransformer(modules=[module], device="cpu").save(str(scratch))


def _to_embedder(embedder: ElmoEmbedder | str | os.PathLike) -> ElmoEmbedder:
    return embedder if isinstance(embedder, ElmoEmbedder) else ElmoEmbedder(embedder)


def _embed_alone(
    embedder: ElmoEmbedder | str | os.PathLike, words: Iterable[str], layers: Layers
) -> tuple[list[str], np.ndarray]:
    """Return the different words, and their vectors after a row of zeros for unknown words."""
    if isinstance(words, str):
        raise ValueError(f"words is one string, {words!r:.60}; pass a list of words: [word]")
    words = list(words)
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"words holds {word!r:.60}; expected strings that are not blank")
    if not words:
        raise ValueError("words is empty; pass at least one word")
    chosen = copy.copy(_to_embedder(embedder))
    chosen.layers = layers = layers if isinstance(layers, str) else to_indices(layers)
    chosen.mix = chosen.mix if layers == "mix" else None
    names = list(dict.fromkeys(words))
    # In layer 0 the other words of a sentence have no effect, and longer sentences cost less.
    size = 20 if layers == 0 else 1
    sentences = (names[i : i + size] for i in range(0, len(names), size))
    rows = np.zeros((1 + len(names), chosen.joined_dimension), np.float32)
    for i, vectors in enumerate(chosen.embed(sentences, join=True)):
        rows[1 + i * size :][: len(vectors)] = vectors
    return names, rows


def _make_tokenizer(embedder: ElmoEmbedder, names: list[str]) -> Tokenizer:
    """Make a tokenizer that splits text as the model's does, and knows these words only."""
    unknown = "<UNK>"
    while unknown in names:
        unknown += "_"
    ids = {name: i for i, name in enumerate([unknown, *names])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    backend = embedder.tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        tokenizer.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        tokenizer.pre_tokenizer = backend.pre_tokenizer
    return tokenizer


__all__ = ["to_keyed_vectors", "to_static"]
