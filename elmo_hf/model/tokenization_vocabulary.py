# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Vocabularies of a language model, and the words a tokenizer has met."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from .tokenization_characters import Spelling
from .tokenization_checks import check_string, is_utf8

NO_WORD = -1


class LmVocabulary:
    """Words by id and ids by word; a million words take 30 MB, not the 140 of a list and a dict.

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
        """Return the vocabulary of these words; raise ValueError if one does not fit a line."""
        words = list(words)
        for i, word in enumerate(words):
            if not isinstance(word, str) or "\n" in word or not is_utf8(word):
                raise ValueError(
                    f"vocabulary entry {i} is {word!r}; expected a string without newlines and "
                    "lone surrogates, as the vocabulary is saved as one word a line in UTF-8"
                )
        return cls("".join(f"{word}\n" for word in words).encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "LmVocabulary":
        """Read one word a line; nothing but the newline is taken off, so U+3000 can be a word."""
        text = Path(path).read_bytes()
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error}); save it again as UTF-8") from None
        return cls(text if text.endswith(b"\n") or not text else text + b"\n")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `read` reads, whole or not at all."""
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
        """Return all words, made anew."""
        return self._text.decode().split("\n")[:-1]

    def ids(self, words: Sequence[str]) -> np.ndarray:
        """Return the ids `(len(words),)`, -1 for an unknown word, the last of several."""
        hashes = np.fromiter(map(hash, words), np.int64, count=len(words))
        last = np.searchsorted(self._hashes, hashes, side="right") - 1
        found = map(self._find, words, hashes, last.tolist())
        return np.fromiter(found, np.int64, count=len(words))

    def _find(self, word: str, wanted: int, at: int) -> int:
        while at >= 0 and self._hashes[at] == wanted:
            if self[self._ids[at]] == word:
                return int(self._ids[at])
            at -= 1
        return NO_WORD


def load_vocabulary(file: str | None, words: Sequence[str] | None) -> LmVocabulary | None:
    """Return the vocabulary of these words, else of this file, else none."""
    if words is not None:
        return LmVocabulary.from_words(words)
    return None if file is None else LmVocabulary.read(file)


def check_vocabulary(vocabulary: LmVocabulary, needed: list[str]) -> None:
    """Raise ValueError unless the vocabulary holds these words."""
    ids = vocabulary.ids(needed)
    if missing := [word for word, i in zip(needed, ids, strict=True) if i == NO_WORD]:
        first = [vocabulary[i] for i in range(min(5, len(vocabulary)))]
        raise ValueError(
            f"the vocabulary of {len(vocabulary)} words (first: {first}) lacks {missing}, so "
            "boundaries or unknown words would silently get wrong ids; add a line for each, or "
            "name the ones it has with bos_token, eos_token and word_unk_token"
        )


# --- Words met ---


class Numbering(dict[str, int]):
    """Numbers 1, 2, .. for words as they are first asked for; 0 stays for padding."""

    def __init__(self) -> None:
        self.unfilled: list[str] = []

    def __missing__(self, word: str) -> int:
        check_string(word)
        number = self[word] = len(self) + 1
        self.unfilled.append(word)
        return number


class WordTable:
    """The rows and vocabulary ids of the words met lately, so that each is worked out once.

    Threads may share it. What UTF-8 cannot hold, a lone surrogate, is dropped from a word, as
    AllenNLP does.

    Args:
        spelling: None where a model reads no characters.
        width: symbols in a row.
        vocabulary, unknown: None where there is none, and the id of a word that it lacks.
        limit: words kept; above it, the next call starts anew.
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
        Return `numbers`, `rows` and `ids`: word i has `rows[numbers[i]]` and `ids[numbers[i]]`.

        Number 0 is padding. Later calls, of other threads too, write behind these numbers or into
        new arrays, so that what was returned stays right.
        """
        with self._lock:
            if len(self._numbering) > self.limit:
                self._forget()
            number_of = self._numbering.__getitem__
            try:
                numbers = np.fromiter(map(number_of, words), np.int64, count=len(words))
            except TypeError:  # a word that cannot be a key of a dictionary
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


__all__ = ["LmVocabulary", "WordTable", "check_vocabulary", "load_vocabulary"]
