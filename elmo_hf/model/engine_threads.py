# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Numbers of threads on a CPU: per-thread settings, and two calls at once on half the threads each.

`torch.set_num_threads` sets the number of the calling thread, and also the process-wide number that
each thread copies at its first operation. This module changes the calling thread's number only.
"""

import contextvars
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

# Up to this cell_dim * projection_dim, a product of even one sentence leaves threads idle.
SMALL_LSTM = 1 << 18


def run_side_by_side(
    work: Callable[..., Any], first: tuple[Any, ...], second: tuple[Any, ...]
) -> tuple[Any, Any]:
    """
    Call `work` with two tuples of arguments in parallel, each on half of the caller's threads.

    Small products do not use many threads well: two in parallel on half of the threads each take
    as little as a third of their time in sequence. The calls run in sequence if another thread is
    inside this function, if torch has one thread only, or if no thread can be started.

    Args:
        work: thread-safe; runs in the caller's gradient mode and context.
        first, second: the arguments of the two calls.

    Returns:
        Both results.
    """
    threads, number = torch.get_num_threads(), _find_own_number()
    _note_team(threads)
    helper = _helper
    if threads == 1 or number is None or not helper.turn.acquire(blocking=False):
        return work(*first), work(*second)
    try:
        other = helper.submit(threads // 2, _in_modes_of_caller(work), *second)
        if other is None:
            return work(*first), work(*second)
        # With more threads than cores OpenMP's threads would sleep between products, which is slow.
        mkl_threads = number.set(threads - threads // 2)
        try:
            return work(*first), other.result()
        finally:
            number.restore(threads, mkl_threads)
    finally:
        helper.turn.release()


def keep_threads(threads: int) -> None:
    """
    Set the calling thread's number of torch threads, without changing that of other threads.

    Use it as the `initializer` of a thread pool.
    """
    torch.get_num_threads()  # copies the process-wide number, which must not happen later
    if (number := _find_own_number()) is not None:
        number.set(threads)
        return
    with _process_number:
        usual = call_in_new_thread(torch.get_num_threads)
        torch.set_num_threads(threads)
        call_in_new_thread(torch.set_num_threads, usual)


def rest_alone() -> None:
    """
    Stop the helper thread; the next `run_side_by_side` starts a new one.

    OpenMP counts the helper's threads as running. If it counts more threads than cores, its threads
    sleep between products instead of spinning, which halves the speed of many short products.
    """
    _note_team(torch.get_num_threads())
    _helper.dismiss()


def call_in_new_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work` in a new thread, without the caller's modes and settings, and wait for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def _in_modes_of_caller(work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `work` for another thread, with the caller's gradient mode and context variables."""
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    context = contextvars.copy_context()

    def run(*arguments: Any) -> Any:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return context.run(work, *arguments)

    return run


class _Helper:
    """One worker thread, and a lock so that only one caller uses it at a time."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, threads: int, work: Callable[..., Any], *arguments: Any) -> Future[Any] | None:
        """Start `work` on `threads` torch threads; return None if no thread can be started."""

        def run() -> Any:
            if torch.get_num_threads() != threads:
                keep_threads(threads)
            return work(*arguments)

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "elmo")
            try:
                return self._pool.submit(run)
            except RuntimeError:  # no new thread can be started: the interpreter is shutting down
                self._pool = None
                return None

    def dismiss(self) -> None:
        if self._pool is None:
            return
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False)  # running work is still finished
                self._pool = None


class _OwnNumber(NamedTuple):
    """The OpenMP and MKL functions that set the calling thread's number of threads."""

    omp: Callable[[int], None]
    mkl: Callable[[int], int]

    def set(self, threads: int) -> int:
        """Set both; return MKL's previous number, 0 if it follows OpenMP."""
        self.omp(threads)
        return self.mkl(threads)

    def restore(self, threads: int, mkl_threads: int) -> None:
        self.omp(threads)
        self.mkl(mkl_threads)


@functools.cache
def _find_own_number() -> _OwnNumber | None:
    """Return these functions if a trial in a new thread shows that torch obeys them, else None."""
    try:
        # Searches the libraries that torch was linked with.
        library = ctypes.CDLL(torch._C.__file__)
        omp = library.omp_set_num_threads
    except (AttributeError, OSError):
        return None
    omp.restype = None
    number = _OwnNumber(omp, getattr(library, "MKL_Set_Num_Threads_Local", lambda threads: 0))

    def is_obeyed() -> bool:
        threads = torch.get_num_threads() + 1
        number.set(threads)
        return torch.get_num_threads() == threads

    try:
        return number if call_in_new_thread(is_obeyed) else None
    except RuntimeError:  # no new thread can be started
        return None


def _note_team(threads: int) -> None:
    _this_thread.has_team |= threads > 1


class _ThisThread(threading.local):
    has_team = False  # whether OpenMP may keep worker threads for this thread


def _begin_as_child() -> None:
    """
    Reset this module in a forked process, which does not have its parent's threads.

    An operation on several threads would wait for them forever, so the child runs on one thread,
    like the workers of torch's `DataLoader`.
    """
    global _helper, _process_number
    _helper, _process_number = _Helper(), threading.Lock()
    if _this_thread.has_team:
        keep_threads(1)


_helper = _Helper()
_process_number = threading.Lock()
_this_thread = _ThisThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_as_child)


__all__ = [
    "SMALL_LSTM",
    "call_in_new_thread",
    "keep_threads",
    "rest_alone",
    "run_side_by_side",
]
