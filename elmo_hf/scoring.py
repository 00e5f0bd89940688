# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Computes word log-probabilities and perplexity of a language model, in both directions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .batches import (
    Limits,
    Progress,
    Sentence,
    WorkerPool,
    check_arguments,
    check_boundaries,
    map_sentences,
)
from .model.engine_weights import States
from .model.modeling_elmo_pretraining import ElmoForPreTraining
from .model.tokenization_elmo import ElmoTokenizer

WINDOW = 512  # sentences that are sorted by length, or tokenized, together
BLOCK_WORDS = 256  # words of each stream that the model reads in one call
MAX_LOGITS = 1 << 22  # logits that a worker holds in memory at once


@dataclass(frozen=True)
class SentenceScores:
    """
    Log-probabilities of the words of one sentence, natural logarithm.

    Args:
        forward: `(words + 1,)`, for each word given the words before it; the last is for `</S>`.
        backward: `(words + 1,)`, for each word given the words after it; the first is for `<S>`.
            None if the model has no backward LSTMs.
        unknown: `(words,)`, True for words not in the vocabulary. Their log-probability is that of
            the unknown token.
    """

    forward: np.ndarray
    backward: np.ndarray | None
    unknown: np.ndarray


@dataclass(frozen=True)
class Perplexity:
    """
    Perplexity of a text, over all words and one boundary per sentence, as in bilm-tf.

    Args:
        forward: exp of the mean negative log-probability in forward direction.
        backward: the same in backward direction; None if the model has no backward LSTMs.
        mean: exp of the mean of both directions' losses.
        unknown_rate: share of words not in the vocabulary. All unknown words count as one token,
            which is easy to predict: compare only models with the same vocabulary.
        words: number of words, without boundaries.
        sentences: number of sentences.
    """

    forward: float
    backward: float | None
    mean: float
    unknown_rate: float
    words: int
    sentences: int


def score_sentences(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    *,
    batch_words: int = 2048,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[SentenceScores]:
    """
    Yield the scores of each sentence without context, in the order of the sentences.

    Sentences of similar length share a batch. The batches change the scores by rounding only.

    Args:
        model: the language model, in evaluation mode.
        tokenizer: the tokenizer saved with the model, with its vocabulary.
        sentences: all texts, or all lists of words; any number.
        batch_words: maximum number of words in a batch, padding included; a longer sentence is a
            batch of its own.
        workers: number of threads, each with an equal share of torch's threads; default: torch's
            number of threads on a CPU, else 1.
        progress: called with the number of sentences of each finished batch, such as
            `tqdm.update`.

    Raises:
        ValueError: an argument is invalid; raised at the call.
        RuntimeError: a sentence cannot be scored; raised while iterating, names the sentence.
    """
    scorer = _Scorer(model, tokenizer)
    scorer.check(sentences, batch_words=batch_words, workers=workers)
    limits = Limits(window=WINDOW, batch_size=WINDOW, batch_words=batch_words)
    return map_sentences(
        scorer.score_apart, sentences, WorkerPool(model, workers), limits, progress
    )


def score_text(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    *,
    streams: int = 1,
    workers: int | None = None,
) -> list[SentenceScores]:
    """
    Score running text: the LSTM states carry over from sentence to sentence, as in bilm-tf.

    The forward LSTMs read from the first sentence to the last and skip each `</S>`; the backward
    LSTMs read from the last sentence to the first and skip each `<S>`.

    Args:
        model, tokenizer: as for `score_sentences`.
        sentences: the consecutive sentences, all texts or all lists of words; kept in memory.
        streams: number of parts of the text that are read in parallel, each from zero states. One
            stream is exact, more streams are faster.
        workers: number of threads, as for `score_sentences`; a task is some streams in one
            direction.

    Raises:
        ValueError: an argument is invalid.
    """
    scorer = _Scorer(model, tokenizer)
    scorer.check(sentences, streams=streams, workers=workers)
    encoded = scorer.encode(sentences)
    parts = _divide(encoded, streams)
    found: list[dict[int, np.ndarray]] = [{}, {}]
    with WorkerPool(model, workers) as pool:
        groups = [parts[i :: pool.workers] for i in range(min(pool.workers, len(parts)))]
        tasks = [(group, direction) for direction in scorer.directions for group in groups]
        for (_, direction), scores in zip(tasks, pool.map(scorer.read, tasks), strict=True):
            found[direction].update(scores)
    forward, backward = found
    return [
        SentenceScores(forward[i], backward.get(i), sentence.unknown)
        for i, sentence in enumerate(encoded)
    ]


def perplexity(scores: Iterable[SentenceScores], *, boundaries: bool = True) -> Perplexity:
    """
    Compute the perplexity of a text from its scores.

    Args:
        scores: the scores of one or more sentences; read once, not kept.
        boundaries: whether the boundary of each sentence counts, as in bilm-tf.

    Raises:
        ValueError: there are no sentences, or without boundaries no words.
    """
    losses, words, unknown, sentences = [0.0, 0.0], 0, 0, 0
    directions = 2
    for score in scores:
        sentences += 1
        words += len(score.unknown)
        unknown += int(score.unknown.sum())
        kept = slice(None) if boundaries else slice(-1)
        losses[0] -= float(score.forward[kept].sum(dtype=np.float64))
        if score.backward is None:
            directions = 1
        else:
            kept = slice(None) if boundaries else slice(1, None)
            losses[1] -= float(score.backward[kept].sum(dtype=np.float64))
    predicted = words + (sentences if boundaries else 0)
    if not predicted:
        raise ValueError("scores is empty; pass the scores of at least one sentence")
    means = [loss / predicted for loss in losses[:directions]]
    forward, *backward = (float(np.exp(mean)) for mean in means)
    return Perplexity(
        forward=forward,
        backward=backward[0] if backward else None,
        mean=float(np.exp(sum(means) / directions)),
        unknown_rate=unknown / max(1, words),
        words=words,
        sentences=sentences,
    )


def check_language_model(model: ElmoForPreTraining, tokenizer: ElmoTokenizer) -> None:
    """Raise ValueError unless the model has a softmax, and the tokenizer its vocabulary."""
    if not (hasattr(model, "elmo") and hasattr(model, "lm_head")):
        raise ValueError(
            f"the model is a {type(model).__name__}, which predicts no words; load the language "
            "model with AutoModelForPreTraining.from_pretrained"
        )
    if model.training:
        raise ValueError("the model is in training mode, with dropout; call model.eval() first")
    check_boundaries(tokenizer)
    known, needed = tokenizer.lm_vocab_size, model.config.lm_vocab_size
    if known != needed:
        raise ValueError(
            f"the tokenizer's vocabulary has {known} words, the model's softmax {needed}; load "
            'the tokenizer saved with the model, or pass it lm_vocab_file="vocab.txt"'
        )


@dataclass(frozen=True)
class _Encoded:
    """A tokenized sentence: tensors `(words + 2, ...)`, with boundaries."""

    number: int
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    unknown: np.ndarray  # (words,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Scorer:
    """Class that scores sentences; its methods do not change it, so threads may share it."""

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer

    @cached_property
    def unknown(self) -> int:
        """Vocabulary id of unknown words."""
        return int(self.tokenize([[self.tokenizer.word_unk_token]])["labels"][0, 1])

    @property
    def directions(self) -> range:
        return range(self.model.config.num_directions)

    def check(self, sentences: object, **sizes: int | None) -> None:
        check_language_model(self.model, self.tokenizer)
        check_arguments(self.model, sentences, **sizes)

    def encode(self, sentences: Iterable[Sentence]) -> list[_Encoded]:
        """Tokenize sentences and number them from 0."""
        encoded: list[_Encoded] = []
        rest = iter(sentences)
        while window := list(islice(rest, WINDOW)):
            inputs = self.tokenize(window)
            masks, labels = inputs.pop("attention_mask").bool(), inputs.pop("labels")
            for i, mask in enumerate(masks):
                words = {name: rows[i, mask] for name, rows in inputs.items()}
                is_unknown = labels[i, mask][1:-1] == self.unknown
                encoded.append(_Encoded(len(encoded), words, labels[i, mask], is_unknown.numpy()))
        return encoded

    def tokenize(self, sentences: list[Sentence]) -> dict[str, torch.Tensor]:
        is_split = not isinstance(sentences[0], str)
        return dict(
            self.tokenizer(
                sentences,
                is_split_into_words=is_split,
                return_lm_labels=True,
                padding=True,
                return_tensors="pt",
            )
        )

    def score_apart(self, sentences: list[Sentence]) -> list[SentenceScores]:
        """Score each sentence without the others as context."""
        encoded = self.encode(sentences)
        scores, _ = self.score([[sentence] for sentence in encoded], self.directions)
        forward = scores[0]
        backward = scores[1] if len(scores) == 2 else [None] * len(encoded)
        return [
            SentenceScores(forward[i], backward[i], sentence.unknown)
            for i, sentence in enumerate(encoded)
        ]

    def read(self, task: tuple[list[list[_Encoded]], int]) -> dict[int, np.ndarray]:
        """Score streams in one direction; return log-probabilities by sentence number."""
        streams, direction = task
        blocks = [_blocks(stream)[:: -1 if direction else 1] for stream in streams]
        found: dict[int, np.ndarray] = {}
        states = None
        for rows in zip_longest(*blocks, fillvalue=[]):
            (scores,), states = self.score(rows, [direction], states)
            numbers = [sentence.number for row in rows for sentence in row]
            found.update(zip(numbers, scores, strict=True))
        return found

    @torch.inference_mode()
    def score(
        self,
        rows: Sequence[list[_Encoded]],
        directions: Iterable[int],
        states: States | None = None,
    ) -> tuple[list[list[np.ndarray]], States | None]:
        """
        Return the log-probabilities of each sentence, by direction, and the final LSTM states.

        The sentences of a row are one sequence, which starts from the row's `states`.
        """
        device = self.model.device
        inputs, labels, reads = _join(rows, len(self.directions))
        mask = torch.zeros_like(reads)
        mask[..., list(directions)] = reads[..., list(directions)]
        output = self.model.elmo(
            **{name: part.to(device) for name, part in inputs.items()},
            attention_mask=mask.to(device),
            states=states,
            use_cache=True,
        )
        halves = output.last_hidden_state.chunk(len(self.directions), -1)
        lengths = [len(sentence) - 1 for row in rows for sentence in row]
        scores = []
        for direction in directions:
            read = mask[..., direction]
            targets = labels.roll(1 if direction else -1, 1)[read]
            found = self.log_probabilities(halves[direction][read.to(device)], targets.to(device))
            scores.append(np.split(found.cpu().numpy(), np.cumsum(lengths)[:-1]))
        return scores, output.states

    def log_probabilities(self, top: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability of each target, `(words,)`; `top` is `(words, projection_dim)`."""
        step = max(1, MAX_LOGITS // self.model.config.lm_vocab_size)
        found = []
        for rows, ids in zip(top.split(step), targets.split(step), strict=True):
            # The logits take most of the time, and log_softmax reads them once, unlike logsumexp.
            scores = self.model._score(rows).float().log_softmax(-1)
            found.append(scores.gather(1, ids[:, None])[:, 0])
        return torch.cat(found)


def _join(
    rows: Sequence[list[_Encoded]], directions: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Pad inputs and labels to `(rows, words, ...)`, masks to `(rows, words, directions)`."""
    some = next(sentence for row in rows for sentence in row)

    def pad(parts: list[list[torch.Tensor]], nothing: torch.Tensor) -> torch.Tensor:
        joined = [torch.cat([nothing[:0], *row]) for row in parts]
        return pad_sequence(joined, batch_first=True)

    inputs = {
        name: pad([[sentence.inputs[name] for sentence in row] for row in rows], part)
        for name, part in some.inputs.items()
    }
    labels = pad([[sentence.labels for sentence in row] for row in rows], some.labels)
    reads = pad([[_read(len(sentence)) for sentence in row] for row in rows], _read(0))
    return inputs, labels, reads[..., :directions]


def _read(length: int) -> torch.Tensor:
    """Mask `(words, 2)` of the words to read: forward all but `</S>`, backward all but `<S>`."""
    read = torch.ones(length, 2, dtype=torch.bool, device="cpu")
    read[-1:, 0] = read[:1, 1] = False
    return read


def _divide(text: list[_Encoded], count: int) -> list[list[_Encoded]]:
    """Divide a text into at most `count` consecutive parts of nearly equal length."""
    ends = np.cumsum([len(sentence) for sentence in text])
    parts: list[list[_Encoded]] = [[] for _ in range(count)]
    for sentence, end in zip(text, ends, strict=True):
        parts[(int(end) - 1) * count // int(ends[-1])].append(sentence)
    return [part for part in parts if part]


def _blocks(stream: list[_Encoded]) -> list[list[_Encoded]]:
    """Group consecutive sentences into blocks of at most `BLOCK_WORDS` words, at least one each."""
    blocks: list[list[_Encoded]] = []
    room = 0
    for sentence in stream:
        if room < len(sentence):
            blocks.append([])
            room = BLOCK_WORDS
        blocks[-1].append(sentence)
        room -= len(sentence)
    return blocks


__all__ = [
    "Perplexity",
    "SentenceScores",
    "check_language_model",
    "perplexity",
    "score_sentences",
    "score_text",
]
