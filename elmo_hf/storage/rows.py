# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Sentences become rows: their text, their words and the vectors to store."""

import copy
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from ..batches import Sentence
from ..embedder import ElmoEmbedder
from ..layers import Pooling, pool_layers
from ..text_files import make_splitter

Dtype = Literal["float32", "float16"]
DTYPES = ("float32", "float16")
SENTENCES_AT_ONCE = 1024


class Row(NamedTuple):
    """
    A sentence and its vectors.

    Args:
        text: the sentence as it was given; words are joined by blanks.
        words: its words.
        vectors: `(words, dimension)`; several layers: `(layers, words, dimension)`; pooled:
            `(dimension,)`, with several layers side by side.
    """

    text: str
    words: list[str]
    vectors: np.ndarray


class Vectorizer:
    """
    Class that computes what is stored: the same bits whatever the number of workers.

    Args:
        embedder: computes the vectors.
        dtype: dtype of the stored vectors.
        pooling: None: a vector per word; else a vector per sentence, see `ElmoEmbedder`.
        window: number of sentences that are sorted together.
    """

    def __init__(
        self, embedder: ElmoEmbedder, dtype: str, pooling: Pooling | None, window: int
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
        self.embedder: Any = copy.copy(embedder)
        self.embedder.window = window
        self.embedder.pooling = pooling or "mean"  # unused for words, but in the fingerprint
        self.dtype, self.pooling = np.dtype(dtype), pooling
        self._splitter = make_splitter(embedder.tokenizer)

    def settings(self) -> dict[str, Any]:
        """Return everything that changes the stored vectors of a sentence."""
        layers = self.embedder.layers
        return {
            "layers": layers if isinstance(layers, (int, str)) else [*layers],
            "pooling": self.pooling or "none",
            "dtype": self.dtype.name,
            "model": self.embedder.fingerprint(),
        }

    def rows(self, sentences: Iterable[Sentence]) -> Iterator[Row]:
        """Yield the row of each sentence, in order."""
        waiting: deque[tuple[str, list[str]]] = deque()

        def feed() -> Iterator[list[str]]:
            remaining = iter(sentences)
            while block := list(islice(remaining, SENTENCES_AT_ONCE)):
                words = self.split(block)
                waiting.extend(zip(map(as_text, block), words, strict=True))
                yield from words

        for vectors in self.embed(feed()):
            yield Row(*waiting.popleft(), vectors)

    def split(self, sentences: Sequence[Sentence]) -> list[list[str]]:
        """Return the words of sentences, of which texts are split by the tokenizer's splitter."""
        texts = [sentence for sentence in sentences if isinstance(sentence, str)]
        encodings = iter(self._splitter.encode_batch(texts, add_special_tokens=False))
        return [
            next(encodings).tokens if isinstance(sentence, str) else list(sentence)
            for sentence in sentences
        ]

    def embed(self, sentences: Iterable[Sequence[str]]) -> Generator[np.ndarray]:
        """Yield the vectors to store for each list of words."""
        for vectors in self.embedder.embed(sentences, reproducible=True):
            found = vectors if self.pooling is None else self._pool(vectors)
            yield self._cast(found)

    def _cast(self, vectors: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(over="raise"):
                return vectors.astype(self.dtype, copy=False)
        except FloatingPointError:
            raise ValueError(
                f"a value of {np.abs(vectors).max()} is too large for {self.dtype}; store float32"
            ) from None

    def _pool(self, vectors: np.ndarray) -> np.ndarray:
        layers = [*vectors] if vectors.ndim == 3 else [vectors]
        directions = self.embedder.config.num_directions
        return pool_layers(layers, self.embedder.pooling, directions)


def as_text(sentence: Sentence) -> str:
    """Return a sentence as one string."""
    return sentence if isinstance(sentence, str) else " ".join(sentence)


__all__ = ["Dtype", "Row", "Vectorizer", "as_text"]
