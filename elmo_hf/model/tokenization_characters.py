# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Symbols, their names in tokenizer.json, and how words are spelled in them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Unigram

BEGIN_OF_WORD, END_OF_WORD, PADDING_CHARACTER = "<BOW>", "<EOW>", "<PADC>"
UNKNOWN_CHARACTER = "<OOV>"

# --- Symbols ---


def byte_symbols(pad: str, bos: str | None, eos: str | None) -> list[str]:
    """Return the 262 symbols of AllenNLP and bilm-tf, in the order of their ids."""
    boundaries = [bos or "<unused_257>", eos or "<unused_258>"]
    markers = [BEGIN_OF_WORD, END_OF_WORD, PADDING_CHARACTER]
    return [pad, *(byte_symbol(byte) for byte in range(256)), *boundaries, *markers]


def character_symbols(characters: Mapping[str, int], pad: str, bos: str, eos: str) -> list[str]:
    """Return the symbols of a table of unicode characters, in the order of their ids.

    Args:
        characters: id of each character and, under the names `bos`, `eos`, <BOW>, <EOW>, <PADC>
            and <OOV>, of each marker. 0 is word padding and taken; ids left out stay unused.

    Raises:
        ValueError: a marker is missing, an entry is neither a character nor a marker, or an id
            is below 1 or given twice.
    """
    markers = {BEGIN_OF_WORD, END_OF_WORD, PADDING_CHARACTER, UNKNOWN_CHARACTER, bos, eos}
    check_characters(characters, markers)
    names = [pad, *(f"<unused_{i}>" for i in range(1, max(characters.values()) + 1))]
    for entry, symbol in characters.items():
        names[symbol] = entry if entry in markers else character_symbol(entry)
    return names


def check_characters(characters: Mapping[str, int], markers: set[str]) -> None:
    if missing := sorted(markers - characters.keys()):
        raise ValueError(
            f"the character table lacks the markers {missing}; give each an id under exactly that "
            "name, which says its role (ELMoForManyLangs begins a word with its <eow>: name it "
            "<BOW> here)"
        )
    if strange := [e for e in characters if len(e) != 1 and e not in markers]:
        raise ValueError(
            f"the character table has entries that are neither one character nor one of the "
            f"markers {sorted(markers)}: {strange[:5]}; leave them out, their ids stay unused"
        )
    ids = list(characters.values())
    if min(ids) < 1 or len(set(ids)) < len(ids):
        raise ValueError(
            f"character ids must be distinct and 1 or more, as 0 is word padding; found the "
            f"smallest {min(ids)} and {len(ids) - len(set(ids))} given twice: add 1 to each "
            "original id"
        )


def word_symbols(ids: Mapping[str, int]) -> list[str]:
    """Return placeholders, in the order of their ids, that give these words these ids."""
    names = [f"<word_{i}>" for i in range(max(ids.values()) + 1)]
    for word, symbol in ids.items():
        names[symbol] = word
    return names


def byte_symbol(byte: int) -> str:
    return f"<0x{byte:02X}>"


def character_symbol(character: str) -> str:
    return f"<U+{ord(character):04X}>"


def unigram(names: list[str], unknown: str) -> Tokenizer:
    """
    Return a Rust tokenizer with these symbols that leaves every word whole.

    Each character that is no symbol costs 10 of a score of 1000, and a word's unknown characters
    come out as one token. So taking all characters as unknown beats every symbol of two or more
    characters inside the word, and the token's text is the word itself.

    Raises:
        ValueError: two symbols have the same name, or one is a single character.
    """
    if len(set(names)) < len(names) or min(map(len, names)) < 2:
        bad = [name for name in names if len(name) < 2 or names.count(name) > 1]
        raise ValueError(
            f"symbols are named {bad[:5]}; expected different names of two characters or more: "
            "choose other pad_token, bos_token and eos_token"
        )
    return Tokenizer(Unigram([(name, 1000.0) for name in names], unk_id=names.index(unknown)))


def check_symbols(backend: Tokenizer, pad: str, boundaries: Iterable[str | None]) -> None:
    tokens = [pad, *(token for token in boundaries if token is not None)]
    ids = {token: backend.token_to_id(token) for token in tokens}
    if None in ids.values() or ids[pad] != 0:
        raise ValueError(
            f"pad_token, bos_token and eos_token have the symbol ids {ids}; expected 0 for the "
            "first and a number for the others: name them as tokenizer.json does, or make the "
            "tokenizer anew instead of loading it"
        )


# --- Spelling ---


class Spelling:
    """Words as rows of symbol ids, and back; `make_spelling` chooses the kind."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        self.begin = symbols[BEGIN_OF_WORD]
        self.end = symbols[END_OF_WORD]
        self.padding = symbols[PADDING_CHARACTER]
        self.boundaries = {token: symbols[token] for token in boundaries if token is not None}
        self.dtype = np.int16 if max(symbols.values()) < 2**15 else np.int32

    def rows(self, words: Sequence[str], width: int) -> np.ndarray:
        """Return the ids, `(len(words), width)`: begin, letters, end, padding characters."""
        letters, lengths = self.letters(words, width - 2)
        rows = np.full((len(words), width), self.padding, dtype=self.dtype)
        column = np.arange(width)
        rows[(column > 0) & (column <= lengths[:, None])] = letters
        rows[:, 0] = self.begin
        rows[np.arange(len(words)), lengths + 1] = self.end
        for row, word in zip(rows, words, strict=True):
            if word in self.boundaries:
                row[1:] = self.padding
                row[1:3] = self.boundaries[word], self.end
        return rows

    def word(self, row: Sequence[int]) -> str | None:
        """Return the word of one row; None for a row of zeros, which is padding."""
        if not any(row):
            return None
        for token, symbol in self.boundaries.items():
            if row[1] == symbol:
                return token
        return self.text(list(row[1 : row.index(self.end)] if self.end in row else row[1:]))

    def cut(self, word: str, width: int) -> str:
        """Return the word that a vocabulary is asked for."""
        return word

    def letters(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all letters in one line, and how many each word has."""
        raise NotImplementedError

    def text(self, letters: list[int]) -> str:
        """Return what these ids spell."""
        raise NotImplementedError


class ByteSpelling(Spelling):
    """Letters are UTF-8 bytes (AllenNLP, bilm-tf)."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        super().__init__(symbols, boundaries)
        self.symbol_of = np.array([symbols[byte_symbol(b)] for b in range(256)], self.dtype)
        self.byte_of = {int(symbol): byte for byte, symbol in enumerate(self.symbol_of)}

    def letters(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        encoded = [word.encode()[:room] for word in words]
        lengths = np.fromiter(map(len, encoded), np.int64, count=len(encoded))
        return self.symbol_of[np.frombuffer(b"".join(encoded), np.uint8)], lengths

    def text(self, letters: list[int]) -> str:
        data = bytes(self.byte_of[i] for i in letters if i in self.byte_of)
        return data.decode("utf-8", "replace")


class CharacterSpelling(Spelling):
    """Letters are unicode characters of a table (ELMoForManyLangs); others are <OOV>."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        super().__init__(symbols, boundaries)
        self.unknown = symbols[UNKNOWN_CHARACTER]
        points = {int(s[3:-1], 16): i for s, i in symbols.items() if s.startswith("<U+")}
        self.points = np.array(sorted(points), np.uint32)
        # One more, for those past the last point.
        ids = [points[point] for point in sorted(points)]
        self.symbol_of = np.array([*ids, self.unknown], self.dtype)
        self.character_of = {i: chr(point) for point, i in points.items()}

    def letters(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.fromiter((min(len(word), room) for word in words), np.int64, count=len(words))
        text = "".join(word[:room] for word in words)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        at = np.searchsorted(self.points, points)
        known = np.append(self.points, 0)[at] == points
        return np.where(known, self.symbol_of[at], self.unknown).astype(self.dtype), lengths

    def text(self, letters: list[int]) -> str:
        return "".join(self.character_of.get(i, "\ufffd") for i in letters)

    def cut(self, word: str, width: int) -> str:
        return word if word in self.boundaries else word[: width - 2]


def make_spelling(symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> Spelling:
    """Return the spelling that these symbols, names and ids, describe."""
    kind = ByteSpelling if byte_symbol(0) in symbols else CharacterSpelling
    return kind(symbols, boundaries)


def check_width(max_characters_per_token: int) -> None:
    if max_characters_per_token < 3:
        raise ValueError(
            f"max_characters_per_token is {max_characters_per_token}; expected 3 or more, room for "
            "begin of word, one character and end of word (published models have 50)"
        )


__all__ = ["Spelling", "make_spelling"]
