# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Copies of weights that engines keep between calls, and the detection of changed weights."""

import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from .engine_onednn import is_int8, stored_values

Copy = TypeVar("Copy")

# Comparing all values takes a few percent of the time to compute this many words.
WORDS_PER_COMPARISON = 512
WORDS_PER_COMPARISON_OF_A_CORPUS = 16384
SAMPLES = 64  # values of each weight that every call compares
SMALL = 1 << 12  # weights with at most this many values are compared in full

_MISSED = (
    "weights of an ELMo model were changed without PyTorch counting the write (through .data, "
    "NumPy, or another process); up to {} words may have been computed with the old values. "
    "Call model.reset_engines() after such a change"
)


_interval: ContextVar[int] = ContextVar("words per comparison", default=WORDS_PER_COMPARISON)


class KeptCopy(Generic[Copy]):
    """
    Cache of one engine's copy of some weights, renewed when the weights change.

    Every call compares the tensors' identity, memory address, dtype, shape and PyTorch's counter
    of writes, which optimizers, `load_state_dict` and writes under `torch.no_grad()` increase.
    Writes that PyTorch does not count (`tensor.data`, a NumPy view, another process) are detected
    by values. Every call compares a sample. All values are compared, by sums over their bits,
    before a call that brings the words since the last full comparison to `WORDS_PER_COMPARISON`.
    Weights whose writes are never counted (made in inference mode, or shared with other processes)
    are compared in full by every call.

    Only copies of a module's own contiguous parameters are kept. For other tensors, such as those
    of `torch.func.functional_call`, each call makes a new copy. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entry: _Entry | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def get(
        self,
        weights: Sequence[torch.Tensor],
        make: Callable[[], Copy],
        words: int,
        settings: Hashable = None,
    ) -> Copy:
        """
        Return the copy that `make()` returned, calling it again if weights or settings changed.

        Args:
            weights: all weights that `make` reads.
            make: creates the copy; called without gradients.
            words: number of words that the caller is going to compute with the copy.
            settings: everything else that the copy depends on.
        """
        entry = self._entry
        if entry is not None and entry.serves(weights, words, settings):
            return entry.copy
        if not all(map(_can_be_kept, weights)):
            with torch.no_grad():
                return make()
        with self._lock:
            entry = self._entry
            if entry is None or not entry.serves(weights, 0, settings):
                self._entry = None  # free the old copy before the new one is made
                with torch.inference_mode(False), torch.no_grad():
                    entry = self._entry = _Entry(weights, make, settings)
        return entry.copy

    def peek(self) -> Copy | None:
        """Return the copy, valid or not; None if there is none."""
        return None if self._entry is None else self._entry.copy

    def clear(self) -> None:
        self._entry = None

    def compare_next(self) -> None:
        """Make the next call compare all values."""
        if self._entry is not None:
            self._entry.is_due = True

    def clear_if_stale(self, weights: Sequence[torch.Tensor]) -> None:
        """Drop the copy if its tensors were replaced, moved, or converted."""
        entry = self._entry
        if entry is not None and not entry.is_of(weights):
            self._entry = None


Kept = TypeVar("Kept", bound=KeptCopy[Any])


class KeepsCopies(nn.Module, Generic[Kept]):
    """Base class of modules whose engine keeps copies of their weights; moving one drops them."""

    _copies: Kept

    def reset_engine(self) -> None:
        """Drop the copies, so that the next call reads the weights again."""
        self._copies.clear()

    def _apply(self, fn: Callable[..., torch.Tensor], recurse: bool = True) -> "KeepsCopies[Kept]":
        super()._apply(fn, recurse)
        self._copies.clear_if_stale([*self.parameters()])
        return self


@contextmanager
def compare_for_corpus(model: nn.Module) -> Iterator[None]:
    """
    Compare all values of a model's weights at its next call, then at longer intervals.

    The intervals hold in the current context and in copies of it, such as those of worker threads.
    """
    for module in model.modules():
        if isinstance(module, KeepsCopies):
            module._copies.compare_next()
    token = _interval.set(WORDS_PER_COMPARISON_OF_A_CORPUS)
    try:
        yield
    finally:
        _interval.reset(token)


class _Entry:
    """A copy, with what is needed to detect changes of its weights."""

    def __init__(
        self, weights: Sequence[torch.Tensor], make: Callable[[], Any], settings: Hashable
    ) -> None:
        self._settings = settings
        self._parameters = [weakref.ref(weight) for weight in weights]
        # Views share memory and counter; as long as they exist, no other tensor has this address.
        self._views = [stored_values(weight).detach() for weight in weights]
        self._states = [_describe(view) for view in self._views]
        self._uncounted = any(view.is_inference() or _is_shared(view) for view in self._views)
        bits = [_as_bits(view.flatten()) for view in self._views]
        self._picks = [x if len(x) <= SMALL else x[:: len(x) // SAMPLES | 1] for x in bits]
        self._sample, self._sums = torch.cat(self._picks), self._sum()
        self._words = 0  # computed since the last full comparison
        self.is_due = False  # whether the next call must compare all values
        self.copy = make()

    def serves(self, weights: Sequence[torch.Tensor], words: int, settings: Hashable) -> bool:
        """Whether the copy is up to date."""
        if settings != self._settings or not self.is_of(weights):
            return False
        if not torch.equal(torch.cat(self._picks), self._sample):
            return False
        unsure, self._words = self._words, self._words + words
        if self._words < _interval.get() and not self._uncounted and not self.is_due:
            return True
        if all(map(torch.equal, self._sum(), self._sums)):
            self._words, self.is_due = 0, False
            return True
        if unsure and not self._uncounted:
            warnings.warn(_MISSED.format(unsure), stacklevel=2)
        return False

    def is_of(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these are the same tensors, in the same memory, with no write counted."""
        return len(weights) == len(self._parameters) and all(
            reference() is weight and _describe(stored_values(weight)) == state
            for reference, weight, state in zip(
                self._parameters, weights, self._states, strict=True
            )
        )

    def _sum(self) -> list[torch.Tensor]:
        """Sum the bits of every row of every weight; a write of any size changes a sum."""
        return [_as_wide_bits(view).sum(-1) for view in self._views]


def is_own(weight: torch.Tensor) -> bool:
    """Whether a weight is a parameter, not a tensor computed or substituted for one call."""
    return type(weight) is nn.Parameter or is_int8(weight)


def _can_be_kept(weight: torch.Tensor) -> bool:
    return is_own(weight) and stored_values(weight).is_contiguous()


def _describe(values: torch.Tensor) -> tuple[Any, ...]:
    version = -1 if values.is_inference() else values._version
    return values.data_ptr(), version, values.dtype, values.shape, values.stride()


def _is_shared(values: torch.Tensor) -> bool:
    return values.device.type == "cpu" and values.is_shared()


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _as_bits(values: torch.Tensor) -> torch.Tensor:
    """View the values as integers, so that NaN equals itself."""
    return values.view(_INTEGERS[values.element_size()])


def _as_wide_bits(values: torch.Tensor) -> torch.Tensor:
    """View the values as 64-bit integers, which sum fastest, if they fill whole rows."""
    row_bytes = values.shape[-1] * values.element_size()
    aligned = row_bytes % 8 == 0 and values.data_ptr() % 8 == 0
    return values.view(torch.int64) if aligned else _as_bits(values)


__all__ = ["KeepsCopies", "KeptCopy", "compare_for_corpus", "is_own"]
