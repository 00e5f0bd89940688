# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""A progress bar that shows words per second."""

import threading
from collections.abc import Callable, Iterator, Sized
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

Result = TypeVar("Result")


class WordProgress:
    """
    Class that shows how many sentences are finished, words per second and the time left.

    Args:
        sentences: their number, if they have one, is the end of the bar.
    """

    def __init__(self, sentences: object) -> None:
        self.total = len(sentences) if isinstance(sentences, Sized) else None
        self.words = 0
        self._lock = threading.Lock()
        self._bar: Any = None

    def counting(
        self, work: Callable[[list[np.ndarray]], Result]
    ) -> Callable[[list[np.ndarray]], Result]:
        """Wrap a function of a sentence's layers, so that its words are counted."""

        def count(layers: list[np.ndarray]) -> Result:
            with self._lock:
                self.words += len(layers[0])
            return work(layers)

        return count

    def update(self, sentences: int) -> None:
        """Add finished sentences."""
        rate = self.words / max(self._bar.format_dict["elapsed"], 1e-9)
        self._bar.set_postfix_str(f"{rate:,.0f} words/s", refresh=False)
        self._bar.update(sentences)

    def show(self, results: Iterator[Result]) -> Iterator[Result]:
        """Yield the results, whose computation calls `update`, below the bar."""
        with tqdm(total=self.total, unit=" sentences") as self._bar:
            yield from results


__all__ = ["WordProgress"]
