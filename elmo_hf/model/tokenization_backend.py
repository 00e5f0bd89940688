# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""A fast tokenizer whose tokens are whole words, with any features in the place of token ids."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers.tokenization_utils_base import BatchEncoding, TruncationStrategy
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import PaddingStrategy, is_torch_tensor

from .tokenization_checks import check_texts, encode_any_string, is_list, is_single


def lay_out(lengths: np.ndarray, padded: np.ndarray, padding_side: str) -> np.ndarray:
    """
    Return which word stands at each place of sentences laid out one after another with padding.

    Args:
        lengths, padded: words in each sentence, and how many with padding, `(sentences,)`.

    Returns:
        Numbers of words, counted through all sentences, and -1 for padding; `(sum of padded,)`.
    """
    places = np.full(padded.sum(), -1)
    begins = np.cumsum(padded) - (padded if padding_side == "right" else lengths)
    words = np.arange(lengths.sum())
    places[words + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)] = words
    return places


def padded_lengths(lengths: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Return the length of each sentence after padding as the options say; none gets shorter."""
    strategy = options.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
    if strategy == PaddingStrategy.DO_NOT_PAD:
        return lengths
    fixed = options.get("max_length") if strategy == PaddingStrategy.MAX_LENGTH else None
    length = int(lengths.max()) if fixed is None else fixed
    if multiple := options.get("pad_to_multiple_of"):
        length = -(-length // multiple) * multiple
    return np.maximum(lengths, length)


def cut_up(
    lines: Mapping[str, np.ndarray], lengths: Sequence[int], return_tensors: Any
) -> dict[str, Any]:
    """Return lines of all words as one array a key where the lengths agree, else as lists."""
    if return_tensors is not None and len(set(lengths)) == 1:
        shape = len(lengths), lengths[0]
        return {
            key: as_tensor(line.reshape(shape + line.shape[1:]), return_tensors)
            for key, line in lines.items()
        }
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends]
    return {
        key: [line[start:end].tolist() for start, end in zip(starts, ends, strict=False)]
        for key, line in lines.items()
    }


class LateEncodings(Sequence[Encoding]):
    """The encodings of a batch, which Rust makes when somebody asks for the first of them."""

    def __init__(self, count: int, n_sequences: int, make: Callable[[], list[Encoding]]) -> None:
        self.n_sequences = n_sequences
        self._count, self._make = count, make
        self._made: list[Encoding] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if self._made is None:  # two threads may both make them: the results are equal
            self._made = self._make()
        return self._made[index]

    def __reduce__(self) -> tuple[type[list], tuple[list[Encoding]]]:
        return list, (self[:],)


def batch_of(
    data: Mapping[str, Any], encodings: Sequence[Encoding], return_tensors: Any, single: bool
) -> BatchEncoding:
    """Return the batch; the one example in it if there is but a `single` one and no tensors."""
    if single and return_tensors is None:
        data = {k: v[0] if v and isinstance(v[0], list) else v for k, v in data.items()}
    n_sequences = getattr(encodings, "n_sequences", None)
    return BatchEncoding(dict(data), encodings, return_tensors, n_sequences=n_sequences)


def follow(
    places: Sequence[int], values: Mapping[str, Any], fills: Mapping[str, Any]
) -> dict[str, list]:
    """Return the lists among `values` that have one entry for each place 1, 2, .., in that order
    and with their fill at each place 0."""
    count = sum(map(bool, places))
    lists = {key: values[key] for key in fills if isinstance(values.get(key), list)}
    return {
        key: [entries[place - 1] if place else fills[key] for place in places]
        for key, entries in lists.items()
        if len(entries) == count
    }


# --- Kinds of values ---


def as_tensor(array: np.ndarray, kind: Any) -> Any:
    """Return a tensor for "pt", else the array; BatchEncoding is slow at making them of lists."""
    if str(getattr(kind, "value", kind)) != "pt":
        return array
    import torch

    return torch.from_numpy(array)


def as_array(rows: Any) -> np.ndarray | None:
    """Return nested lists as an array; None where they are ragged."""
    try:
        return np.array(rows, np.int64)
    except ValueError:
        return None


def tensor_kind(value: Any) -> str | None:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    if is_torch_tensor(value):
        return "pt"
    return "np" if isinstance(value, np.ndarray) else None


def depth(value: Any) -> int:
    """Return how many lists are inside each other, as far as one holds anything."""
    if not isinstance(value, (list, tuple)):
        return 0
    return 1 + max(map(depth, value), default=0)


def is_rows(ids: Any) -> bool:
    """Tell one sentence of rows from a batch of such sentences."""
    first = next(iter(ids), None) if isinstance(ids, (list, tuple)) else None
    return isinstance(first, (list, tuple)) and bool(first) and isinstance(first[0], int)


# Whoever asks for these needs more than the words and the lengths of the sentences.
NEEDS_ENCODINGS = {
    "return_token_type_ids",
    "return_offsets_mapping",
    "return_overflowing_tokens",
    "return_length",
}
CUTS_ONE_TEXT = {TruncationStrategy.LONGEST_FIRST, TruncationStrategy.ONLY_FIRST}


@dataclass
class Request:
    """One call: texts, or lists of words, and the options that transformers passes on."""

    texts: Any
    pairs: Any
    given_words: bool
    single: bool
    return_tensors: Any
    labels: bool
    options: dict[str, Any]

    def asks_for(self, *names: str) -> bool:
        return any(self.options.get(name) for name in names)


def pads(options: Mapping[str, Any]) -> bool:
    strategy = options.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
    return strategy != PaddingStrategy.DO_NOT_PAD


def cuts(options: Mapping[str, Any]) -> bool:
    strategy = options.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
    return strategy != TruncationStrategy.DO_NOT_TRUNCATE


class WholeWordsBackend(TokenizersBackend):
    """
    Gives what `_features` makes of words in the place of token ids.

    Three ways lead to the same values. The plain one is the base class with `input_ids` replaced.
    Where only ids and masks are asked for, texts go through Rust without padding, which is half of
    the work in a batch of mixed lengths; and given words do not go through Rust at all. Their
    encodings are made when somebody looks at them.
    """

    def _features(
        self, words: Sequence[str], places: np.ndarray | None = None, labels: bool = False
    ) -> dict[str, np.ndarray]:
        """
        Return `input_ids` and the other model inputs, one entry for each word.

        Args:
            places: index into `words` for each entry, -1 for padding; by default all words in
                order.
            labels: whether to add the words' ids in the vocabulary.
        """
        raise NotImplementedError

    def _check_labels(self) -> None:
        """Raise ValueError unless there can be labels."""

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
        check_texts(text, is_split_into_words)
        single = is_single(text, is_split_into_words)
        options["padding_side"] = options.get("padding_side") or self.padding_side
        request = Request(
            texts=[text] if single else text,
            pairs=([text_pair] if text_pair else None) if single else text_pair,
            given_words=is_split_into_words,
            single=single,
            return_tensors=return_tensors,
            labels=return_lm_labels,
            options=options,
        )
        if request.asks_for(*NEEDS_ENCODINGS) or "token_type_ids" in self.model_input_names:
            return self._encode_plainly(request)
        if not is_split_into_words:
            return self._encode_texts(request)
        return self._encode_given_words(request) or self._encode_plainly(request)

    # --- The three ways ---

    def _encode_plainly(self, request: Request) -> BatchEncoding:
        encoded, words = self._encode_in_rust(request)
        encodings = encoded.encodings
        masks = chain.from_iterable(encoding.attention_mask for encoding in encodings)
        is_word = np.fromiter(masks, bool, count=len(words))
        lengths = list(map(len, encodings))
        places = np.where(is_word, np.arange(len(words)), -1)
        lines = self._features(words, places, request.labels)
        data = {**encoded, **cut_up(lines, lengths, request.return_tensors)}
        if request.return_tensors is not None and len(set(lengths)) == 1:
            for key in encoded.keys() - lines.keys():
                data[key] = as_tensor(np.array(data[key], np.int64), request.return_tensors)
        single = request.single and not request.asks_for("return_overflowing_tokens")
        return batch_of(data, encodings, request.return_tensors, single)

    def _encode_texts(self, request: Request) -> BatchEncoding:
        unpadded = {"padding_strategy": PaddingStrategy.DO_NOT_PAD, "pad_to_multiple_of": None}
        encoded, words = self._encode_in_rust(
            request, **unpadded, return_attention_mask=False, return_special_tokens_mask=True
        )
        encodings = encoded.encodings
        lengths = np.fromiter(map(len, encodings), np.int64, count=len(encodings))
        padded = padded_lengths(lengths, request.options)
        side = request.options["padding_side"]
        filling = {
            "pad_id": self.pad_token_id,
            "pad_token": self.pad_token,
            "pad_type_id": self.pad_token_type_id,
        }

        def pad() -> list[Encoding]:
            for encoding, length in zip(encodings, padded.tolist(), strict=True):
                if pads(request.options):  # otherwise this would pad its overflow
                    encoding.pad(length, direction=side, **filling)
            return encodings

        late = LateEncodings(len(encodings), encodings[0].n_sequences, pad)
        special = list(chain.from_iterable(encoded["special_tokens_mask"]))
        return self._batch(request, words, special, lengths, padded, late)

    def _encode_given_words(self, request: Request) -> BatchEncoding | None:
        """Return None where Rust might do more with the words than to put some around them."""
        if not self._leaves_words_alone(request):
            return None
        # The caller may change his lists before somebody looks at the encodings.
        texts = request.texts = [list(words) for words in request.texts]
        bare = not request.options.get("add_special_tokens", True)
        before, after = ([], []) if bare else self._surroundings()
        limit: Any = request.options.get("max_length")
        if cuts(request.options):
            room = limit - len(before) - len(after)
            if room < 1:
                return None
            kept = slice(room) if self.truncation_side == "right" else slice(-room, None)
            texts = [words[kept] for words in texts]
        words = list(chain.from_iterable([*before, *words, *after] for words in texts))
        first, last = [1] * len(before), [1] * len(after)
        special = list(chain.from_iterable([*first, *[0] * len(w), *last] for w in texts))
        lengths = np.array([len(before) + len(words) + len(after) for words in texts], np.int64)
        padded = padded_lengths(lengths, request.options)
        verbose = request.options.get("verbose", True)
        self._eventual_warn_about_too_long_sequence(range(padded.max()), limit, verbose)
        late = LateEncodings(len(texts), 1, lambda: self._encode_in_rust(request)[0].encodings)
        return self._batch(request, words, special, lengths, padded, late)

    def _leaves_words_alone(self, request: Request) -> bool:
        strategy = request.options.get("truncation_strategy")
        return (
            request.pairs is None
            and not any(words and is_list(words[0]) for words in request.texts)
            and self._tokenizer.normalizer is None
            and (not cuts(request.options) or strategy in CUTS_ONE_TEXT)
            and not request.asks_for("stride")
        )

    def _batch(
        self,
        request: Request,
        words: list[str],
        special: list[int],
        lengths: np.ndarray,
        padded: np.ndarray,
        encodings: LateEncodings,
    ) -> BatchEncoding:
        options = request.options
        places = lay_out(lengths, padded, options["padding_side"])
        lines = self._features(words, places, request.labels)
        masks = {}
        if options.get("return_attention_mask") is not False:
            masks["attention_mask"] = (places >= 0).astype(np.int64)
        if options.get("return_special_tokens_mask"):
            masks["special_tokens_mask"] = np.array([*special, 1], np.int64)[places]
        lines = {"input_ids": lines["input_ids"], **masks, **lines}
        data = cut_up(lines, padded.tolist(), request.return_tensors)
        return batch_of(data, encodings, request.return_tensors, request.single)

    # --- Rust ---

    def _encode_in_rust(self, request: Request, **changed: Any) -> tuple[BatchEncoding, list[str]]:
        """Return what the base class does, and the words at all its places."""
        options = {**request.options, **changed, "is_split_into_words": request.given_words}
        if request.given_words:
            options["split_special_tokens"] = True  # a given "a<S>b" is one word
        encode = partial(TokenizersBackend._encode_plus, self._for_one_call(options), **options)
        encoded, stand_in = encode_any_string(
            encode, request.texts, request.pairs, request.given_words
        )
        words = [word for encoding in encoded.encodings for word in encoding.tokens]
        if stand_in:
            words = [word.replace(stand_in, "") for word in words]
        return encoded, words

    def _for_one_call(self, options: Mapping[str, Any]) -> "WholeWordsBackend":
        """
        Return this tokenizer, or a copy for one call where the call has to change the Rust part.

        The base class sets padding, truncation and the handling of special tokens on the Rust
        tokenizer, and given words need one without a pre-tokenizer. Threads share this tokenizer,
        so a call changes a Rust tokenizer of its own. It shares the model, with its cache.
        """
        given_words = options["is_split_into_words"]
        unchanged = not given_words and not pads(options) and not cuts(options)
        if unchanged and options.get("split_special_tokens") in (None, self.split_special_tokens):
            return self
        rust = Tokenizer(self._tokenizer.model)
        for part in ("normalizer", "post_processor"):
            if (value := getattr(self._tokenizer, part)) is not None:
                setattr(rust, part, value)
        if not given_words:
            rust.pre_tokenizer = self._tokenizer.pre_tokenizer
            rust.add_tokens(list(self.added_tokens_decoder.values()))
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _tokenizer=rust)
        return twin

    def _surroundings(self) -> tuple[list[str], list[str]]:
        """Return the words that are put before and after each sentence."""
        rust = self._for_one_call({"is_split_into_words": True})._tokenizer
        encoding = rust.encode(["x"], is_pretokenized=True)
        place = encoding.special_tokens_mask.index(0)
        return encoding.tokens[:place], encoding.tokens[place + 1 :]


__all__ = ["LateEncodings", "WholeWordsBackend"]
