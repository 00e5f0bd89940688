# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Work on many sentences: batches of similar lengths on worker threads, results in order."""

import contextvars
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch

from .model.engine_threads import keep_threads

Sentence = str | Sequence[str]
Numbered = tuple[int, Sentence]
Progress = Callable[[int], object]
Result = TypeVar("Result")

# So many batches per worker are made of few sentences, so that all workers finish together.
BATCHES_PER_WORKER = 2


class Limits(NamedTuple):
    """
    Sizes of batches.

    Args:
        window: sentences that are sorted by length together.
        batch_size: the most sentences in a batch.
        batch_words: the most words in a batch, padding included; one sentence is always allowed.
    """

    window: int
    batch_size: int
    batch_words: int


class WorkerPool(ThreadPoolExecutor):
    """
    Threads that share the calling thread's number of torch threads and run in its context.

    Args:
        model: the model to work with; it decides the default.
        workers: number of threads; None: torch's number of threads on a CPU, else 1.
    """

    def __init__(self, model: torch.nn.Module, workers: int | None = None) -> None:
        threads = torch.get_num_threads()
        if workers is None:
            workers = threads if next(model.parameters()).device.type == "cpu" else 1
        self.workers = workers
        self._context = contextvars.copy_context()
        super().__init__(workers, "elmo", keep_threads, (max(1, threads // workers),))

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start `work`; a context serves one thread at a time, so each call has a copy."""
        return super().submit(self._context.copy().run, work, *args, **kwargs)


def check_arguments(model: torch.nn.Module, sentences: object, **sizes: int | None) -> None:
    """Raise ValueError for a model in training mode, one text, or a size below 1."""
    if model.training:
        raise ValueError("the model is in training mode, with dropout; call model.eval()")
    if isinstance(sentences, str):
        raise ValueError("sentences is one text; expected several: pass a list of texts or words")
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; expected at least 1")


def map_sentences(
    work: Callable[[list[Sentence]], list[Result]],
    sentences: Iterable[Sentence],
    pool: WorkerPool,
    limits: Limits,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """
    Yield what `work` returns for each sentence, in the order of the sentences.

    Results of up to two windows are held: the pool works on one while the caller uses the other.

    Args:
        work: takes the sentences of a batch and returns one result for each.
        sentences: texts or lists of words; there may be any number.
        pool: runs the batches, and is shut down when the iterator ends or is closed.
        limits: sizes of the batches.
        progress: called with the number of sentences of each finished batch.

    Raises:
        RuntimeError: `work` failed; the message names the sentence.
    """
    is_finalizing = sys.is_finalizing  # a module's names may be gone when the interpreter ends
    numbered = enumerate(sentences)
    running: list[Future[list[tuple[int, Result]]]] = []
    try:
        while True:
            window = list(islice(numbered, limits.window))
            batches = make_batches(window, limits, pool.workers)
            following = [pool.submit(_run, work, batch) for batch in batches]
            yield from _in_order(running, progress)
            if not following:
                return
            running = following
    finally:
        if not is_finalizing():  # then the interpreter has joined the threads itself
            pool.shutdown(cancel_futures=True)


def make_batches(window: Iterable[Numbered], limits: Limits, workers: int) -> list[list[Numbered]]:
    """Batches of similar lengths; the longest come first, so that the last ones are short."""
    ordered = sorted(window, key=lambda numbered: -_length(numbered[1]))
    parts = 1 if workers == 1 else workers * BATCHES_PER_WORKER
    batch_size = min(limits.batch_size, math.ceil(len(ordered) / parts))
    batches: list[list[Numbered]] = []
    room = 0
    for number, sentence in ordered:
        if not room:
            batches.append([])
            room = max(1, min(batch_size, limits.batch_words // _length(sentence)))
        batches[-1].append((number, sentence))
        room -= 1
    return batches


def _length(sentence: Sentence) -> int:
    """Words and boundaries; an estimate for a text."""
    try:
        return 2 + (sentence.count(" ") if isinstance(sentence, str) else len(sentence))
    except TypeError:  # neither text nor words: the tokenizer will refuse it
        return 2


def _run(
    work: Callable[[list[Sentence]], list[Result]], batch: list[Numbered]
) -> list[tuple[int, Result]]:
    try:
        results = work([sentence for _, sentence in batch])
    except Exception as error:
        raise _explain(work, batch, error) from error
    return [(number, result) for (number, _), result in zip(batch, results, strict=True)]


def _explain(
    work: Callable[[list[Sentence]], object], batch: list[Numbered], error: Exception
) -> RuntimeError:
    """Find the sentence that fails alone, too; if none does, name the batch."""
    for number, sentence in sorted(batch, key=lambda numbered: numbered[0]):
        try:
            work([sentence])
        except Exception as alone:
            text = repr(sentence)
            text = text if len(text) <= 60 else f"{text[:60]}.."
            return RuntimeError(f"sentence {number}, {text}: {alone}")
    numbers = sorted(number for number, _ in batch)
    return RuntimeError(
        f"sentences {numbers[:5]}.., {len(numbers)} together, failed, but none alone; all must be "
        f"texts or all lists of words, and if memory is short, take smaller batches: {error}"
    )


def _in_order(
    tasks: list[Future[list[tuple[int, Result]]]], progress: Progress | None
) -> Iterator[Result]:
    results: dict[int, Result] = {}
    for task in tasks:
        found = task.result()
        results.update(found)
        if progress is not None:
            progress(len(found))
    for number in sorted(results):
        yield results.pop(number)


__all__ = [
    "Limits",
    "Progress",
    "Sentence",
    "WorkerPool",
    "check_arguments",
    "make_batches",
    "map_sentences",
]
