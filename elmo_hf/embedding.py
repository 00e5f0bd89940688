# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Vectors of a whole corpus: batches of like lengths on several workers, results in order."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch

from .model.engine_threads import keep_threads
from .model.modeling_elmo import ElmoModel
from .model.tokenization_elmo import ElmoTokenizer

Sentence = str | Sequence[str]

# Of few sentences each worker gets so many batches, to be done with its last as the others are.
BATCHES_PER_WORKER = 2


def embed_corpus(
    model: ElmoModel,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    *,
    layers: int | Sequence[int] | None = None,
    boundaries: bool = False,
    workers: int | None = None,
    batch_size: int = 128,
    batch_words: int = 8192,
    window: int = 1024,
    known_words: int = 100_000,
    progress: Callable[[int], object] | None = None,
) -> Iterator[np.ndarray]:
    """
    Yield the vectors of each sentence, in the order given.

    Sentences are read window by window, so that the corpus may be endless; within one they are
    sorted by length, because a batch takes as long as its longest sentence. Each worker is a
    thread with its share of torch's threads: one each is fastest, since the small products of
    the recurrence do not spread. Vectors do not depend on any of these numbers (up to rounding).

    Args:
        model: in evaluation mode.
        tokenizer: the one saved beside the model.
        sentences: all texts, or all lists of words.
        layers: index of one layer, or indices of several; None: all.
        boundaries: keep the vectors of `<S>` and `</S>`.
        workers: default: torch's number of threads on a CPU, else 1.
        batch_size: the most sentences in a batch.
        batch_words: the most words in a batch, padding included; one sentence is always allowed.
        window: sentences that are sorted together. Vectors of up to two windows are held.
        known_words: words whose context-free vectors are kept, on a CPU, so that a word is spelled
            once and not in every batch.
        progress: called with the number of sentences of each finished batch, such as
            `tqdm.update`.

    Returns:
        An iterator over float32 arrays, `(words, hidden_size)` for one layer, else `(layers,
        words, hidden_size)`.

    Raises:
        ValueError: an argument does not fit; at once.
        RuntimeError: a sentence cannot be embedded; while iterating. The message names it.
    """
    if model.training:
        raise ValueError("the model is in training mode and would drop values; call model.eval()")
    if isinstance(sentences, str):
        raise ValueError("sentences is one text; expected several: pass a list of texts or words")
    if workers is None:
        workers = torch.get_num_threads() if model.device.type == "cpu" else 1
    sizes = {
        "workers": workers,
        "batch_size": batch_size,
        "batch_words": batch_words,
        "window": window,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected at least 1")
    if known_words < 0:
        raise ValueError(f"known_words is {known_words}; expected 0 or more")
    encoder = _Encoder(model, tokenizer, layers, boundaries)
    encoder.check_layers()
    # A function of its own, so that the checks above run at the call.
    limits = _Limits(workers, batch_size, batch_words)
    return _stream(encoder, sentences, limits, window, known_words, progress)


def _stream(
    encoder: "_Encoder",
    sentences: Iterable[Sentence],
    limits: "_Limits",
    window: int,
    known_words: int,
    progress: Callable[[int], object] | None,
) -> Iterator[np.ndarray]:
    before = torch.get_num_threads()
    share = max(1, before // limits.workers)
    numbered = enumerate(sentences)
    pool = ThreadPoolExecutor(limits.workers, "elmo", keep_threads, (share,))
    try:
        with encoder.model.embeddings.word_cache(known_words):
            running: list[_Task] = []
            while True:
                # The next window runs while the caller uses this one.
                following = [
                    pool.submit(encoder.embed, batch)
                    for batch in _make_batches(list(islice(numbered, window)), limits)
                ]
                yield from _in_order(running, progress)
                if not following:
                    return
                running = following
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


Numbered = tuple[int, Sentence]
_Task = Future[list[tuple[int, np.ndarray]]]


class _Limits(NamedTuple):
    workers: int
    batch_size: int
    batch_words: int


def _make_batches(window: list[Numbered], limits: _Limits) -> list[list[Numbered]]:
    """Longest first, so that no worker is left alone with a long batch at the end."""
    parts = 1 if limits.workers == 1 else limits.workers * BATCHES_PER_WORKER
    batch_size = min(limits.batch_size, math.ceil(len(window) / parts))
    batches: list[list[Numbered]] = []
    room = 0
    for number, sentence in sorted(window, key=lambda one: -_length(one[1])):
        if not room:
            batches.append([])
            room = max(1, min(batch_size, limits.batch_words // _length(sentence)))
        batches[-1].append((number, sentence))
        room -= 1
    return batches


def _length(sentence: Sentence) -> int:
    """Words and boundaries; of a text, nearly so."""
    try:
        return 2 + (sentence.count(" ") if isinstance(sentence, str) else len(sentence))
    except TypeError:  # no sentence at all: the tokenizer will say so
        return 2


def _in_order(tasks: list[_Task], progress: Callable[[int], object] | None) -> Iterator[np.ndarray]:
    vectors: dict[int, np.ndarray] = {}
    for task in tasks:
        found = task.result()
        vectors.update(found)
        if progress is not None:
            progress(len(found))
    for number in sorted(vectors):
        yield vectors.pop(number)


@dataclass
class _Encoder:
    """What the workers share; the model's call and this lock make it safe to share."""

    model: ElmoModel
    tokenizer: ElmoTokenizer
    layers: int | Sequence[int] | None
    boundaries: bool
    lock: Lock = field(default_factory=Lock)

    def check_layers(self) -> None:
        count = self.model.config.num_hidden_layers + 1
        layers = [self.layers] if isinstance(self.layers, int) else self.layers
        if layers is not None and not all(-count <= layer < count for layer in layers):
            raise ValueError(
                f"layers is {self.layers}; this model has layers 0 to {count - 1}, layer 0 being "
                "the context-free vector"
            )

    def embed(self, batch: list[Numbered]) -> list[tuple[int, np.ndarray]]:
        try:
            vectors = self.embed_sentences([sentence for _, sentence in batch])
        except Exception as error:
            raise self.explain(batch, error) from error
        return [(number, part) for (number, _), part in zip(batch, vectors, strict=True)]

    def embed_sentences(self, sentences: list[Sentence]) -> list[np.ndarray]:
        is_split = not isinstance(sentences[0], str)
        # Padding is a setting of the Rust tokenizer, which threads must not change together.
        with self.lock:
            inputs = self.tokenizer(
                sentences, is_split_into_words=is_split, padding=True, return_tensors="pt"
            )
        mask = inputs["attention_mask"].bool().numpy()
        inputs["attention_mask"] = self.read_mask(inputs["attention_mask"])
        layers = True if self.layers is None else self.layers
        wanted = layers if isinstance(layers, (bool, int)) else list(layers)
        with torch.inference_mode():
            output = self.model(**inputs.to(self.model.device), output_hidden_states=wanted)
            hidden = output.hidden_states
            chosen = range(len(hidden)) if self.layers is None else layers
            picked = [hidden[i] for i in ([chosen] if isinstance(chosen, int) else chosen)]
            arrays = [layer.float().cpu().numpy() for layer in picked]
        return [self.cut(arrays, i, np.flatnonzero(row)) for i, row in enumerate(mask)]

    def read_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Spare each direction the boundary that it reads last, if nobody sees its output."""
        config = self.model.config
        if self.boundaries or config.num_mixed_lstms:
            return mask
        place = mask.cumsum(1) * mask  # 1 at the first word, the number of words at the last
        spared = [place == place.amax(1, keepdim=True), place == 1]
        return torch.stack([mask & ~one for one in spared[: config.num_directions]], -1)

    def cut(self, layers: list[np.ndarray], row: int, words: np.ndarray) -> np.ndarray:
        """Copy one sentence's vectors, so that nothing keeps its batch in memory."""
        kept = words if self.boundaries else words[1:-1]
        if isinstance(self.layers, int):
            return layers[0][row, kept]
        return np.stack([layer[row, kept] for layer in layers])

    def explain(self, batch: list[Numbered], error: Exception) -> RuntimeError:
        """Find the sentence that fails alone, too; if none does, name the batch."""
        for number, sentence in sorted(batch, key=lambda one: one[0]):
            try:
                self.embed_sentences([sentence])
            except Exception as alone:
                return RuntimeError(f"sentence {number}, {_shown(sentence)}: {alone}")
        numbers = sorted(number for number, _ in batch)
        return RuntimeError(
            f"sentences {numbers[:5]}.., {len(numbers)} together, failed, but none alone; "
            f"all must be texts or all lists of words, and memory may ask for a smaller "
            f"batch_size than {len(numbers)}: {error}"
        )


def _shown(sentence: object) -> str:
    text = repr(sentence)
    return text if len(text) <= 60 else f"{text[:60]}.."


__all__ = ["embed_corpus"]
