# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Word log-probabilities and perplexity of a language model, in both directions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .batches import Limits, Progress, Sentence, WorkerPool, check_arguments, map_sentences
from .model.engine_weights import States
from .model.modeling_elmo_pretraining import ElmoForPreTraining
from .model.tokenization_elmo import ElmoTokenizer

WINDOW = 512  # sentences that are sorted by length together, or tokenized together
BLOCK_WORDS = 256  # words of a stream of running text that are read in one call
SCORES = 1 << 22  # values of the softmax that a worker holds at a time


@dataclass(frozen=True)
class SentenceScores:
    """
    Log-probabilities of one sentence's words, in nats.

    Args:
        forward: `(words + 1,)`, of each word given the words before it; the last is of `</S>`.
        backward: `(words + 1,)`, of each word given the words after it; the first is of `<S>`.
            None without a backward stack.
        unknown: `(words,)`, True for words that the vocabulary lacks. Their log-probability is
            that of the class of all unknown words.
    """

    forward: np.ndarray
    backward: np.ndarray | None
    unknown: np.ndarray


@dataclass(frozen=True)
class Perplexity:
    """
    Perplexity of a text: every word and, in each sentence, one boundary are predicted (bilm-tf).

    Args:
        forward: exp of the mean negative log-probability.
        backward: the same; None without a backward stack.
        mean: exp of the mean of the directions' losses.
        unknown_rate: share of the words that the vocabulary lacks. As one class they are easy to
            predict: compare models of one vocabulary.
        words: number of words, boundaries not counted.
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
    Yield the scores of each sentence on its own, in the order of the sentences.

    Sentences are batched by length. The batches change the scores by rounding only.

    Args:
        model: in evaluation mode.
        tokenizer: the one saved beside the model, with its vocabulary.
        sentences: all texts, or all lists of words; there may be any number.
        batch_words: the most words in a batch, padding included; one sentence is always allowed.
        workers: threads, each with an equal share of torch's threads. Default: torch's number of
            threads on a CPU, else 1.
        progress: called with the number of sentences of each finished batch, such as
            `tqdm.update`.

    Raises:
        ValueError: an argument does not fit; at once.
        RuntimeError: a sentence cannot be scored; while iterating. The message names it.
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
    Score running text: the LSTM memory is carried from sentence to sentence, as in bilm-tf.

    The forward stack reads from the first sentence to the last and skips each `</S>`; the
    backward stack reads from the last to the first and skips each `<S>`.

    Args:
        model, tokenizer: as for `score_sentences`.
        sentences: consecutive ones, all texts or all lists of words. They are held in memory.
        streams: parts of the text that are read in parallel, each from a memory of zeros. One
            stream is exact, more are faster.
        workers: threads, as for `score_sentences`; each reads some streams in one direction.

    Raises:
        ValueError: an argument does not fit.
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


def perplexity(scores: Iterable[SentenceScores]) -> Perplexity:
    """Sum up the scores of a text; raise ValueError if there are none."""
    scores = list(scores)
    if not scores:
        raise ValueError("there are no sentences, so there is no perplexity")
    words = sum(len(score.unknown) for score in scores)
    losses = [
        -sum(float(part.sum(dtype=np.float64)) for part in parts) / (words + len(scores))
        for parts in _directions(scores)
    ]
    forward, *backward = (float(np.exp(loss)) for loss in losses)
    return Perplexity(
        forward=forward,
        backward=backward[0] if backward else None,
        mean=float(np.exp(sum(losses) / len(losses))),
        unknown_rate=sum(int(score.unknown.sum()) for score in scores) / max(1, words),
        words=words,
        sentences=len(scores),
    )


def _directions(scores: list[SentenceScores]) -> Iterator[list[np.ndarray]]:
    yield [score.forward for score in scores]
    if scores[0].backward is not None:
        yield [score.backward for score in scores if score.backward is not None]


@dataclass(frozen=True)
class _Encoded:
    """A tokenized sentence: tensors `(words + 2, ...)`, boundaries included."""

    number: int
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    unknown: np.ndarray  # (words,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Scorer:
    """Scores sentences for several threads: its methods change nothing."""

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer

    @cached_property
    def unknown(self) -> int:
        """Vocabulary id of the words that the vocabulary lacks."""
        return int(self.tokenize([[self.tokenizer.word_unk_token]])["labels"][0, 1])

    @property
    def directions(self) -> range:
        return range(self.model.config.num_directions)

    def check(self, sentences: object, **sizes: int | None) -> None:
        check_arguments(self.model, sentences, **sizes)
        known, needed = self.tokenizer.lm_vocab_size, self.model.config.lm_vocab_size
        if known != needed:
            raise ValueError(
                f"the tokenizer's vocabulary has {known} words, the model's softmax {needed}; use "
                'the tokenizer saved beside the model, or give it lm_vocab_file="vocab.txt"'
            )

    def encode(self, sentences: Iterable[Sentence]) -> list[_Encoded]:
        """Tokenize sentences, and number them from 0."""
        encoded: list[_Encoded] = []
        rest = iter(sentences)
        while window := list(islice(rest, WINDOW)):
            inputs = self.tokenize(window)
            masks, labels = inputs.pop("attention_mask").bool(), inputs.pop("labels")
            for i, mask in enumerate(masks):
                given = {name: rows[i, mask] for name, rows in inputs.items()}
                is_unknown = labels[i, mask][1:-1] == self.unknown
                encoded.append(_Encoded(len(encoded), given, labels[i, mask], is_unknown.numpy()))
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
        """Scores of sentences that are not in each other's context."""
        encoded = self.encode(sentences)
        scores, _ = self.score([[sentence] for sentence in encoded], self.directions)
        forward = scores[0]
        backward = scores[1] if len(scores) == 2 else [None] * len(encoded)
        return [
            SentenceScores(forward[i], backward[i], sentence.unknown)
            for i, sentence in enumerate(encoded)
        ]

    def read(self, task: tuple[list[list[_Encoded]], int]) -> dict[int, np.ndarray]:
        """Read streams in one direction; return log-probabilities by the sentences' numbers."""
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
        Return, for each direction, the log-probabilities of each sentence, and the states.

        The sentences of a row are read as one sequence, which starts from the row's `states`.
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
        """`(words,)` from `(words, projection_dim)` and LM vocabulary ids `(words,)`."""
        step = max(1, SCORES // self.model.config.lm_vocab_size)
        found = []
        for rows, wanted in zip(top.split(step), targets.split(step), strict=True):
            # One pass over the scores, as logsumexp is not: they are most of the time.
            scores = self.model._score(rows).float().log_softmax(-1)
            found.append(scores.gather(1, wanted[:, None])[:, 0])
        return torch.cat(found)


def _join(
    rows: Sequence[list[_Encoded]], directions: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Inputs and labels `(rows, words, ...)`, and the mask of reads `(rows, words, directions)`."""
    some = next(sentence for row in rows for sentence in row)

    def pad(parts: list[list[torch.Tensor]], nothing: torch.Tensor) -> torch.Tensor:
        joined = [torch.cat([nothing[:0], *row]) for row in parts]
        return pad_sequence(joined, batch_first=True)

    inputs = {
        name: pad([[sentence.inputs[name] for sentence in row] for row in rows], part)
        for name, part in some.inputs.items()
    }
    labels = pad([[sentence.labels for sentence in row] for row in rows], some.labels)
    read = torch.ones(0, 2, dtype=torch.bool)
    reads = pad([[_read(len(sentence)) for sentence in row] for row in rows], read)
    return inputs, labels, reads[..., :directions]


def _read(length: int) -> torch.Tensor:
    """Bool `(words, 2)`: forward, all words but `</S>` predict another; backward, all but `<S>`."""
    read = torch.ones(length, 2, dtype=torch.bool)
    read[-1, 0] = read[0, 1] = False
    return read


def _divide(text: list[_Encoded], count: int) -> list[list[_Encoded]]:
    """At most `count` consecutive parts with nearly equal numbers of words."""
    ends = np.cumsum([len(sentence) for sentence in text])
    parts: list[list[_Encoded]] = [[] for _ in range(count)]
    for sentence, end in zip(text, ends, strict=True):
        parts[(int(end) - 1) * count // int(ends[-1])].append(sentence)
    return [part for part in parts if part]


def _blocks(stream: list[_Encoded]) -> list[list[_Encoded]]:
    """Consecutive sentences of a stream in blocks of at most `BLOCK_WORDS` words, or of one."""
    blocks: list[list[_Encoded]] = []
    room = 0
    for sentence in stream:
        if room < len(sentence):
            blocks.append([])
            room = BLOCK_WORDS
        blocks[-1].append(sentence)
        room -= len(sentence)
    return blocks


__all__ = ["Perplexity", "SentenceScores", "perplexity", "score_sentences", "score_text"]
