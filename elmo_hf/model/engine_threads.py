# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Two pieces of work at once on a CPU, each on half of torch's threads."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

# Up to this cell_dim * projection_dim even a lone sentence leaves threads with nothing to do.
SMALL_LSTM = 1 << 18


def run_side_by_side(
    work: Callable[..., Any], first: tuple[Any, ...], second: tuple[Any, ...]
) -> tuple[Any, Any]:
    """
    Call `work` with two tuples of arguments at once, under the caller's gradient mode.

    Small products do not spread over many threads: two at once on half of them each take up to a
    third of the time that one after the other takes.

    Args:
        work: may be called from any thread.
        first, second: the arguments.

    Returns:
        Both results.
    """
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(*arguments: Any) -> Any:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(*arguments)

    threads = torch.get_num_threads()
    other = _helpers.submit(threads // 2, run, *second)
    # More threads than cores would make all of them wait asleep, so the caller gives up its half.
    torch.set_num_threads(threads - threads // 2)
    try:
        return work(*first), other.result()
    finally:
        torch.set_num_threads(threads)


def keep_threads(threads: int) -> None:
    """
    Give the calling thread a number of torch's threads that no other thread's choice changes.

    A thread that has not yet asked for its number takes, at its first operation, the number that
    any thread set last: `torch.set_num_threads` alone would be forgotten there.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


def rest_alone() -> None:
    """
    Let the threads go that `run_side_by_side` keeps; it makes new ones when it needs them.

    OpenMP counts them as running. Where it counts more threads than cores, its threads no longer
    wait awake for the next product but fall asleep, which halves the speed of one that comes soon.
    """
    _helpers.dismiss()


class _Helpers:
    """Threads that wait for work, one for each number of torch's threads that it is given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def submit(self, threads: int, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with self._lock:
            if threads not in self._pools:
                self._pools[threads] = ThreadPoolExecutor(1, "elmo", keep_threads, (threads,))
            return self._pools[threads].submit(work, *arguments)

    def dismiss(self) -> None:
        if not self._pools:
            return
        with self._lock:
            while self._pools:
                self._pools.popitem()[1].shutdown(wait=False)  # what it has begun it finishes

    def forget(self) -> None:
        """A forked process has none of its parent's threads."""
        self.__init__()  # type: ignore[misc]


_helpers = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.forget)


__all__ = ["SMALL_LSTM", "keep_threads", "rest_alone", "run_side_by_side"]
