# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The character encoder on a CPU: each distinct word once, without padding, by fast products."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from threading import Lock

import torch
import torch.nn.functional as F
from torch import nn

from .engine_checks import wants_gradients
from .engine_copies import KeptCopy, is_own
from .engine_onednn import (
    PreparedMap,
    dequantize,
    find_int8_kind,
    find_operators,
    is_int8,
    multiply,
    prepare_map,
    stored_values,
    without_python,
)

WORDS_PER_PART = 16  # so that the sums of one convolution stay in the second-level cache
WORDS_PER_PRODUCT = 64
FEW_SYMBOLS = 512

Encoder = Callable[[torch.Tensor], torch.Tensor]
Vectors = dict[bytes, torch.Tensor]  # the bytes of a word's ids -> its vector


# --- Distinct words and their lengths ---


def unique_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find the unique rows.

    Args:
        rows: integers `(words, symbols)`.

    Returns:
        The unique rows `(unique, symbols)`, and for each word the index of its row `(words,)`.
    """
    # Hash each row by a polynomial modulo 2**64, because comparing rows takes seven times longer.
    powers = torch.full_like(rows[:1], 0x5DEECE66D, dtype=torch.long).cumprod(1)
    hashes, indices = torch.unique((rows * powers).sum(1), return_inverse=True)
    chosen = torch.zeros_like(hashes)
    chosen[indices] = torch.arange(len(rows), device=rows.device)
    unique = rows[chosen]
    if torch.equal(unique[indices], rows):
        return unique, indices
    return torch.unique(rows, dim=0, return_inverse=True)  # two rows had the same hash


def word_lengths(rows: torch.Tensor) -> torch.Tensor:
    """Return the length of each row of `(words, symbols)` without its trailing padding."""
    ends = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    return ((rows != rows[:, -1:]) * ends).amax(1)


def cut_padding(rows: torch.Tensor, widest: int) -> torch.Tensor:
    """Cut the batch `widest` columns after its longest word: later windows see padding only."""
    return rows[:, : int(word_lengths(rows).max()) + widest]


# --- Convolutions ---


def pool_characters(
    char_embeddings: nn.Embedding,
    convolutions: nn.ModuleList,
    rows: torch.Tensor,
    prepared: "Snapshot | None" = None,
    steady: bool = False,
) -> torch.Tensor:
    """
    Compute the max-pooled convolutions of each word from tables.

    A convolution over embedded symbols sums, for each position of its window, the product of a
    symbol's vector and a weight. These products are computed once for each distinct symbol of the
    batch (far fewer than windows) and looked up. Values and gradients equal those of `nn.Conv1d`,
    up to the order of summation.

    Args:
        char_embeddings: embeddings of the symbols.
        convolutions: `nn.Conv1d` without stride, padding or dilation.
        rows: symbols `(words, symbols)`.
        prepared: copies of these weights, or None.
        steady: compute the products of all symbols, so that rounding does not depend on how many
            symbols the batch has. Without effect on large alphabets, whose products take long.

    Returns:
        `(words, filters)`, float32 or wider.
    """
    lengths, order = word_lengths(rows).sort(descending=True)
    count = char_embeddings.num_embeddings
    if steady and count <= FEW_SYMBOLS:
        numbers, symbols = rows[order], torch.arange(count)
    else:
        numbers, symbols = _number_symbols(rows[order], count)
    vectors = char_embeddings(symbols)  # (symbols used, char_embedding_dim)
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    parts, longest = numbers.split(WORDS_PER_PART), lengths[::WORDS_PER_PART].tolist()
    tabulate = prepared.table_weight if prepared else _table_weight
    weights, biases, widths = [], [], []
    for convolution in convolutions:
        assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
        weights.append(tabulate(convolution))
        biases.append(convolution.bias)
        widths.append(convolution.kernel_size[0])
    pool = _pool_windows if torch.is_grad_enabled() else without_python(_pool_windows)
    pooled = pool(vectors, weights, biases, widths, list(parts), longest)
    return pooled[order.argsort()]


def _table_weight(convolution: nn.Conv1d) -> torch.Tensor:
    """Reshape a convolution's weight to `(char_embedding_dim, width * count)`."""
    weight = convolution.weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    # Unlike permute, this keeps the strides of the gradient, about which DDP would warn.
    return torch.cat([position.T for position in weight.to(dtype).unbind(2)], 1)


def _number_symbols(rows: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the symbols in use 0, 1, ..; return rows of numbers, and the symbol of each number."""
    used = torch.zeros(vocab_size, dtype=torch.bool, device=rows.device)
    used[rows] = True
    return (used.cumsum(0) - 1)[rows], used.nonzero()[:, 0]


def _pool_windows(
    vectors: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    widths: list[int],
    parts: list[torch.Tensor],
    longest: list[int],
) -> torch.Tensor:
    """
    Max-pool each convolution over the windows of each word.

    TorchScript must support every line.

    Args:
        vectors: embeddings of the renumbered symbols, `(symbols, char_embedding_dim)`.
        weights: `_table_weight` of each convolution.
        biases, widths: bias and kernel size of each convolution.
        parts: renumbered symbols of some words each, `(words, symbols)`.
        longest: length of each part's longest word without padding.

    Returns:
        `(words, filters)`.
    """
    pooled: list[torch.Tensor] = []
    for weight, bias, width in zip(weights, biases, widths):  # noqa: B905
        table = (vectors @ weight).view(-1, bias.size(0))  # (symbols * width, count)
        places = torch.arange(width, device=vectors.device)
        largest: list[torch.Tensor] = []
        for part, length in zip(parts, longest):  # noqa: B905
            # One window more than symbols: all later windows see the same padding.
            windows = (part[:, : length + width] * width).unfold(1, width, 1) + places
            sums = F.embedding_bag(windows.flatten(0, 1), table, mode="sum")
            largest.append(sums.view(windows.size(0), windows.size(1), -1).amax(1))
        pooled.append(torch.cat(largest) + bias)
    return torch.cat(pooled, 1)


# --- Copies of weights, and cached vectors of words ---


class CharacterCopy(KeptCopy["Snapshot"]):
    """Cache of a module's `Snapshot`, which also limits the number of cached word vectors."""

    def __init__(self) -> None:
        super().__init__()
        self._limits: list[int] = []

    @contextmanager
    def keep_words(self, size: int) -> Iterator[None]:
        """Cache up to `size` word vectors until the last of the overlapping blocks ends."""
        self._limits.append(size)
        try:
            yield
        finally:
            self._limits.remove(size)
            if not self._limits and (snapshot := self.peek()) is not None:
                snapshot.words.clear()

    @property
    def max_words(self) -> int:
        return max(self._limits, default=0)


class Snapshot:
    """Copies of linear maps in oneDNN's layout, and word vectors computed with these weights."""

    def __init__(self) -> None:
        self.maps: dict[int, PreparedMap] = {}
        self.table_weights: dict[int, torch.Tensor] = {}
        self.words: Vectors = {}
        self._coming: dict[bytes, Future[Vectors]] = {}
        self._lock = Lock()

    def table_weight(self, convolution: nn.Conv1d) -> torch.Tensor:
        """Return the cached `_table_weight`, `(char_embedding_dim, width * count)`."""
        key = convolution.weight.data_ptr()
        if key not in self.table_weights:
            self.table_weights[key] = _table_weight(convolution).detach()
        return self.table_weights[key]

    def linear(self, linear: nn.Module, vectors: torch.Tensor, then: str = "none") -> torch.Tensor:
        """Apply a linear map to `(words, width)` and an activation in one operator."""
        assert isinstance(linear, nn.Linear)
        weight, bias = linear.weight, linear.bias
        key = stored_values(weight).data_ptr()
        if key not in self.maps:
            self.maps[key] = _prepare(weight, bias)
        return multiply(self.maps[key], vectors, then)

    def recall(self, rows: torch.Tensor, encode: Encoder, size: int) -> torch.Tensor:
        """
        Return the vectors of unique rows; encode only rows that are not cached.

        Wait for rows that another thread is encoding.
        """
        keys = [row.tobytes() for row in rows.numpy()]
        own: Future[Vectors] = Future()
        with self._lock:
            vectors = {key: self.words[key] for key in keys if key in self.words}
            awaited = {self._coming[key] for key in keys if key in self._coming}
            new = [i for i, k in enumerate(keys) if k not in vectors and k not in self._coming]
            self._coming.update((keys[i], own) for i in new)
        try:
            if new:
                found = dict(zip((keys[i] for i in new), encode(rows[new]).unbind(), strict=True))
                own.set_result(found)
                vectors.update(found)
        except BaseException as error:
            own.set_exception(error)
            raise
        finally:
            with self._lock:
                for i in new:
                    del self._coming[keys[i]]
                self._keep({keys[i]: vectors[keys[i]] for i in new if keys[i] in vectors}, size)
        for other in awaited:
            vectors.update(other.result())
        return torch.stack([vectors[key] for key in keys])

    def _keep(self, vectors: Vectors, size: int) -> None:
        if len(self.words) + len(vectors) > size:
            self.words.clear()
        self.words.update(islice(vectors.items(), size))


def fill_product(vectors: torch.Tensor) -> torch.Tensor:
    """
    Add zero rows up to a multiple of `WORDS_PER_PRODUCT`.

    Small and odd products are rounded otherwise; so a cached vector has the same bits whatever the
    words that it was computed with.
    """
    return F.pad(vectors, (0, 0, 0, -len(vectors) % WORDS_PER_PRODUCT))


def can_prepare(parameters: list[nn.Parameter]) -> bool:
    """Whether copies of these weights may be used: no gradients, no autocast, oneDNN works."""
    if wants_gradients(parameters) or torch.is_autocast_enabled("cpu"):
        return False
    if not all(map(is_own, parameters)):
        return False
    dtypes = {part.dtype for part in parameters}
    contiguous = all(stored_values(part).is_contiguous() for part in parameters)
    return len(dtypes) == 1 and contiguous and find_operators(*dtypes) == "onednn"


@torch.no_grad()
def _prepare(weight: torch.Tensor, bias: torch.Tensor | None) -> PreparedMap:
    kind = find_int8_kind() if is_int8(weight) else find_operators(weight.dtype)
    return prepare_map(kind, dequantize(weight).detach(), bias, rows=256)


__all__ = [
    "FEW_SYMBOLS",
    "CharacterCopy",
    "Snapshot",
    "can_prepare",
    "cut_padding",
    "fill_product",
    "pool_characters",
    "unique_rows",
]
