# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""How probable a language model finds the words of sentences, in both directions; perplexity."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .model.engine_threads import keep_threads
from .model.engine_weights import States
from .model.modeling_elmo_pretraining import ElmoForPreTraining
from .model.tokenization_elmo import ElmoTokenizer

Sentence = str | Sequence[str]

WINDOW = 512  # sentences that are spelled, and sorted by length, together
BLOCK_WORDS = 256  # that are read at once of a stream of running text
SCORES = 1 << 22  # of the softmax that a worker holds at once


@dataclass(frozen=True)
class SentenceScores:
    """
    Log-probabilities of one sentence's words, in nats.

    Args:
        forward: `(words + 1,)`, of every word after the words before it, and of `</S>` last.
        backward: `(words + 1,)`, of `<S>` first, and of every word before the words after it;
            None without a backward stack.
        unknown: `(words,)`, True for words that the vocabulary lacks. They are one class, and its
            log-probability is theirs.
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
    progress: Callable[[int], object] | None = None,
) -> Iterator[SentenceScores]:
    """
    Yield the scores of each sentence on its own, in the order given.

    Sentences are batched by length. The numbers below change scores by rounding only.

    Args:
        model: in evaluation mode.
        tokenizer: the one saved beside the model, with its vocabulary.
        sentences: all texts, or all lists of words; there may be any number.
        batch_words: the most words in a batch, padding included; one sentence is always allowed.
        workers: threads, which share torch's. Default: torch's number on a CPU, else 1.
        progress: called with the number of sentences of each finished window.

    Raises:
        ValueError: an argument does not fit; at once.
    """
    scorer = _Scorer(model, tokenizer)
    scorer.check(sentences, batch_words=batch_words, workers=workers)
    # A function of its own, so that the checks above run at the call.
    return _score_windows(scorer, iter(sentences), batch_words, workers, progress)


def score_text(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    *,
    streams: int = 1,
    workers: int | None = None,
) -> list[SentenceScores]:
    """
    Score running text: each sentence is read with the memory of those before it, or after it.

    The forward stack reads from the first sentence to the last, but no `</S>`; the backward one
    from the last to the first, but no `<S>`. So bilm-tf trains and tests.

    Args:
        model, tokenizer: as for `score_sentences`.
        sentences: consecutive ones, all texts or all lists of words. They are held in memory.
        streams: parts of the text that are read side by side, each from a memory of zeros: one is
            exact, more are faster.
        workers: threads, as for `score_sentences`; each reads some streams in one direction.

    Raises:
        ValueError: an argument does not fit.
    """
    scorer = _Scorer(model, tokenizer)
    scorer.check(sentences, streams=streams, workers=workers)
    encoded = scorer.encode(sentences)
    workers = workers or scorer.default_workers
    parts = _divide(encoded, streams)
    groups = [parts[i::workers] for i in range(min(workers, len(parts)))]
    tasks = [(group, direction) for direction in scorer.directions for group in groups]
    found: list[dict[int, np.ndarray]] = [{}, {}]
    with _pool(workers) as pool:
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


def _score_windows(
    scorer: "_Scorer",
    sentences: Iterator[Sentence],
    batch_words: int,
    workers: int | None,
    progress: Callable[[int], object] | None,
) -> Iterator[SentenceScores]:
    with _pool(workers or scorer.default_workers) as pool:
        while window := scorer.encode(islice(sentences, WINDOW)):
            batches = _make_batches(window, batch_words)
            found: dict[int, SentenceScores] = {}
            for scores in pool.map(scorer.score_apart, batches):
                found |= scores
            if progress is not None:
                progress(len(window))
            yield from (found[number] for number in range(len(window)))


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that have torch's threads to themselves."""
    before = torch.get_num_threads()
    share = max(1, before // workers)
    pool = ThreadPoolExecutor(workers, "elmo", keep_threads, (share,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Encoded:
    """A sentence as the model takes it: `(words + 2, ...)`, boundaries included."""

    number: int
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    unknown: np.ndarray  # (words,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Scorer:
    """What the workers share; its methods change nothing."""

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer

    @property
    def default_workers(self) -> int:
        return torch.get_num_threads() if self.model.device.type == "cpu" else 1

    @property
    def directions(self) -> range:
        return range(self.model.config.num_directions)

    def check(self, sentences: object, **sizes: int | None) -> None:
        if self.model.training:
            raise ValueError("the model is in training mode and would drop values: model.eval()")
        if isinstance(sentences, str):
            raise ValueError("sentences is one text; expected several: pass a list")
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        known, needed = self.tokenizer.lm_vocab_size, self.model.config.lm_vocab_size
        if known != needed:
            raise ValueError(
                f"the tokenizer's vocabulary has {known} words, the model's softmax {needed}; use "
                'the tokenizer saved beside the model, or give it lm_vocab_file="vocab.txt"'
            )

    def encode(self, sentences: Iterable[Sentence]) -> list[_Encoded]:
        """Spell sentences, and number them from 0."""
        unknown = self.spell([[self.tokenizer.word_unk_token]])["labels"][0, 1]
        encoded: list[_Encoded] = []
        rest = iter(sentences)
        while window := list(islice(rest, WINDOW)):
            inputs = self.spell(window)
            masks, labels = inputs.pop("attention_mask").bool(), inputs.pop("labels")
            for i, mask in enumerate(masks):
                given = {name: rows[i, mask] for name, rows in inputs.items()}
                is_unknown = labels[i, mask][1:-1] == unknown
                encoded.append(_Encoded(len(encoded), given, labels[i, mask], is_unknown.numpy()))
        return encoded

    def spell(self, sentences: list[Sentence]) -> dict[str, torch.Tensor]:
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

    def score_apart(self, batch: list[_Encoded]) -> dict[int, SentenceScores]:
        """Scores by number of sentences that do not know of each other."""
        scores, _ = self.score([[sentence] for sentence in batch], self.directions)
        forward, backward = scores if len(scores) == 2 else (scores[0], [None] * len(batch))
        return {
            sentence.number: SentenceScores(forward[i], backward[i], sentence.unknown)
            for i, sentence in enumerate(batch)
        }

    def read(self, task: tuple[list[list[_Encoded]], int]) -> dict[int, np.ndarray]:
        """Log-probabilities by number of the sentences of some streams, in one direction."""
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
        Log-probabilities in each of the directions, sentence by sentence, row after row.

        A row is read in one go, and starts and ends in its states.
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
    """Inputs and labels `(rows, words, ...)`, and what is read `(rows, words, directions)`."""
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
    """Which words of a sentence predict: all but `</S>` forward, all but `<S>` backward."""
    read = torch.ones(length, 2, dtype=torch.bool)
    read[-1, 0] = read[0, 1] = False
    return read


def _make_batches(window: list[_Encoded], batch_words: int) -> list[list[_Encoded]]:
    """Longest first, so that no worker is left alone with a long batch at the end."""
    batches: list[list[_Encoded]] = []
    room = 0
    for sentence in sorted(window, key=len, reverse=True):
        if not room:
            batches.append([])
            room = max(1, batch_words // len(sentence))
        batches[-1].append(sentence)
        room -= 1
    return batches


def _divide(text: list[_Encoded], count: int) -> list[list[_Encoded]]:
    """At most so many consecutive parts, of nearly equally many words."""
    ends = np.cumsum([len(sentence) for sentence in text])
    parts: list[list[_Encoded]] = [[] for _ in range(count)]
    for sentence, end in zip(text, ends, strict=True):
        parts[(int(end) - 1) * count // int(ends[-1])].append(sentence)
    return [part for part in parts if part]


def _blocks(stream: list[_Encoded]) -> list[list[_Encoded]]:
    """Consecutive sentences of a stream, a block's worth of words together."""
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
