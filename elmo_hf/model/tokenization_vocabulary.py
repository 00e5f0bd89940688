# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The language model's vocabulary, and a cache of encoded words."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .tokenization_characters import Spelling
from .tokenization_checks import check_string, is_utf8

NO_WORD = -1


class LmVocabulary:
    """Class that maps words to ids and back; a million words take 30 MB, a list and dict 140 MB.

    Args:
        text: the words in UTF-8, each followed by a newline; a word's id is its line, from 0.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        self._starts = np.append(0, ends + 1)
        hashes = np.fromiter(map(hash, self.words()), np.int64, count=len(self))
        self._ids = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._ids]

    @classmethod
    def from_words(cls, words: Iterable[str]) -> "LmVocabulary":
        """Return the vocabulary of words; raise ValueError if a word cannot be a line."""
        words = list(words)
        for i, word in enumerate(words):
            if not isinstance(word, str) or "\n" in word or not is_utf8(word):
                raise ValueError(
                    f"vocabulary entry {i} is {word!r}; expected a string without newlines and "
                    "lone surrogates, because vocab.txt holds one word per line in UTF-8"
                )
        return cls("".join(f"{word}\n" for word in words).encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "LmVocabulary":
        """Read one word per line; only the newline is removed, so that U+3000 can be a word."""
        text = Path(path).read_bytes()
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error}); save it again as UTF-8") from None
        return cls(text if text.endswith(b"\n") or not text else text + b"\n")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a file for `read`; on failure the old file stays."""
        part = Path(f"{path}.part")
        part.write_bytes(self._text)
        part.replace(path)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, word_id: int) -> str:
        start, end = self._starts[word_id], self._starts[word_id + 1]
        return self._text[start : end - 1].decode()

    def __reduce__(self) -> tuple[type["LmVocabulary"], tuple[bytes]]:
        return LmVocabulary, (self._text,)  # hashes of strings differ between processes

    def __deepcopy__(self, memo: object) -> "LmVocabulary":
        return self  # it never changes

    def words(self) -> list[str]:
        """Return a new list of all words."""
        return self._text.decode().split("\n")[:-1]

    def ids(self, words: Sequence[str]) -> np.ndarray:
        """Return ids `(len(words),)`: -1 for an unknown word, the last of a repeated one."""
        hashes = np.fromiter(map(hash, words), np.int64, count=len(words))
        last = np.searchsorted(self._hashes, hashes, side="right") - 1
        found = map(self._find, words, hashes, last.tolist())
        return np.fromiter(found, np.int64, count=len(words))

    def _find(self, word: str, word_hash: int, at: int) -> int:
        while at >= 0 and self._hashes[at] == word_hash:
            if self[self._ids[at]] == word:
                return int(self._ids[at])
            at -= 1
        return NO_WORD


def load_vocabulary(file: str | None, words: Sequence[str] | None) -> LmVocabulary | None:
    """Return the vocabulary of `words`, else of `file`, else None."""
    if words is not None:
        return LmVocabulary.from_words(words)
    return None if file is None else LmVocabulary.read(file)


def check_vocabulary(vocabulary: LmVocabulary, needed: list[str]) -> None:
    """Raise ValueError unless the vocabulary holds the `needed` words."""
    ids = vocabulary.ids(needed)
    if missing := [word for word, i in zip(needed, ids, strict=True) if i == NO_WORD]:
        first = [vocabulary[i] for i in range(min(5, len(vocabulary)))]
        raise ValueError(
            f"the vocabulary of {len(vocabulary)} words (first: {first}) lacks {missing}, so "
            "boundaries or unknown words would get wrong ids; add a line for each, or set "
            "bos_token, eos_token and word_unk_token to the names that it uses"
        )


# --- Cache of encoded words ---


class Numbering(dict[str, int]):
    """Class that numbers new words 1, 2, .. when they are looked up; 0 is padding."""

    def __init__(self) -> None:
        self.unfilled: list[str] = []

    def __missing__(self, word: str) -> int:
        check_string(word)
        number = self[word] = len(self) + 1
        self.unfilled.append(word)
        return number


class WordCache:
    """Class that keeps a table and the settings it was made for; copies and pickles are empty."""

    def __init__(self) -> None:
        self.table: tuple[tuple[Any, ...], WordTable] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class WordTable:
    """Class that caches the character ids and vocabulary ids of recent words.

    Threads may share a table. Lone surrogates, which UTF-8 cannot hold, are dropped from words, as
    in AllenNLP.

    Args:
        spelling: encodes words as characters; None if the model reads no characters.
        width: character ids per word.
        vocabulary, unknown: the vocabulary or None, and the id of words that it lacks.
        limit: number of cached words; once exceeded, the next call clears the cache.
    """

    def __init__(
        self,
        spelling: Spelling | None,
        width: int,
        vocabulary: LmVocabulary | None,
        unknown: int,
        limit: int = 200_000,
    ) -> None:
        self.spelling, self.width = spelling, width
        self.vocabulary, self.unknown, self.limit = vocabulary, unknown, limit
        self._lock = threading.Lock()
        self._forget()

    def look_up(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Return `numbers`, `rows` and `ids` of words.

        Word i has the character ids `rows[numbers[i]]` and the vocabulary id `ids[numbers[i]]`.
        Number 0 is padding. The returned values stay valid: later calls, also of other threads,
        only append entries or make new arrays.
        """
        with self._lock:
            if len(self._numbering) > self.limit:
                self._forget()
            number_of = self._numbering.__getitem__
            try:
                numbers = np.fromiter(map(number_of, words), np.int64, count=len(words))
            except TypeError:  # an unhashable value instead of a word
                deque(map(check_string, words))
                raise
            if self._numbering.unfilled:
                self._fill(self._numbering.unfilled)
                self._numbering.unfilled = []
            return numbers, self._rows, self._ids

    def _forget(self) -> None:
        dtype = self.spelling.dtype if self.spelling else np.int16
        self._numbering = Numbering()
        self._rows = np.zeros((1, self.width if self.spelling else 0), dtype)
        self._ids = np.full(1, NO_WORD, np.int64)

    def _fill(self, words: list[str]) -> None:
        words = [w if is_utf8(w) else w.encode("utf-8", "ignore").decode() for w in words]
        end = len(self._numbering) + 1
        if end > len(self._rows):
            more = max(end, 2 * len(self._rows)) - len(self._rows)
            self._rows = np.concatenate(
                [self._rows, np.zeros((more, self._rows.shape[1]), self._rows.dtype)]
            )
            self._ids = np.concatenate([self._ids, np.full(more, NO_WORD)])
        if self.spelling is not None:
            self._rows[end - len(words) : end] = self.spelling.rows(words, self.width)
        if self.vocabulary is not None:
            shortened = (
                [self.spelling.shortened(w, self.width) for w in words] if self.spelling else words
            )
            ids = self.vocabulary.ids(shortened)
            self._ids[end - len(words) : end] = np.where(ids == NO_WORD, self.unknown, ids)


__all__ = ["NO_WORD", "LmVocabulary", "WordTable", "check_vocabulary", "load_vocabulary"]
