# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Computes the vectors of a whole corpus with several worker threads."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import Parameter

from .batches import (
    Limits,
    Progress,
    Sentence,
    WorkerPool,
    check_arguments,
    check_boundaries,
    map_sentences,
)
from .model.engine_copies import compare_for_corpus
from .model.engine_cpu_characters import FEW_SYMBOLS
from .model.modeling_elmo import ElmoModel, ElmoPreTrainedModel
from .model.tokenization_elmo import ElmoTokenizer

KNOWN_WORDS = 100_000


def embed_corpus(
    model: ElmoPreTrainedModel,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    *,
    layers: int | Sequence[int] | None = None,
    boundaries: bool = False,
    workers: int | None = None,
    batch_size: int = 128,
    batch_words: int = 8192,
    window: int = 1024,
    known_words: int = KNOWN_WORDS,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """
    Yield the vectors of each sentence, in the order of the sentences.

    The sentences are read in windows, so the corpus may be endless. Each window is sorted by
    length, because a batch takes as long as its longest sentence. Each worker is a thread with an
    equal share of torch's threads; one thread per worker is fastest, because the small matrix
    products of an LSTM gain nothing from more. Batch and window sizes change the vectors by
    rounding only. torch's thread settings are not changed.

    Args:
        model: an `ElmoModel`, or a model with one in `model.elmo`; in evaluation mode.
        tokenizer: the tokenizer saved with the model.
        sentences: all texts, or all lists of words.
        layers: index of one layer, or indices of several; default: all.
        boundaries: keep the vectors of `<S>` and `</S>`.
        workers: number of threads; default: torch's number of threads on a CPU, else 1.
        batch_size: maximum number of sentences in a batch.
        batch_words: maximum number of words in a batch, padding included; a longer sentence is a
            batch of its own.
        window: sentences that are sorted together. Memory holds the vectors of up to two windows.
        known_words: on a CPU, context-free vectors of so many words are cached during the call, so
            that a word need not go through the character encoder in every batch.
        progress: called with the number of sentences of each finished batch, such as
            `tqdm.update`.

    Returns:
        An iterator over float32 arrays, `(words, hidden_size)` for one layer, else `(layers,
        words, hidden_size)`.

    Raises:
        ValueError: an argument is invalid; raised at the call.
        RuntimeError: a sentence cannot be embedded; raised while iterating, names the sentence.
    """
    elmo: Any = getattr(model, "elmo", model)
    sizes = {"batch_size": batch_size, "batch_words": batch_words, "window": window}
    check_arguments(elmo, sentences, workers=workers, **sizes)
    if known_words < 0:
        raise ValueError(f"known_words is {known_words}; expected 0 or more")
    join = _only if isinstance(layers, int) else np.stack
    encoder = Encoder(elmo, tokenizer, layers, boundaries=boundaries, join=join)
    return embed_sentences(encoder, sentences, Limits(**sizes), workers, known_words, progress)


@dataclass(frozen=True)
class Encoder:
    """
    Class that embeds batches; it is not changed by calls, so threads may share it.

    Args:
        model, tokenizer, layers, boundaries: as in `embed_corpus`.
        weights: the layers are replaced by their sum with these weights; None: no sum.
        chunk_words: a batch with more words per sentence is computed in chunks of so many words.
            Forward LSTMs read the chunks from left to right and backward LSTMs from right to left,
            with carried states, so that only rounding differs.
        join: makes the result of a sentence from its layers, `(words, hidden_size)` each.
    """

    model: ElmoModel
    tokenizer: ElmoTokenizer
    layers: int | Sequence[int] | None
    weights: Sequence[float] | None = None
    boundaries: bool = False
    chunk_words: int | None = None
    join: Callable[[list[np.ndarray]], np.ndarray] = np.stack

    def check(self) -> None:
        """Raise ValueError for a layer that the model lacks, or a tokenizer without boundaries."""
        check_boundaries(self.tokenizer)
        count = self.model.config.num_hidden_states
        layers = [self.layers] if isinstance(self.layers, int) else self.layers
        if layers is not None and not all(-count <= layer < count for layer in layers):
            raise ValueError(
                f"layers is {self.layers}; expected one or more of 0 to {count - 1} (layer 0: the "
                "context-free vector)"
            )

    def embed(self, sentences: list[Sentence]) -> list[np.ndarray]:
        is_split = not isinstance(sentences[0], str)
        inputs = self.tokenizer(
            sentences, is_split_into_words=is_split, padding=True, return_tensors="pt"
        )
        mask = inputs["attention_mask"].bool().numpy()
        inputs["attention_mask"] = self.read_mask(inputs["attention_mask"])
        with torch.inference_mode():
            layers = self.compute(dict(inputs.to(self.model.device)))
            arrays = [layer.float().cpu().numpy() for layer in layers]
        results = []
        for row, is_word in enumerate(mask):
            words = np.flatnonzero(is_word)
            kept = words if self.boundaries else words[1:-1]
            # Indexing copies the vectors, so that the batch can be freed.
            results.append(self.join([layer[row, kept] for layer in arrays]))
        return results

    def read_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Mask, per direction, the boundary read last, to save a step if its vector is unused."""
        config = self.model.config
        if self.boundaries or config.num_mixed_lstms:
            return mask
        number = mask.cumsum(1) * mask  # 1 at the first word, the sentence's length at the last
        read_last = [number == number.amax(1, keepdim=True), number == 1]
        return torch.stack([mask & ~last for last in read_last[: config.num_directions]], -1)

    def compute(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the layers of a batch, or their sum, `(batch, words, hidden_size)` each."""
        chunk, mask = self.chunk_words, inputs.pop("attention_mask")
        if chunk is None or mask.shape[1] <= chunk:
            output = self.model(**inputs, attention_mask=mask, output_hidden_states=self.requested)
            return self.select(output.hidden_states)
        directions = self.model.config.num_directions
        if mask.ndim == 2:
            mask = mask[..., None].expand(-1, -1, directions)
        parts = [self.read(inputs, mask, chunk, direction) for direction in range(directions)]
        return [torch.cat(halves, -1) for halves in zip(*parts, strict=True)]

    def read(
        self, inputs: dict[str, torch.Tensor], mask: torch.Tensor, chunk: int, direction: int
    ) -> list[torch.Tensor]:
        """Compute one direction's half of the layers chunk by chunk, with carried states."""
        states, found = None, []
        starts = range(0, mask.shape[1], chunk)
        for start in reversed(starts) if direction else starts:
            part = slice(start, start + chunk)
            reads = torch.zeros_like(mask[:, part])
            reads[..., direction] = mask[:, part, direction]
            output = self.model(
                **{name: ids[:, part] for name, ids in inputs.items()},
                attention_mask=reads,
                states=states,
                use_cache=True,
                output_hidden_states=self.requested,
            )
            states = output.states
            layers = self.select(output.hidden_states)
            found.append([layer.chunk(mask.shape[-1], -1)[direction].clone() for layer in layers])
        ordered = found[::-1] if direction else found
        return [torch.cat(chunks, 1) for chunks in zip(*ordered, strict=True)]

    @property
    def requested(self) -> bool | int | list[int]:
        """The model's argument `output_hidden_states`."""
        if self.layers is None:
            return True
        return self.layers if isinstance(self.layers, int) else list(self.layers)

    def select(self, hidden: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        layers = range(len(hidden)) if self.layers is None else self.layers
        picked = [hidden[i] for i in ([layers] if isinstance(layers, int) else layers)]
        if self.weights is None:
            return picked
        total = picked[0].float() * self.weights[0]
        for layer, weight in zip(picked[1:], self.weights[1:], strict=True):
            total.add_(layer.float(), alpha=weight)
        return [total]


def embed_sentences(
    encoder: Encoder,
    sentences: Iterable[Sentence],
    limits: Limits,
    workers: int | None = None,
    known_words: int = KNOWN_WORDS,
    progress: Progress | None = None,
    reproducible: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the encoder's result for each sentence; see `embed_corpus` and `WorkerPool`."""
    encoder.check()
    if reproducible and not _has_steady_words(encoder.model):
        known_words = 0
    with compare_for_corpus(encoder.model):  # the workers keep this context
        pool = WorkerPool(encoder.model, workers, reproducible)
    vectors = map_sentences(encoder.embed, sentences, pool, limits, progress)
    # In a generator here, the checks above would run only at the first `next`.
    return _with_word_cache(encoder.model, known_words, vectors)


def _with_word_cache(
    elmo: ElmoModel, known_words: int, vectors: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    with elmo.embeddings.word_cache(known_words):
        yield from vectors


def _has_steady_words(elmo: ElmoModel) -> bool:
    """Whether a cached vector has the same bits whatever words it was computed with."""
    weights = list(elmo.embeddings.parameters())
    is_float32 = all(type(part) is Parameter and part.dtype == torch.float32 for part in weights)
    return is_float32 and elmo.config.vocab_size <= FEW_SYMBOLS


def _only(layers: list[np.ndarray]) -> np.ndarray:
    return layers[0]


__all__ = ["Encoder", "embed_corpus", "embed_sentences"]
