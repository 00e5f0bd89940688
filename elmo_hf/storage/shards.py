# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
One shard: a safetensors file with the vectors and words of a fixed range of input sentences.

Its tensors are `offsets` (sentences + 1,), the place of each sentence's first word; `vectors`
(words[, layers], dimension), or, pooled, (sentences, dimension); and, if words are stored, their
UTF-8 bytes `words` and the place of each word's first byte, `word_offsets` (words + 1,). The
safetensors library writes tensors that are in memory; here vectors are written while they are
computed, so that memory stays flat.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ..batches import Sentence

DTYPES = {"float16": "F16", "float32": "F32", "int64": "I64", "uint8": "U8"}
NAME = re.compile(r"part-(\d{5,})\.safetensors")


class Shard(NamedTuple):
    """
    A range of input sentences.

    Args:
        number: 0 for the first shard.
        first: index of its first sentence in the input.
        sentences: texts or lists of words.
        is_last: whether the input ends with it.
    """

    number: int
    first: int
    sentences: list[Sentence]
    is_last: bool

    @property
    def name(self) -> str:
        return shard_name(self.number)

    def describe(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the metadata of its file: where it belongs, and all that its vectors depend on."""
        digest = hashlib.sha256()
        for sentence in self.sentences:
            digest.update(json.dumps(sentence).encode() + b"\n")
        facts = {**settings, "text": digest.hexdigest(), "is_last": self.is_last}
        run = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        ends = {"first": self.first, "last": self.first + len(self.sentences) - 1}
        return {name: json.dumps(fact) for name, fact in {**facts, **ends, "run": run}.items()}


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"part-{number:05}.safetensors"


def cut_into_shards(sentences: Iterable[Sentence], size: int) -> Iterator[Shard]:
    """Yield the shards of an input."""
    remaining, number = iter(sentences), 0
    block = list(islice(remaining, size))
    while block:
        following = list(islice(remaining, size))
        yield Shard(number, number * size, block, not following)
        block, number = following, number + 1


def write_shard(
    path: Path,
    words: list[list[str]],
    vectors: Iterator[np.ndarray],
    metadata: dict[str, str],
    has_words: bool,
) -> None:
    """
    Write the file of a shard while its vectors are computed.

    Args:
        words: the words of each sentence.
        vectors: an array per sentence, as in `Row`.
        metadata: what `Shard.describe` returns.
        has_words: whether to store the words, too.
    """
    first = next(vectors)
    rows = len(words) if first.ndim == 1 else sum(map(len, words))
    layers = first.shape[:-2]  # () or (layers,)
    arrays = {"offsets": _ends(map(len, words))}
    texts = [word.encode("utf-8", "surrogatepass") for sentence in words for word in sentence]
    if has_words:
        arrays["word_offsets"] = _ends(map(len, texts))
    described = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    described["vectors"] = (first.dtype.name, (rows, *layers, first.shape[-1]))
    if has_words:
        described["words"] = ("uint8", (sum(map(len, texts)),))
    with open(path, "wb") as file:
        file.write(_header(described, metadata))
        for array in arrays.values():
            file.write(array.astype("<i8").data)
        start = file.tell()
        for sentence in chain([first], vectors):
            by_word = sentence.swapaxes(0, 1) if layers else sentence
            file.write(np.ascontiguousarray(by_word).data)
        assert file.tell() - start == _size(*described["vectors"])
        if has_words:
            file.write(b"".join(texts))


class ShardFile:
    """
    Class that reads sentences from a shard's file, which stays memory-mapped.

    Raises:
        ValueError: the file is damaged, cut off or not a shard.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, "numpy")
            self.facts = {
                name: json.loads(value) for name, value in (self._file.metadata() or {}).items()
            }
            self.offsets = self._file.get_tensor("offsets")
            self._vectors = self._file.get_slice("vectors")
            self.is_pooled = self.facts["pooling"] != "none"
            self._has_words = "words" in self._file.keys()  # noqa: SIM118  (not a mapping)
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged, cut off or not written by elmo-hf ({error}); delete it and "
                "write it again with --resume"
            ) from error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def shape(self) -> list[int]:
        """The shape of all vectors, `(words[, layers], dimension)`."""
        return self._vectors.get_shape()

    def vectors(self, index: int) -> np.ndarray:
        """Return the vectors of a sentence, as in `Row`."""
        if self.is_pooled:
            return self._vectors[index : index + 1][0]
        start, end = map(int, self.offsets[index : index + 2])
        if start == end:  # safetensors refuses empty slices
            found = np.zeros((0, *self.shape[1:]), self.facts["dtype"])
        else:
            found = self._vectors[start:end]
        return found.swapaxes(0, 1) if found.ndim == 3 else found

    def words(self, index: int) -> list[str] | None:
        """Return the words of a sentence; None if words are not stored."""
        if not self._has_words:
            return None
        word_offsets, text = self._texts
        start, end = map(int, self.offsets[index : index + 2])
        places = pairwise(word_offsets[start : end + 1].tolist())
        pieces = [text[start:end].tobytes() for start, end in places]
        return [piece.decode("utf-8", "surrogatepass") for piece in pieces]

    @cached_property
    def _texts(self) -> tuple[np.ndarray, np.ndarray]:
        return self._file.get_tensor("word_offsets"), self._file.get_tensor("words")


def _header(described: dict[str, tuple[str, Any]], metadata: dict[str, str]) -> bytes:
    """Return the beginning of a safetensors file: the length of its header, and the header."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in described.items():
        start, end = end, end + _size(dtype, shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    return len(text).to_bytes(8, "little") + text


def _size(dtype: str, shape: Iterable[int]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _ends(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


__all__ = ["NAME", "Shard", "ShardFile", "cut_into_shards", "shard_name", "write_shard"]
