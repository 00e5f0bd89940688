# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Sentences laid out as arrays or lists: words between boundaries, then padding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding
from transformers.tokenization_utils_base import BatchEncoding
from transformers.utils import PaddingStrategy, is_torch_tensor


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
        if self._made is None:
            self._made = self._make()
            del self._make
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


__all__ = ["LateEncodings"]
