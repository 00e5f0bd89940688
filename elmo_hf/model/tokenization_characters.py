# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Character symbols, their names in tokenizer.json, and words encoded as character ids."""

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
    """Return the symbols of a table of Unicode characters, in the order of their ids.

    Args:
        characters: the id of each character and of each marker; markers are named `bos`, `eos`,
            <BOW>, <EOW>, <PADC> and <OOV>. Ids begin at 1, because 0 is word padding, and may
            have gaps.

    Raises:
        ValueError: a marker is missing, an entry is neither a character nor a marker, or an id
            is below 1 or occurs twice.
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
            f"the character table lacks the markers {missing}; add each under exactly this name "
            "with its id (ELMoForManyLangs begins a word with <eow> and ends it with <bow>: its "
            "<eow> is <BOW> here, its <bow> is <EOW>)"
        )
    if strange := [e for e in characters if len(e) != 1 and e not in markers]:
        raise ValueError(
            f"the character table has the entries {strange[:5]}; expected single characters and "
            f"the markers {sorted(markers)}: remove other entries, their ids stay unused"
        )
    ids = list(characters.values())
    if min(ids) < 1 or len(set(ids)) < len(ids):
        raise ValueError(
            f"the smallest character id is {min(ids)}, and {len(ids) - len(set(ids))} ids are "
            "repeated; expected distinct ids from 1, because 0 is word padding: pass each original "
            "id + 1"
        )


def word_symbols(ids: Mapping[str, int]) -> list[str]:
    """Return a list with each word at the index of its id, and placeholders elsewhere."""
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
    Return a Rust tokenizer with these symbols that never splits a word.

    All symbols score 1000. The tokenizers library scores an unknown character 10 below the worst
    symbol, and fuses neighbouring unknown characters to one token. All symbols are longer than one
    character. So the unknown characters of a word score more together than any symbol in it: the
    best segmentation is the whole word as one unknown token, whose text is the word.

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
    """Return a copy of the tokenizer with symbols renamed, old to new; their ids stay."""

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
        ValueError: a character table has no boundary with this name, so its id is unknown.
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
            f"pad_token, bos_token and eos_token have the symbol ids {ids}; expected 0 for "
            "pad_token and an id for the others: use the names in tokenizer.json, or make a new "
            "tokenizer instead of loading this one"
        )
    return backend


# --- Spelling ---


class Spelling:
    """Class that encodes words as character ids, and decodes them; see `make_spelling`."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        self.begin = symbols[BEGIN_OF_WORD]
        self.end = symbols[END_OF_WORD]
        self.padding = symbols[PADDING_CHARACTER]
        self.boundaries = {token: symbols[token] for token in boundaries if token is not None}
        self.dtype = np.int16 if max(symbols.values()) < 2**15 else np.int32

    def rows(self, words: Sequence[str], width: int) -> np.ndarray:
        """Return ids `(len(words), width)`: begin of word, characters, end of word, padding."""
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
        """Whether these are the ids of a word, which begin with <BOW>, or of padding, all 0."""
        if not isinstance(ids, (list, tuple)) or len(ids) < 3 or isinstance(ids[0], (list, tuple)):
            return False
        return ids[0] == self.begin or not any(ids)

    def word(self, row: Sequence[int]) -> str | None:
        """Return the word with these ids; None for padding, which is all zeros."""
        if not any(row):
            return None
        for token, symbol in self.boundaries.items():
            if row[1] == symbol:
                return token
        return self.text(list(row[1 : row.index(self.end)] if self.end in row else row[1:]))

    def shortened(self, word: str, width: int) -> str:
        """Return the word in the form that the vocabulary holds."""
        return word

    def character_ids(self, words: Sequence[str], room: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the joined ids of all words' characters, and the number of ids of each word."""
        raise NotImplementedError

    def text(self, ids: list[int]) -> str:
        """Return the text of these character ids."""
        raise NotImplementedError


class ByteSpelling(Spelling):
    """Class that encodes words as UTF-8 bytes (AllenNLP, bilm-tf)."""

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
    """Class that encodes words by a table of characters (ELMoForManyLangs); others are <OOV>."""

    def __init__(self, symbols: Mapping[str, int], boundaries: Iterable[str | None]) -> None:
        super().__init__(symbols, boundaries)
        self.unknown = symbols[UNKNOWN_CHARACTER]
        points = {int(s[3:-1], 16): i for s, i in symbols.items() if s.startswith("<U+")}
        self.points = np.array(sorted(points), np.uint32)
        # `searchsorted` returns this last index for code points above all those in the table.
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
    """Return the spelling for symbols (name to id): by bytes if <0x00> is one, else by a table."""
    kind = ByteSpelling if byte_symbol(0) in symbols else CharacterSpelling
    return kind(symbols, boundaries)


def check_width(max_characters_per_token: int) -> None:
    if max_characters_per_token < 3:
        raise ValueError(
            f"max_characters_per_token is {max_characters_per_token}; expected 3 or more: begin of "
            "word, one character and end of word (published models have 50)"
        )


__all__ = ["Spelling", "make_spelling"]
