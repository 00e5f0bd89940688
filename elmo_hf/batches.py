# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Processes many sentences in batches of similar length on threads; keeps the results in order."""

import contextvars
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch

from .model.engine_threads import keep_threads
from .model.tokenization_checks import to_lists
from .text_files import Sentence

Numbered = tuple[int, Sentence]
Progress = Callable[[int], object]
Result = TypeVar("Result")

# A short window is cut into so many batches per worker, so that all workers finish together.
BATCHES_PER_WORKER = 2
_PROCESS = os.getpid()


class Limits(NamedTuple):
    """
    Sizes of batches.

    Args:
        window: number of sentences that are sorted by length together.
        batch_size: maximum number of sentences in a batch.
        batch_words: maximum number of words in a batch, padding included; a longer sentence is a
            batch of its own.
    """

    window: int
    batch_size: int
    batch_words: int


class WorkerPool(ThreadPoolExecutor):
    """
    Class that runs worker threads, which divide the caller's torch threads and share its context.

    They also run under the autocast that is on when the pool is made.

    Args:
        model: the model that the threads use; its device decides the default of `workers`.
        workers: number of threads; default: torch's number of threads on a CPU, else 1. A forked
            process counts as one thread, like the workers of torch's `DataLoader`: its siblings
            use the others.
        reproducible: the same bits whatever the number of workers: each runs on one torch thread,
            and batches do not depend on it.
    """

    def __init__(
        self, model: torch.nn.Module, workers: int | None = None, reproducible: bool = False
    ) -> None:
        threads = 1 if use_one_thread_if_forked() else torch.get_num_threads()
        device = next(model.parameters()).device.type
        if workers is None:
            workers = threads if device == "cpu" else 1
        self.workers = workers
        self.sharing = 1 if reproducible else workers  # for how many workers windows are cut
        self._context = contextvars.copy_context()
        self._autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        if device != "meta" and torch.is_autocast_enabled(device):
            self._autocast = partial(torch.autocast, device, torch.get_autocast_dtype(device))
        own_threads = 1 if reproducible else max(1, threads // workers)
        super().__init__(workers, "elmo", keep_threads, (own_threads,))

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start `work` in a copy of the context, which only one thread can use at a time."""
        return super().submit(self._context.copy().run, self._call, work, *args, **kwargs)

    def _call(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._autocast():
            return work(*args, **kwargs)


def use_one_thread_if_forked() -> bool:
    """
    Limit the calling thread to one torch thread if its process was forked; return whether it was.

    With more, OpenMP would wait forever for threads that only the parent process has.
    """
    if os.getpid() == _PROCESS:
        return False
    # Renews torch's own thread pool, which threads must not do at the same time.
    torch.set_num_threads(torch.get_num_threads())
    keep_threads(1)
    return True


def check_arguments(model: torch.nn.Module, sentences: object, **sizes: int | None) -> None:
    """Raise ValueError for a model in training mode, a single text, or a size below 1."""
    if model.training:
        raise ValueError("the model is in training mode, with dropout; call model.eval() first")
    if isinstance(sentences, str):
        raise ValueError("sentences is one string; expected an iterable of sentences: pass [text]")
    check_iterable(sentences)
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; expected at least 1")


def check_boundaries(tokenizer: Any) -> None:
    """Raise ValueError unless the tokenizer adds `<S>` and `</S>`, as in the training text."""
    if tokenizer.num_special_tokens_to_add() != 2:
        raise ValueError(
            "the tokenizer does not add both boundaries, <S> and </S>; load the one saved with the "
            "model, without add_bos_token=False or add_eos_token=False"
        )


def check_iterable(sentences: Any) -> Iterable[Any]:
    """Return sentences; raise ValueError for what iterates over something else, or in any order."""
    refused = (bytes, Mapping, Set)
    if isinstance(sentences, refused) or hasattr(sentences, "columns"):
        problem = "whose items are no sentences in order"
    elif not isinstance(sentences, Iterable):
        problem = "which is not iterable"
    else:
        return sentences
    raise ValueError(
        f"sentences is a {type(sentences).__name__}, {problem}; expected a list of texts or of "
        "lists of words"
    )


def check_sentences(sentences: Iterable[Any]) -> Iterator[Sentence]:
    """Yield the sentences; raise ValueError for the first that differs in kind from its like."""
    is_text = None
    for number, sentence in enumerate(sentences):
        sentence = to_lists(sentence)
        if not isinstance(sentence, (str, list, tuple)):
            raise ValueError(
                f"sentence {number} is {sentence!r:.60}, a {type(sentence).__name__}; expected a "
                "text, or a list of words"
            )
        if is_text is None:
            is_text = isinstance(sentence, str)
        if isinstance(sentence, str) != is_text:
            raise ValueError(
                f"sentence {number} is a {type(sentence).__name__}, unlike those before it; pass "
                "only texts or only lists of words"
            )
        yield sentence


def map_sentences(
    work: Callable[[list[Sentence]], list[Result]],
    sentences: Iterable[Sentence],
    pool: WorkerPool,
    limits: Limits,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """
    Yield the result of `work` for each sentence, in the order of the sentences.

    Memory holds up to two windows: the pool works on one while the caller uses the other's results.

    Args:
        work: takes the sentences of a batch and returns one result per sentence.
        sentences: texts or lists of words, any number.
        pool: runs the batches; it is shut down when the iterator ends or is closed.
        limits: sizes of the batches.
        progress: called with the number of sentences of each finished batch.

    Raises:
        RuntimeError: `work` failed; the message names the sentence.
    """
    is_finalizing = sys.is_finalizing  # `sys` may be gone when the interpreter ends
    numbered = enumerate(sentences)
    running: list[Future[list[tuple[int, Result]]]] = []
    try:
        while True:
            window = list(islice(numbered, limits.window))
            batches = make_batches(window, limits, pool.sharing)
            following = [pool.submit(_run, work, batch) for batch in batches]
            yield from _in_order(running, progress)
            if not following:
                return
            running = following
    finally:
        if not is_finalizing():  # an ending interpreter has joined the threads already
            pool.shutdown(cancel_futures=True)


def make_batches(window: Iterable[Numbered], limits: Limits, workers: int) -> list[list[Numbered]]:
    """Make batches of similar lengths, longest first, so that workers end with short batches."""
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
    """Number of words and boundaries; estimated for a text."""
    try:
        return 2 + (sentence.count(" ") if isinstance(sentence, str) else len(sentence))
    except TypeError:  # neither text nor words: the tokenizer raises the error
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
    """Make the error: it names the first sentence that also fails alone, else the batch."""
    for number, sentence in sorted(batch, key=lambda numbered: numbered[0]):
        try:
            work([sentence])
        except Exception as alone:
            text = repr(sentence)
            text = text if len(text) <= 60 else f"{text[:60]}.."
            return RuntimeError(f"sentence {number}, {text}: {alone}")
    numbers = sorted(number for number, _ in batch)
    return RuntimeError(
        f"the batch of {len(numbers)} sentences {numbers[:5]}.. failed, but each alone works; pass "
        f"only texts or only lists of words, and if memory is short, smaller batches: {error}"
    )


def _in_order(
    tasks: list[Future[list[tuple[int, Result]]]], progress: Progress | None
) -> Iterator[Result]:
    results: dict[int, Result] = {}
    for task in tasks:
        batch = task.result()
        results.update(batch)
        if progress is not None:
            progress(len(batch))
    for number in sorted(results):
        yield results.pop(number)


__all__ = [
    "Limits",
    "Progress",
    "Sentence",
    "WorkerPool",
    "check_arguments",
    "check_boundaries",
    "check_iterable",
    "check_sentences",
    "make_batches",
    "map_sentences",
    "use_one_thread_if_forked",
]
