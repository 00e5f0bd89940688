# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Numbers of threads on a CPU: a thread's own, and two calls at once on half of the caller's each.

`torch.set_num_threads` sets the number of the calling thread and also the number that every thread
takes at its first operation. Here only the calling thread's number is ever changed.
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

# Up to this cell_dim * projection_dim even a lone sentence leaves threads with nothing to do.
SMALL_LSTM = 1 << 18


def run_side_by_side(
    work: Callable[..., Any], first: tuple[Any, ...], second: tuple[Any, ...]
) -> tuple[Any, Any]:
    """
    Call `work` with two tuples of arguments at once, each on half of the caller's threads.

    Small products do not spread over many threads: two at once on half of them each take up to a
    third of the time that one after the other takes. The two calls run one after the other while
    another thread's pair is running, on one thread, and where no thread can be started.

    Args:
        work: may be called from any thread; runs in the caller's gradient mode and context.
        first, second: the arguments.

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
        # More threads than cores would make all of them wait asleep, so the caller gives up half.
        mkl_threads = number.set(threads - threads // 2)
        try:
            return work(*first), other.result()
        finally:
            number.restore(threads, mkl_threads)
    finally:
        helper.turn.release()


def keep_threads(threads: int) -> None:
    """
    Set how many of torch's threads the calling thread uses, and change no other thread's number.

    Meant as the `initializer` of a pool of workers.
    """
    torch.get_num_threads()  # A thread takes the process's number at its first operation.
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

    OpenMP counts its threads as running. Where it counts more threads than cores, its threads no
    longer wait awake for the next product but fall asleep, which halves the speed of products
    that follow each other quickly.
    """
    _note_team(torch.get_num_threads())
    _helper.dismiss()


def call_in_new_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work` where no mode or setting of the calling thread holds, and wait for its result."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def _in_modes_of_caller(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work` for another thread, in the calling thread's gradient mode and context variables."""
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    context = contextvars.copy_context()

    def run(*arguments: Any) -> Any:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return context.run(work, *arguments)

    return run


class _Helper:
    """One thread that waits for work, and the lock of the caller whose turn it is to use it."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, threads: int, work: Callable[..., Any], *arguments: Any) -> Future[Any] | None:
        """Start `work` on so many threads; None where no thread can be started any more."""

        def run() -> Any:
            if torch.get_num_threads() != threads:
                keep_threads(threads)
            return work(*arguments)

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "elmo")
            try:
                return self._pool.submit(run)
            except RuntimeError:  # no new thread can be started: the interpreter ends
                self._pool = None
                return None

    def dismiss(self) -> None:
        if self._pool is None:
            return
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False)  # what it has begun it finishes
                self._pool = None


class _OwnNumber(NamedTuple):
    """OpenMP's and MKL's functions that set the calling thread's number of threads."""

    omp: Callable[[int], None]
    mkl: Callable[[int], int]

    def set(self, threads: int) -> int:
        """Set both; return what MKL had of its own, 0 if it follows OpenMP."""
        self.omp(threads)
        return self.mkl(threads)

    def restore(self, threads: int, mkl_threads: int) -> None:
        self.omp(threads)
        self.mkl(mkl_threads)


@functools.cache
def _find_own_number() -> _OwnNumber | None:
    """The functions, if torch runs on an OpenMP that has them; found by trying them in a thread."""
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
    has_team = False  # Whether OpenMP may keep threads that wait for this one's next operation.


def _begin_as_child() -> None:
    """
    Leave behind, in a forked process, the threads that only its parent has.

    An operation on several threads would wait for them forever, so that the child runs on one
    thread, as the workers of torch's `DataLoader` do.
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
