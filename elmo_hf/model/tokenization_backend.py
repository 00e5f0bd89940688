# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""A fast tokenizer whose tokens are whole words with features, such as character ids."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers.tokenization_utils_base import BatchEncoding, TruncationStrategy
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import PaddingStrategy, is_torch_tensor, to_py_obj

from .tokenization_checks import (
    RepairedEncoding,
    check_texts,
    encode_any_string,
    is_list,
    is_single,
    panics_explained,
    stride_error,
    to_lists,
)

IGNORED_LABEL = -100
# Options that need Rust's encodings, not only their words and lengths.
NEEDS_ENCODINGS = {
    "return_token_type_ids",
    "return_offsets_mapping",
    "return_overflowing_tokens",
    "return_length",
}
CUTS_ONE_TEXT = {TruncationStrategy.LONGEST_FIRST, TruncationStrategy.ONLY_FIRST}


@dataclass
class Request:
    """One call of the tokenizer: texts or lists of words, and transformers' options."""

    texts: Any
    pairs: Any
    is_split: bool  # the texts are lists of words
    single: bool  # one example, not a batch
    return_tensors: Any
    labels: bool
    options: dict[str, Any]

    def asks_for(self, *names: str) -> bool:
        return any(self.options.get(name) for name in names)


class WholeWordsBackend(TokenizersBackend):
    """
    Class that outputs `_features(words)` instead of the token ids of TokenizersBackend.

    Three methods compute the same values. `_encode_with_base_class` supports every option: the base
    class encodes, then `input_ids` are replaced. The two others are faster, for calls that need
    only ids and masks. `_encode_texts` lets Rust encode texts without padding, which halves the
    time for mixed lengths. `_encode_word_lists` does not use Rust; if a caller reads the batch's
    encodings, Rust makes them then.

    Threads may share a tokenizer: no call changes it.
    """

    _tokenizer: Tokenizer

    def _features(
        self, words: Sequence[str], indices: np.ndarray | None = None, labels: bool = False
    ) -> dict[str, np.ndarray]:
        """
        Return `input_ids` and the other model inputs, with one entry per word.

        Args:
            indices: the index in `words` of each entry, -1 for padding; None: every word once.
            labels: whether to add `labels`, the words' vocabulary ids.
        """
        raise NotImplementedError

    def _is_row(self, ids: Any) -> bool:
        """Whether `ids` are the character ids of one word."""
        raise NotImplementedError

    def _check_labels(self) -> None:
        """Raise ValueError if the tokenizer cannot make labels."""

    def _encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        is_split_into_words: bool = False,
        return_tensors: Any = None,
        return_lm_labels: bool = False,
        **options: Any,
    ) -> BatchEncoding:
        if return_lm_labels:
            self._check_labels()
        if options.get("sanitize_control_tokens"):
            raise NotImplementedError(
                "sanitize_control_tokens=True is for chat models; ELMo reads words and has no "
                "control tokens: leave it out"
            )
        text, text_pair = to_lists(text), to_lists(text_pair)
        check_texts(text, is_split_into_words)
        single = is_single(text, is_split_into_words)
        options["padding_side"] = options.get("padding_side") or self.padding_side
        request = Request(
            texts=[text] if single else text,
            pairs=([text_pair] if text_pair else None) if single else text_pair,
            is_split=is_split_into_words,
            single=single,
            return_tensors=return_tensors,
            labels=return_lm_labels,
            options=options,
        )
        self._check_room(request)
        if request.asks_for(*NEEDS_ENCODINGS) or "token_type_ids" in self.model_input_names:
            return self._encode_with_base_class(request)
        if not is_split_into_words:
            return self._encode_texts(request)
        return self._encode_word_lists(request) or self._encode_with_base_class(request)

    def _check_room(self, request: Request) -> None:
        """Raise ValueError if `max_length` has no room for the boundaries and `stride` words."""
        options = request.options
        if not is_truncated(options):
            return
        sample = next(iter(request.texts), "")
        if request.is_split:
            sample = next(iter(sample), "")
        paired = request.pairs is not None or is_list(sample)
        bare = options.get("add_special_tokens") is False
        boundaries = 0 if bare else self.num_special_tokens_to_add(paired)
        room = options["max_length"] - boundaries
        if room < 0:
            raise ValueError(
                f"max_length is {options['max_length']}, but the {boundaries} boundaries alone "
                f"exceed it; pass {boundaries + 1} or more, or add_special_tokens=False"
            )
        if 0 < room <= (options.get("stride") or 0):
            raise stride_error(options)

    # --- The three methods ---

    def _encode_with_base_class(self, request: Request) -> BatchEncoding:
        encoded, words = self._run_rust(request)
        encodings = encoded.encodings
        masks = chain.from_iterable(encoding.attention_mask for encoding in encodings)
        is_word = np.fromiter(masks, bool, count=len(words))
        lengths = list(map(len, encodings))
        indices = np.where(is_word, np.arange(len(words)), -1)
        features = self._features(words, indices, request.labels)
        data = {**encoded, **split_by_length(features, lengths, request.return_tensors)}
        if request.return_tensors is not None and len(set(lengths)) == 1:
            for key in encoded.keys() - features.keys():
                data[key] = as_tensor(np.array(data[key], np.int64), request.return_tensors)
        single = request.single and not request.asks_for("return_overflowing_tokens")
        return as_batch(data, encodings, request.return_tensors, single)

    def _encode_texts(self, request: Request) -> BatchEncoding:
        unpadded = {"padding_strategy": PaddingStrategy.DO_NOT_PAD, "pad_to_multiple_of": None}
        encoded, words = self._run_rust(
            request, **unpadded, return_attention_mask=False, return_special_tokens_mask=True
        )
        encodings = encoded.encodings
        lengths = np.fromiter(map(len, encodings), np.int64, count=len(encodings))
        padded = padded_lengths(lengths, request.options)
        padding = {
            "direction": request.options["padding_side"],
            "pad_id": self.pad_token_id,
            "pad_token": self.pad_token,
            "pad_type_id": self.pad_token_type_id,
        }

        def pad() -> list[Encoding]:
            if is_padded(request.options):  # otherwise this would pad the overflow
                for encoding, length in zip(encodings, padded.tolist(), strict=True):
                    encoding.pad(length, **padding)
            return encodings

        late = LateEncodings(len(encodings), encodings[0].n_sequences, pad)
        special = list(chain.from_iterable(encoded["special_tokens_mask"]))
        return self._make_batch(request, words, special, lengths, padded, late)

    def _encode_word_lists(self, request: Request) -> BatchEncoding | None:
        """Encode without Rust; return None if Rust would do more than add boundaries."""
        if not self._only_adds_boundaries(request):
            return None
        # The caller may change the lists before the encodings are read.
        sentences = request.texts = [list(words) for words in request.texts]
        bare = not request.options.get("add_special_tokens", True)
        before, after = ([], []) if bare else self._boundaries()
        limit: Any = request.options.get("max_length")
        if is_truncated(request.options):
            room = limit - len(before) - len(after)
            if room < 1:
                return None
            kept = slice(room) if self.truncation_side == "right" else slice(-room, None)
            sentences = [words[kept] for words in sentences]
        words = list(chain.from_iterable([*before, *words, *after] for words in sentences))
        first, last = [1] * len(before), [1] * len(after)
        special = list(chain.from_iterable([*first, *[0] * len(w), *last] for w in sentences))
        lengths = np.array([len(before) + len(w) + len(after) for w in sentences], np.int64)
        padded = padded_lengths(lengths, request.options)
        if limit is None and padded.max() > self.model_max_length:
            return None  # the base class warns about the length
        late = LateEncodings(len(sentences), 1, lambda: self._run_rust(request)[0].encodings)
        return self._make_batch(request, words, special, lengths, padded, late)

    def _only_adds_boundaries(self, request: Request) -> bool:
        strategy = request.options.get("truncation_strategy")
        return (
            request.pairs is None
            and not any(words and is_list(words[0]) for words in request.texts)
            and self._tokenizer.normalizer is None
            and (not is_truncated(request.options) or strategy in CUTS_ONE_TEXT)
            and not request.asks_for("stride")
        )

    def _boundaries(self) -> tuple[list[str], list[str]]:
        """Return the words that are added before and after each sentence."""
        rust = self._for_one_call({"is_split_into_words": True})._tokenizer
        encoding = rust.encode(["x"], is_pretokenized=True)
        word = encoding.special_tokens_mask.index(0)
        return encoding.tokens[:word], encoding.tokens[word + 1 :]

    def _make_batch(
        self,
        request: Request,
        words: list[str],
        special: list[int],
        lengths: np.ndarray,
        padded: np.ndarray,
        encodings: "LateEncodings",
    ) -> BatchEncoding:
        options = request.options
        indices = word_indices(lengths, padded, options["padding_side"])
        features = self._features(words, indices, request.labels)
        masks = {}
        if options.get("return_attention_mask") is not False:
            masks["attention_mask"] = (indices >= 0).astype(np.int64)
        if options.get("return_special_tokens_mask"):
            masks["special_tokens_mask"] = np.array([*special, 1], np.int64)[indices]
        columns = {"input_ids": features["input_ids"], **masks, **features}
        data = split_by_length(columns, padded.tolist(), request.return_tensors)
        return as_batch(data, encodings, request.return_tensors, request.single)

    # --- Rust ---

    def _run_rust(self, request: Request, **changed: Any) -> tuple[BatchEncoding, list[str]]:
        """Return the output of the base class, and the words of all its encodings in one list."""
        options = {**request.options, **changed, "is_split_into_words": request.is_split}
        tokenizer = self._for_one_call(options)
        if tokenizer is self or request.is_split:
            options["split_special_tokens"] = True
        encode = partial(TokenizersBackend._encode_plus, tokenizer, **options)
        with panics_explained(options):
            batch, stand_in = encode_any_string(
                encode, request.texts, request.pairs, request.is_split
            )
        added = {} if tokenizer is self else tokenizer.added_tokens_decoder
        names = {i: token.content for i, token in added.items()}
        if stand_in or names:
            encodings = [RepairedEncoding(e, stand_in, names) for e in batch.encodings]
            batch = BatchEncoding(dict(batch), encodings, n_sequences=batch.n_sequences)
        return batch, [word for encoding in batch.encodings for word in encoding.tokens]

    def _for_one_call(self, options: Mapping[str, Any]) -> "WholeWordsBackend":
        """
        Return this tokenizer, or a copy for one call that needs other settings in Rust.

        The base class sets padding, truncation and the handling of special tokens on the Rust
        tokenizer, which threads share. Calls with such options therefore get their own Rust
        tokenizer. It shares the model and its cache, and takes microseconds to make. For lists of
        words it has no pre-tokenizer and no added tokens, so that each word stays whole. In texts
        it finds added tokens, but not the names of padding and boundaries: "a<S>b" is one word.
        """
        is_split = options["is_split_into_words"]
        names = {self.pad_token, self.bos_token, self.eos_token}
        added = [t for t in self.added_tokens_decoder.values() if t.content not in names]
        if not (is_split or added or is_padded(options) or is_truncated(options)):
            return self
        rust = Tokenizer(self._tokenizer.model)
        parts = ["normalizer", "post_processor"] + ["pre_tokenizer"] * (not is_split)
        for part in parts:
            if (value := getattr(self._tokenizer, part)) is not None:
                setattr(rust, part, value)
        if not is_split:
            rust.add_tokens(added)  # last: tokenizers 0.22 normalizes them as it adds them
        return self._copy_with(_tokenizer=rust)

    def _copy_with(self, **changed: Any) -> Any:
        """Return a shallow copy with these attributes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **changed)
        return other

    # --- Padding ---

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """
        Pad one example or a batch: `input_ids` with zeros, `labels` with -100.

        Flat lists of symbol ids are padded with `pad_token_id`, as by other tokenizers.
        """
        options = {
            "padding": padding,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "padding_side": padding_side,
            "return_attention_mask": return_attention_mask,
            "verbose": verbose,
        }
        columns = encoded_inputs
        if is_list(columns) and columns and isinstance(columns[0], Mapping):
            columns = {key: [example[key] for example in columns] for key in columns[0]}
        ids = columns.get("input_ids") if isinstance(columns, Mapping) else None
        if ids is None or len(ids) == 0:
            return super().pad(columns, return_tensors=return_tensors, **options)
        kind = return_tensors or tensor_kind(ids)
        columns = {key: to_py_obj(value) for key, value in columns.items()}
        first = columns["input_ids"][0]
        single = self._is_row(first) or not is_list(first)
        if single:
            columns = {key: [value] for key, value in columns.items()}
        data = self._pad_columns(columns, options)
        if single:
            data = {key: value[0] for key, value in data.items()}
        if kind is not None and (array := as_array(data["input_ids"])) is not None:
            data["input_ids"] = as_tensor(array, kind)
        return BatchEncoding(data, tensor_type=kind)

    def _pad_columns(self, columns: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        # The base class pads one number per word; the columns with other values follow.
        sentences, padding = columns["input_ids"], self.pad_token_id or 0
        numbers = [[padding] * len(sentence) for sentence in sentences]
        data = dict(super().pad({**columns, "input_ids": numbers}, **options))
        rows = [row for sentence in sentences for row in sentence[:1]]
        has_rows = bool(rows) and self._is_row(rows[0])
        fills = {
            "input_ids": [0] * len(rows[0]) if has_rows else padding,
            "word_input_ids": 0,
            "labels": IGNORED_LABEL,
        }
        left = (options["padding_side"] or self.padding_side) == "left"
        for key in fills.keys() & columns.keys():
            if key == "labels" and not are_labels_of_words(columns[key], sentences):
                continue
            pairs = zip(columns[key], data["input_ids"], strict=True)
            data[key] = [fill_up(values, len(padded), fills[key], left) for values, padded in pairs]
        return data


def are_labels_of_words(labels: Sequence[Any], sentences: Sequence[Sized]) -> bool:
    """Whether each item has one id per word; labels of several classes are not padded."""
    return all(
        isinstance(ids, list)
        and len(ids) == len(sentence)
        and not any(isinstance(value, float) for value in ids)
        for ids, sentence in zip(labels, sentences, strict=True)
    )


class LateEncodings(Sequence[Encoding]):
    """Class that makes the encodings of a batch when the first is read."""

    def __init__(self, count: int, n_sequences: int, make: Callable[[], list[Encoding]]) -> None:
        self.n_sequences = n_sequences
        self._count, self._make = count, make
        self._made: list[Encoding] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if self._made is None:  # two threads may both make the encodings: the results are equal
            self._made = self._make()
        return self._made[index]

    def __reduce__(self) -> tuple[type[list], tuple[list[Encoding]]]:
        return list, (self[:],)


def is_padded(options: Mapping[str, Any]) -> bool:
    strategy = options.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
    return strategy != PaddingStrategy.DO_NOT_PAD


def is_truncated(options: Mapping[str, Any]) -> bool:
    strategy = options.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
    return strategy != TruncationStrategy.DO_NOT_TRUNCATE


def padded_lengths(lengths: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Return the length of each sentence after padding with these options."""
    if not is_padded(options):
        return lengths
    fixed = options.get("max_length")
    if options["padding_strategy"] != PaddingStrategy.MAX_LENGTH or fixed is None:
        fixed = int(lengths.max())
    if multiple := options.get("pad_to_multiple_of"):
        fixed = -(-fixed // multiple) * multiple
    return np.maximum(lengths, fixed)


def word_indices(lengths: np.ndarray, padded: np.ndarray, padding_side: str) -> np.ndarray:
    """
    Return the index of the word at each position of all padded sentences, -1 for padding.

    Args:
        lengths, padded: each sentence's length without and with padding, `(sentences,)`.

    Returns:
        `(sum of padded,)`; words are numbered consecutively through all sentences.
    """
    indices = np.full(padded.sum(), -1)
    starts = np.cumsum(padded) - (padded if padding_side == "right" else lengths)
    words = np.arange(lengths.sum())
    indices[words + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)] = words
    return indices


def split_by_length(
    columns: Mapping[str, np.ndarray], lengths: Sequence[int], return_tensors: Any
) -> dict[str, Any]:
    """Split flat columns into sentences: one tensor per key if all have one length, else lists."""
    if return_tensors is not None and len(set(lengths)) == 1:
        shape = len(lengths), lengths[0]
        return {
            key: as_tensor(column.reshape(shape + column.shape[1:]), return_tensors)
            for key, column in columns.items()
        }
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends]
    return {
        key: [column[start:end].tolist() for start, end in zip(starts, ends, strict=False)]
        for key, column in columns.items()
    }


def as_batch(
    data: Mapping[str, Any], encodings: Sequence[Encoding], return_tensors: Any, single: bool
) -> BatchEncoding:
    """Return a BatchEncoding; a `single` example in lists loses its batch dimension."""
    if single and return_tensors is None:
        data = {k: v[0] if v and isinstance(v[0], list) else v for k, v in data.items()}
    n_sequences = getattr(encodings, "n_sequences", None)
    return BatchEncoding(dict(data), encodings, return_tensors, n_sequences=n_sequences)


def as_tensor(array: np.ndarray, kind: Any) -> Any:
    """Return a tensor for "pt", else the array: BatchEncoding is slow to convert lists."""
    if str(getattr(kind, "value", kind)) != "pt":
        return array
    import torch

    return torch.from_numpy(array)


def fill_up(values: list[Any], length: int, fill: Any, left: bool) -> list[Any]:
    missing = [fill] * (length - len(values))
    return missing + values if left else values + missing


def as_array(rows: Any) -> np.ndarray | None:
    """Return nested lists as an array; None if they are ragged."""
    try:
        return np.array(rows, np.int64)
    except ValueError:
        return None


def tensor_kind(value: Any) -> str | None:
    """Return "pt" for tensors and "np" for arrays, also inside lists; else None."""
    while is_list(value) and value:
        value = value[0]
    if is_torch_tensor(value):
        return "pt"
    return "np" if isinstance(value, np.ndarray) else None


__all__ = ["IGNORED_LABEL", "LateEncodings", "WholeWordsBackend"]
