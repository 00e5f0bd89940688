# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Checks the tokenizer's input, and replaces strings that Rust cannot hold."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import Encoding
from transformers.tokenization_utils_base import BatchEncoding

# Letters of Linear A: texts hardly contain this undeciphered script, and no word splitter cuts
# between its letters and others.
STAND_INS = [chr(point) for point in range(0x10600, 0x10737)]
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def to_lists(value: Any) -> Any:
    """Convert arrays and columns of NumPy, pandas, pyarrow or polars, also in lists, to lists.

    A list that begins with a string is returned unchanged.
    """
    if isinstance(value, str):
        return value
    if is_list(value):
        if not value or isinstance(value[0], str):
            return value
        return (
            tuple(map(to_lists, value)) if isinstance(value, tuple) else list(map(to_lists, value))
        )
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(value, method):
            return to_lists(getattr(value, method)())
    return value


def check_texts(text: Any, is_split_into_words: bool) -> None:
    """Raise ValueError unless `text` is a text, words, or a batch of texts, pairs or words."""
    if isinstance(text, str) and is_split_into_words:
        raise ValueError(
            f"text is the string {shown(text)}, but is_split_into_words=True expects a list of "
            "words or a list of such lists: pass text.split(), or leave out is_split_into_words"
        )
    if not isinstance(text, (str, list, tuple)):
        raise ValueError(
            f"text is {shown(text)}, a {type(text).__name__}; expected a string, a list of "
            "strings, or lists of words with is_split_into_words=True (arrays work, too)"
        )
    if not text and text != "" and not is_split_into_words:
        raise ValueError("text is an empty batch; pass at least one string, which may be empty")
    if is_split_into_words and any(map(is_list, text)) and not all(map(is_list, text)):
        raise ValueError(
            "with is_split_into_words=True some entries are lists of words and some are not; "
            "expected one list of words, or a batch in which every entry is such a list"
        )
    if not is_split_into_words and not isinstance(text, str) and is_list(text[0]):
        check_pairs(text)


def check_pairs(batch: Any) -> None:
    """Raise ValueError if the lists of a batch are lists of words, not pairs of texts."""
    pairs = all(is_list(entry) and len(entry) == 2 for entry in batch)
    # Lists of two texts are pairs to transformers; two words of English are more likely words.
    one_word_each = pairs and all(
        isinstance(entry, list) and all(map(is_word, entry)) for entry in batch
    )
    if not pairs or one_word_each:
        raise ValueError(
            f"text is a batch of lists, the first is {shown(batch[0])}; for lists of words add "
            "is_split_into_words=True, for pairs of texts pass tuples or text_pair"
        )


def is_single(text: Any, is_split_into_words: bool) -> bool:
    """Whether the input is one example and not a batch, by the rule of transformers."""
    return isinstance(text, str) or (is_split_into_words and not (text and is_list(text[0])))


def encode_any_string(
    encode: Callable[[Any, Any], BatchEncoding],
    texts: Any,
    pairs: Any,
    is_split_into_words: bool,
) -> tuple[BatchEncoding, str]:
    """
    Encode strings, also empty words in lists and lone surrogates, which Rust cannot hold.

    Returns:
        The batch, and the character that replaced each empty word and lone surrogate. It occurs
        nowhere else in the input and leaves all offsets right; "" if nothing was replaced.

    Raises:
        ValueError: an entry is not a string.
    """
    failure: Exception | None = None
    try:
        if not (is_split_into_words and has_empty_word([*texts, *(pairs or [])])):
            return encode(texts, pairs), ""
    except (TypeError, ValueError) as error:
        failure = error
    strings = list(strings_of([texts, [] if pairs is None else pairs]))
    if failure is not None and all(map(is_utf8, strings)):
        raise failure
    used = set().union(*strings)
    stand_in = next(character for character in STAND_INS if character not in used)

    def repair(value: Any) -> Any:
        if not isinstance(value, str):
            return (
                tuple(map(repair, value)) if isinstance(value, tuple) else list(map(repair, value))
            )
        if not value and is_split_into_words:
            return stand_in
        return LONE_SURROGATE.sub(stand_in, value)

    return encode(repair(texts), None if pairs is None else repair(pairs)), stand_in


@contextmanager
def panics_explained(options: Mapping[str, Any]) -> Iterator[None]:
    """Raise `stride_error` for Rust's panic: one of two texts left no room for the stride."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException" or not options.get("stride"):
            raise
        raise stride_error(options) from error


def stride_error(options: Mapping[str, Any]) -> ValueError:
    """Return the error for a stride that leaves no room for new words."""
    return ValueError(
        f"stride is {options['stride']}, the words that a part of a text repeats, but with "
        f"max_length={options['max_length']} a part has no room for more words; pass a smaller "
        "stride or a larger max_length"
    )


class RepairedEncoding:
    """
    Class that wraps an encoding of Rust and corrects its tokens.

    Args:
        stand_in: character to remove from tokens.
        names: added tokens by id: they get their exact name back, not normalized and without the
            spaces that `lstrip` and `rstrip` include.
    """

    def __init__(self, encoding: Encoding, stand_in: str, names: Mapping[int, str]) -> None:
        self._encoding, self._stand_in, self._names = encoding, stand_in, names

    @property
    def tokens(self) -> list[str]:
        ids, tokens = self._encoding.ids, self._encoding.tokens
        if self._stand_in:
            tokens = [token.replace(self._stand_in, "") for token in tokens]
        return [self._names.get(i, token) for i, token in zip(ids, tokens, strict=True)]

    def __len__(self) -> int:
        return len(self._encoding)

    def __reduce__(self) -> tuple[type["RepairedEncoding"], tuple[Any, ...]]:
        return RepairedEncoding, (self._encoding, self._stand_in, self._names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoding, name)


def has_empty_word(samples: Iterable[Any]) -> bool:
    return any(
        is_list(words) and ("" in words or (words and is_list(words[0]) and has_empty_word(words)))
        for words in samples
    )


def strings_of(value: Any) -> Iterator[str]:
    """Yield all strings in nested lists; raise ValueError for anything else."""
    if is_list(value):
        for part in value:
            yield from strings_of(part)
    else:
        yield check_string(value)


def check_string(value: Any) -> str:
    """Return `value`; raise ValueError if it is not a string."""
    if isinstance(value, str):
        return value
    raise ValueError(
        f"a text or word is {shown(value)}, a {type(value).__name__}; expected a string: pass "
        "str(value), or leave it out"
    )


def is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def is_word(value: Any) -> bool:
    """Whether this is ASCII text without spaces; whole texts of some other scripts have none."""
    return isinstance(value, str) and value.isascii() and " " not in value


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}.."


__all__ = [
    "RepairedEncoding",
    "check_texts",
    "encode_any_string",
    "is_single",
    "panics_explained",
    "stride_error",
    "to_lists",
]
