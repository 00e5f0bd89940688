# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Reads sentences from files: plain text, words, CoNLL-U or JSON lines, also compressed."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tokenizers import Tokenizer

from .extras import require
from .model.tokenization_elmo import ElmoTokenizer

Input = Literal["text", "words", "conllu", "jsonl"]
Sentence = str | Sequence[str]
NumberedLines = Iterable[tuple[int, str]]

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
FIELDS = ("text", "words")


def read_sentences(
    path: str | os.PathLike[str], input: Input = "text", field: str | None = None
) -> Iterator[Sentence]:
    """
    Yield the sentences of a UTF-8 file, plain or compressed (.gz, .xz, .bz2, .zst), in its order.

    Args:
        path: the file; "-" is the standard input.
        input: what the file holds.
            `"text"`: a sentence per line, as a string; a tokenizer splits it into words.
            `"words"`: a sentence per line, as words separated by white space.
            `"conllu"`: sentences of a treebank in CoNLL-U, as the words of column FORM. Ranges
            (`1-2  don't`) and empty nodes (`1.1`) are left out: their parts are words of their own.
            `"jsonl"`: per line a string, a list of words, or an object with one of these.
        field: the field of such an object; default: `text` or `words`, whichever there is.

    Returns:
        An iterator over strings or lists of words. A blank line of text is a sentence of 0 words.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `input` is unknown; or, while iterating, the file is damaged, not UTF-8, or not
            of this format. The message names the file and the line.
    """
    if input not in get_args(Input):
        raise ValueError(f"input is {input!r}; expected one of {', '.join(get_args(Input))}")
    if str(path) != "-" and not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; expected a file, or - for stdin")
    lines = enumerate(read_lines(path), 1)
    if input == "text":
        return (line for _, line in lines)
    if input == "words":
        return (line.split() for _, line in lines)
    if input == "conllu":
        return _read_conllu(lines, _name(path))
    return _read_json(lines, _name(path), field)


def read_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """
    Yield the lines of a UTF-8 file, without white space at their ends; see `read_sentences`.

    Raises:
        ValueError: the file is damaged or cut off, or a line is not UTF-8 or has a NUL character.
    """
    name, number = _name(path), 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                yield _decode(line, name, number)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # no such file, no permission, ..
        raise ValueError(
            f"{name} is damaged or cut off after line {number} ({error}); copy it again"
        ) from error


def make_splitter(tokenizer: ElmoTokenizer) -> Tokenizer:
    """Return a copy of the Rust tokenizer without the padding and truncation of earlier calls."""
    splitter = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    splitter.no_padding()
    splitter.no_truncation()
    splitter.encode_special_tokens = True  # "a<S>b" in a text stays one word
    return splitter


def _name(path: str | os.PathLike[str]) -> str:
    return "the standard input" if str(path) == "-" else str(path)


def _open(path: str | os.PathLike[str]) -> Any:
    if str(path) == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    path = Path(path)
    if path.suffix == ".zst":
        arrow = require("pyarrow", "storage")
        return io.BufferedReader(arrow.input_stream(str(path), compression="zstd"))
    return OPENERS.get(path.suffix, open)(path, "rb")


def _decode(line: bytes, name: str, number: int) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if line[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise ValueError(
            f"{name}, line {number}, is not UTF-8 ({error.reason}: "
            f"{line[error.start : error.end]!r}); convert the file, for instance with "
            f"iconv -f {encoding} -t UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{name}, line {number}, has a NUL character, so it is no UTF-8 text; convert the "
            "file, for instance with iconv -f UTF-16 -t UTF-8, or delete them with tr -d '\\0'"
        )
    return text


def _read_conllu(lines: NumberedLines, name: str) -> Iterator[list[str]]:
    words: list[str] | None = None
    for number, line in lines:
        if not line:
            if words is not None:
                yield words
            words = None
            continue
        words = [] if words is None else words
        if line.startswith("#"):
            continue
        columns = line.split("\t")
        if len(columns) < 2 or not columns[0][:1].isdigit() or not columns[1]:
            raise ValueError(
                f"{name}, line {number}, is {_shorten(line)}; expected CoNLL-U: a number, a tab, "
                "the word, and more columns"
            )
        if columns[0].isdigit():
            words.append(columns[1])
    if words is not None:
        yield words


def _read_json(lines: NumberedLines, name: str, field: str | None) -> Iterator[Sentence]:
    kind: type = object
    for number, line in lines:
        try:
            sentence = _pick(json.loads(line), field)
            if not isinstance(sentence, kind):
                raise ValueError("not of the same kind as the lines before")
        except ValueError as error:  # json's error is one, too
            wanted = f"an object with {field!r}" if field else "an object with 'text' or 'words'"
            raise ValueError(
                f"{name}, line {number}, is {_shorten(line)} ({error}); expected on every line a "
                f"string, on every line a list of words, or {wanted}"
            ) from None
        kind = type(sentence)
        yield sentence


def _pick(value: Any, field: str | None) -> Sentence:
    """Return the string or list of words of a JSON value."""
    if isinstance(value, dict):
        found = [name for name in ([field] if field else FIELDS) if name in value]
        if len(found) != 1:
            raise ValueError(f"its fields are {', '.join(value) or 'none'}")
        value = value[found[0]]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    raise ValueError("neither a string nor a list of words")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}..")


__all__ = ["Input", "Sentence", "make_splitter", "read_lines", "read_sentences"]
