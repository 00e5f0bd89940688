# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Computes the vectors of a whole corpus with several worker threads."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import Limits, Progress, Sentence, WorkerPool, check_arguments, map_sentences
from .model.engine_copies import compare_for_corpus
from .model.modeling_elmo import ElmoModel, ElmoPreTrainedModel
from .model.tokenization_elmo import ElmoTokenizer


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
    known_words: int = 100_000,
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
    encoder = _Encoder(elmo, tokenizer, layers, boundaries)
    encoder.check_layers()
    with compare_for_corpus(elmo):  # the workers keep this context
        pool = WorkerPool(elmo, workers)
    vectors = map_sentences(encoder.embed, sentences, pool, Limits(**sizes), progress)
    # In a generator here, the checks above would run only at the first `next`.
    return _with_word_cache(elmo, known_words, vectors)


def _with_word_cache(
    elmo: ElmoModel, known_words: int, vectors: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    with elmo.embeddings.word_cache(known_words):
        yield from vectors


@dataclass(frozen=True)
class _Encoder:
    """Class that embeds batches; it is not changed by calls, so threads may share it."""

    model: ElmoModel
    tokenizer: ElmoTokenizer
    layers: int | Sequence[int] | None
    boundaries: bool

    def check_layers(self) -> None:
        count = self.model.config.num_hidden_layers + 1
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
        layers = True if self.layers is None else self.layers
        requested = layers if isinstance(layers, (bool, int)) else list(layers)
        with torch.inference_mode():
            output = self.model(**inputs.to(self.model.device), output_hidden_states=requested)
            hidden = output.hidden_states
            chosen = range(len(hidden)) if self.layers is None else layers
            picked = [hidden[i] for i in ([chosen] if isinstance(chosen, int) else chosen)]
            arrays = [layer.float().cpu().numpy() for layer in picked]
        return [self.cut(arrays, i, np.flatnonzero(row)) for i, row in enumerate(mask)]

    def read_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Mask, per direction, the boundary read last, to save a step if its vector is unused."""
        config = self.model.config
        if self.boundaries or config.num_mixed_lstms:
            return mask
        number = mask.cumsum(1) * mask  # 1 at the first word, the sentence's length at the last
        read_last = [number == number.amax(1, keepdim=True), number == 1]
        return torch.stack([mask & ~last for last in read_last[: config.num_directions]], -1)

    def cut(self, layers: list[np.ndarray], row: int, words: np.ndarray) -> np.ndarray:
        """Copy the vectors of one sentence, so that its batch can be freed."""
        kept = words if self.boundaries else words[1:-1]
        if isinstance(self.layers, int):
            return layers[0][row, kept]
        return np.stack([layer[row, kept] for layer in layers])


__all__ = ["embed_corpus"]
