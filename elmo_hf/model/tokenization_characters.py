# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Character symbols, their names in tokenizer.json, and words as rows of their ids."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Unigram

BEGIN_OF_WORD, END_OF_WORD, PADDING_CHARACTER = "<BOW>", "<EOW>", "<PADC>"
UNKNOWN_CHARACTER = "<OOV>"
SCORE = 1000.0

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

    All symbols have a score of 1000. A character that is no symbol scores 10 less, the penalty of
    the tokenizers library, and neighbouring unknown characters become one token. So a symbol of
    two or more characters inside a word scores less than its characters, the best segmentation is
    the whole word as one unknown token, and the token's text is the word.

    Raises:
        ValueError: two symbols have the same name, or a name is a single character.
    """
    check_names(names)
    return Tokenizer(Unigram([(name, SCORE) for name in names], unk_id=names.index(unknown)))


def check_names(names: list[str]) -> None:
    if len(set(names)) < len(names) or min(map(len, names)) < 2:
        bad = [name for name in names if len(name) < 2 or names.count(name) > 1]
        raise ValueError(
            f"symbols are named {bad[:5]}; expected different names of two characters or more: "
            "choose other pad_token, bos_token and eos_token"
        )


def rename_symbols(backend: Tokenizer, new_names: Mapping[str, str]) -> Tokenizer:
    """Return the tokenizer with other names, old to new, for some symbols; their ids stay."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(key): renamed(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [renamed(entry) for entry in value]
        return new_names.get(value, value) if isinstance(value, str) else value

    state = json.loads(backend.to_str())
    for part in ("added_tokens", "post_processor"):
        state[part] = renamed(state[part])
    state["model"]["vocab"] = renamed(state["model"]["vocab"])
    check_names([name for name, _ in state["model"]["vocab"]])
    return Tokenizer.from_str(json.dumps(state))


def name_symbols(backend: Tokenizer, pad: str, bos: str | None, eos: str | None) -> Tokenizer:
    """
    Return a tokenizer in which padding and boundaries have these names.

    Raises:
        ValueError: a boundary of a character table is not called so; its id is unknown.
    """
    names: dict[int, str | None] = {0: pad}
    if backend.token_to_id(byte_symbol(0)) is not None:
        names |= {257: bos, 258: eos}
    new_names = {str(backend.id_to_token(i)): name for i, name in names.items() if name is not None}
    if any(old != new for old, new in new_names.items()):
        backend = rename_symbols(backend, new_names)
    ids = {token: backend.token_to_id(token) for token in (pad, bos, eos) if token is not None}
    if None in ids.values() or ids[pad] != 0:
        raise ValueError(
            f"pad_token, bos_token and eos_token have the symbol ids {ids}; expected 0 for the "
            "first and a number for the others: name them as tokenizer.json does, or make the "
            "tokenizer anew instead of loading it"
        )
    return backend


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
        """Return the ids, `(len(words), width)`: begin, characters, end, padding characters."""
        ids, lengths = self.character_ids(words, width - 2)
        rows = np.full((len(words), width), self.padding, dtype=self.dtype)
        column = np.arange(width)
        rows[(column > 0) & (column <= lengths[:, None])] = ids
        rows[:, 0] = self.begin
        rows[np.arange(len(words)), lengths + 1] = self.end
        for row, word in zip(rows, words, strict=True):
            if word in self.boundaries:
                row[1:] = self.padding
                row[1:3] = self.boundaries[word], self.end
        return rows

    def is_row(self, ids: Any) -> bool:
        """Whether these are the ids of a word or of padding: they begin a word, or all are 0."""
        if not isinstance(ids, (list, tuple)) or len(ids) < 3 or isinstance(ids[0], (list, tuple)):
            return False
        return ids[0] == self.begin or not any(ids)

    def word(self, row: Sequence[int]) -> str | None:
        """Return the word of one row; None for a row of zeros, which is padding."""
        if not any(row):
            return None
        for token, symbol in self.boundaries.items():
            if row[1] == symbol:
                return token
        return self.text(list(row[1 : row.index(self.end)] if self.end in row else row[1:]))

    def shortened(self, word: str, width: int) -> str:
        """Return the word as it is looked up in a vocabulary."""
        return word

    def character_ids(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all words' characters, joined, and how many each word has."""
        raise NotImplementedError

    def text(self, ids: list[int]) -> str:
        """Return the characters with these ids as text."""
        raise NotImplementedError


class ByteSpelling(Spelling):
    """Spells words in UTF-8 bytes (AllenNLP, bilm-tf)."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        super().__init__(symbols, boundaries)
        self.symbol_of = np.array([symbols[byte_symbol(b)] for b in range(256)], self.dtype)
        self.byte_of = {int(symbol): byte for byte, symbol in enumerate(self.symbol_of)}

    def character_ids(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        encoded = [word.encode()[:room] for word in words]
        lengths = np.fromiter(map(len, encoded), np.int64, count=len(encoded))
        return self.symbol_of[np.frombuffer(b"".join(encoded), np.uint8)], lengths

    def text(self, ids: list[int]) -> str:
        data = bytes(self.byte_of[i] for i in ids if i in self.byte_of)
        return data.decode("utf-8", "replace")


class CharacterSpelling(Spelling):
    """Spells words in the characters of a table (ELMoForManyLangs); others are <OOV>."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        super().__init__(symbols, boundaries)
        self.unknown = symbols[UNKNOWN_CHARACTER]
        points = {int(s[3:-1], 16): i for s, i in symbols.items() if s.startswith("<U+")}
        self.points = np.array(sorted(points), np.uint32)
        # The last entry is for characters behind all those of the table.
        ids = [points[point] for point in sorted(points)]
        self.symbol_of = np.array([*ids, self.unknown], self.dtype)
        self.character_of = {i: chr(point) for point, i in points.items()}

    def character_ids(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.fromiter((min(len(word), room) for word in words), np.int64, count=len(words))
        text = "".join(word[:room] for word in words)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        at = np.searchsorted(self.points, points)
        known = np.append(self.points, 0)[at] == points
        return np.where(known, self.symbol_of[at], self.unknown).astype(self.dtype), lengths

    def text(self, ids: list[int]) -> str:
        return "".join(self.character_of.get(i, "\ufffd") for i in ids)

    def shortened(self, word: str, width: int) -> str:
        return word if word in self.boundaries else word[: width - 2]


def make_spelling(symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> Spelling:
    """Return the spelling for these symbols, ids by name: by bytes or by characters."""
    kind = ByteSpelling if byte_symbol(0) in symbols else CharacterSpelling
    return kind(symbols, boundaries)


def check_width(max_characters_per_token: int) -> None:
    if max_characters_per_token < 3:
        raise ValueError(
            f"max_characters_per_token is {max_characters_per_token}; expected 3 or more, room for "
            "begin of word, one character and end of word (published models have 50)"
        )


__all__ = ["Spelling", "make_spelling"]
