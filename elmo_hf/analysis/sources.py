# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Where word vectors come from: an ELMo model, any other transformers model, or static vectors."""

import copy
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from ..embedder import ElmoEmbedder
from ..model.modeling_elmo import ElmoModel

Words = Sequence[str]
BATCH_SIZE = 32


class Vectors(Protocol):
    """
    What every measure of this package takes: the vectors of each word in each layer.

    Attributes:
        name: name of the source in tables.
        layers: names of the layers in tables.
    """

    name: str
    layers: Sequence[str]

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """
        Yield the vectors of each sentence, in the order of the sentences.

        Args:
            sentences: lists of words.

        Returns:
            For each sentence `(layers, words, dimension)`, float32.

        Raises:
            ValueError: a sentence is no list of words.
        """


class ElmoVectors:
    """
    Class that gives the layers of an ELMo model; layer 0 is the context-free one.

    Args:
        model: a folder, the name of a Hub repository, or an `ElmoEmbedder`, whose choice of layers
            is not used.
        random: use new random weights of the same configuration instead of the trained ones.
        seed: seed of the random weights.
        name: name in tables; default: that of the folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(
        self,
        model: str | os.PathLike | ElmoEmbedder,
        random: bool = False,
        *,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        embedder = model if isinstance(model, ElmoEmbedder) else ElmoEmbedder(model)
        self._embedder = _randomize(embedder, seed) if random else copy.copy(embedder)
        self._embedder.layers, self._embedder.mix = "all", None
        folder = "ELMo" if isinstance(model, ElmoEmbedder) else Path(model).name
        self.name = name or (f"{folder}, random weights" if random else folder)
        self.layers: Sequence[str] = [
            f"layer {i}" for i in range(embedder.config.num_hidden_states)
        ]

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence, as `Vectors` says."""
        return self._embedder.embed(_checked(sentences))


class TransformerVectors:
    """
    Class that gives the hidden states of any transformers model, with subwords pooled to words.

    Layer 0 is the input of the first layer (`hidden_states[0]`). Of an encoder-decoder model, the
    encoder is used. A word of which the tokenizer makes no pieces is read as its unknown word.

    Args:
        model: a folder, or the name of a Hub repository, that `AutoModel` and `AutoTokenizer` open.
        pooling: a word's vector is the `"mean"` of its pieces or that of the `"first"` piece.
        batch_size: maximum number of sentences in a batch.
        device: such as "cpu"; default: the GPU if there is one.
        name: name in tables; default: that of the folder.

    Raises:
        ValueError: an argument is invalid, or the tokenizer cannot map pieces to words.
        OSError: there is no such folder.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        pooling: Literal["mean", "first"] = "mean",
        *,
        batch_size: int = BATCH_SIZE,
        device: str | None = None,
        name: str | None = None,
    ) -> None:
        if pooling not in ("mean", "first"):
            raise ValueError(f"pooling is {pooling!r}; expected 'mean' or 'first'")
        self.pooling, self.batch_size = pooling, batch_size
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # GPT-2's kind of tokenizer needs add_prefix_space for words; the others ignore it.
        self._tokenizer = AutoTokenizer.from_pretrained(model, add_prefix_space=True)
        if not self._tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer of {model} is a {type(self._tokenizer).__name__}, which does not "
                "say which pieces make a word; save it as a fast tokenizer"
            )
        tokenizer = self._tokenizer
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
        loaded = AutoModel.from_pretrained(model)
        loaded = loaded.get_encoder() if loaded.config.is_encoder_decoder else loaded
        self._model = loaded.eval().to(self.device)
        self.name = name or Path(model).name
        count = loaded.config.get_text_config().num_hidden_layers + 1
        self.layers: Sequence[str] = [f"layer {i}" for i in range(count)]

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence, as `Vectors` says."""
        numbered = enumerate(_checked(sentences))
        while batch := [*itertools.islice(numbered, self.batch_size)]:
            yield from self._embed(batch)

    def _embed(self, batch: Sequence[tuple[int, Words]]) -> Iterator[np.ndarray]:
        encoding = self._encode([self._readable(words) for _, words in batch])
        longest = encoding["input_ids"].shape[1]
        if longest > (limit := self._max_length()):
            lengths = encoding["attention_mask"].sum(1).tolist()
            number = batch[int(np.argmax(lengths))][0]
            raise ValueError(
                f"sentence {number} has {longest} pieces; {self.name} reads at most {limit}; split "
                "the sentence"
            )
        with torch.inference_mode():
            output = self._model(**encoding.to(self.device), output_hidden_states=True)
        states = torch.stack(output.hidden_states, 1).float().cpu().numpy()
        for row, (_, words) in enumerate(batch):
            yield self._pool(states[row], encoding.word_ids(row), len(words))

    def _encode(self, sentences: list[Words]) -> Any:
        return self._tokenizer(
            [[*words] for words in sentences],
            is_split_into_words=True,
            padding=True,
            return_tensors="pt",
        )

    def _readable(self, words: Words) -> Words:
        """Replace the words without pieces by the unknown word; the result is never empty."""
        unknown = self._tokenizer.unk_token or self._tokenizer.pad_token
        pieces = self._tokenizer([*words], add_special_tokens=False)["input_ids"] if words else []
        found = [word if ids else unknown for word, ids in zip(words, pieces, strict=True)]
        return found or [unknown]

    def _max_length(self) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", None)
        return min(self._tokenizer.model_max_length, positions or self._tokenizer.model_max_length)

    def _pool(self, states: np.ndarray, owners: Sequence[int | None], count: int) -> np.ndarray:
        """Pool the pieces `(layers, pieces, dimension)` of `count` words by the words they own."""
        kept = [i for i, owner in enumerate(owners) if owner is not None and owner < count]
        starts = np.searchsorted([owners[i] for i in kept], np.arange(count))  # type: ignore[arg-type]
        if self.pooling == "first" or not count:
            return states[:, np.array(kept, int)[starts]]
        lengths = np.diff([*starts, len(kept)])
        return np.add.reduceat(states[:, kept], starts, axis=1) / lengths[:, None].astype("f4")


class StaticVectors:
    """
    Class that gives one vector per word form, the same in every sentence: one layer.

    A word that the vectors lack is looked up in lower case, and then gets the mean of all vectors.

    Args:
        vectors: gensim's `KeyedVectors`, or the `StaticEmbedding` of sentence-transformers, where
            a word's vector is the mean of its pieces.
        name: name in tables.

    Raises:
        ValueError: `vectors` is neither.
    """

    layers: Sequence[str] = ("static",)

    def __init__(self, vectors: Any, *, name: str = "static vectors") -> None:
        self.name = name
        if hasattr(vectors, "key_to_index"):
            self._table = np.asarray(vectors.vectors, np.float32)
            self._index: dict[str, int] | None = vectors.key_to_index
        elif hasattr(vectors, "embedding") and hasattr(vectors, "tokenizer"):
            self._table = vectors.embedding.weight.detach().float().cpu().numpy()
            self._index, self._tokenizer = None, vectors.tokenizer
        else:
            raise ValueError(
                f"vectors is a {type(vectors).__name__}; expected gensim's KeyedVectors (model.wv "
                "of a Word2Vec model), or a StaticEmbedding (model[0] of a SentenceTransformer)"
            )
        self._mean = self._table.mean(0)

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(1, words, dimension)` for each sentence, as `Vectors` says."""
        for words in _checked(sentences):
            rows = [self._find(word) for word in words]
            yield np.array(rows, np.float32).reshape(1, len(rows), -1 if rows else self._width)

    def knows(self, word: str) -> bool:
        """Return whether the word has a vector of its own, and not the mean of all vectors."""
        if self._index is None:
            return bool(self._pieces(word))
        return word in self._index or word.lower() in self._index

    @property
    def _width(self) -> int:
        return self._table.shape[1]

    def _pieces(self, word: str) -> Sequence[int]:
        pieces = self._tokenizer.encode(word, add_special_tokens=False)
        return getattr(pieces, "ids", pieces)

    def _find(self, word: str) -> np.ndarray:
        if self._index is None:
            ids = self._pieces(word)
            return self._table[ids].mean(0) if ids else self._mean
        row = self._index.get(word, self._index.get(word.lower()))
        return self._mean if row is None else self._table[row]


class WithAverages:
    """
    Class that adds averages of a source's layers to its layers.

    - `average`: the mean of the layers.
    - `average, unit length`: the same after each layer's vector was scaled to length 1, so that
      layers with long vectors do not count for more.
    - a layer per entry of `mixes`: the sum of the layers times the entry's factors.

    Args:
        vectors: the source; a source of one layer is left as it is.
        mixes: the factors of each layer, by name; for instance a learned scalar mix.
    """

    def __init__(self, vectors: Vectors, mixes: dict[str, Sequence[float]] | None = None) -> None:
        self._vectors, self.name = vectors, vectors.name
        self._mixes = {name: np.asarray(mix, np.float32) for name, mix in (mixes or {}).items()}
        added = ["average", "average, unit length", *self._mixes] if len(vectors.layers) > 1 else []
        self.layers: Sequence[str] = [*vectors.layers, *added]

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence, as `Vectors` says."""
        for layers in self._vectors(sentences):
            if len(layers) == 1:
                yield layers
                continue
            mixed = [np.tensordot(mix, layers, 1) for mix in self._mixes.values()]
            averages = [layers.mean(0), unit(layers).mean(0), *mixed]
            yield np.concatenate([layers, np.stack(averages)])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale the vectors along the last axis to length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths.clip(np.finfo(np.float32).tiny)


def _checked(sentences: Iterable[Any]) -> Iterator[list[str]]:
    """Yield lists of words; raise ValueError for a text, which would be read as its letters."""
    if isinstance(sentences, str):
        raise ValueError(f"sentences is one string, {sentences!r:.60}; pass lists of words")
    for number, words in enumerate(sentences):
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(
                f"sentence {number} is {words!r:.60}; expected a list of words, such as "
                "['The', 'river', 'rose', '.']"
            )
        yield [*words]


def _randomize(embedder: ElmoEmbedder, seed: int) -> ElmoEmbedder:
    """Return an embedder with new weights of the same configuration."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ElmoModel(copy.deepcopy(embedder.config)).eval()
    return ElmoEmbedder(model, embedder.tokenizer, batch_words=embedder.batch_words)


__all__ = ["ElmoVectors", "StaticVectors", "TransformerVectors", "Vectors", "WithAverages", "unit"]
