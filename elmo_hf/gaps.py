# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Fills the gaps of a sentence with the words that a language model predicts from both sides."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from transformers import FillMaskPipeline

from .batches import Sentence
from .model.modeling_elmo_pretraining import ElmoForPreTraining
from .model.tokenization_elmo import ElmoTokenizer
from .model.tokenization_vocabulary import NO_WORD, LmVocabulary
from .scoring import check_language_model

Direction = Literal["both", "forward", "backward"]

PLACEHOLDER = "word"  # stands for a gap while the text is split; no splitter divides it
FILLERS = 10  # words that are read in a neighbouring gap
GAP = "___"
OTHER_GAPS = ("[MASK]", "<mask>")  # what users of BERT and RoBERTa write for a gap


@dataclass(frozen=True)
class Candidate:
    """
    A word for a gap, with its log-probabilities, natural logarithm.

    Args:
        word: the word.
        id: its vocabulary id.
        forward: given the words left of the gap, as the forward LSTMs predict it.
        backward: given the words right of the gap, as the backward LSTMs predict it. None if the
            model has no backward LSTMs.
        both: given the words of both sides; see `fill_gaps`.
    """

    word: str
    id: int
    forward: float
    backward: float | None
    both: float | None


@dataclass(frozen=True)
class Gap:
    """
    A gap of a sentence.

    Args:
        position: index of the gap among the words of the sentence.
        candidates: the best words, most probable first.
    """

    position: int
    candidates: list[Candidate]


def fill_gaps(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentence: Sentence,
    *,
    gap: str = GAP,
    top: int = 10,
    direction: Direction = "both",
    words: Iterable[str] | None = None,
    sorted_by_frequency: bool = True,
) -> list[Gap]:
    """
    Return the most probable words for each gap of a sentence.

    A biLM is no masked language model: nothing in its training stood for a missing word. Its
    forward LSTMs predict a word w from the words to its left, its backward LSTMs from those to its
    right. Neither sees both sides. If the two sides are independent given w, then
    p(w | left, right) is proportional to p(w | left) p(w | right) / p(w). `both` is that,
    normalised over the candidates. The checkpoint has no p(w); it is estimated from the rank of w
    in the vocabulary (Zipf's law) as in bilm-tf's sampled softmax: log(1 + 1 / (rank + 1)).

    With several gaps, each side of a gap may have gaps of its own. The nearest one is filled with
    each of its 10 best words in turn, and the predictions are averaged with the words'
    probabilities; others are filled with their best word. These words are those found when all
    other gaps are read as `tokenizer.word_unk_token`.

    Args:
        model: the language model, in evaluation mode.
        tokenizer: the tokenizer saved with the model, with its vocabulary.
        sentence: a text, or a list of words.
        gap: what stands for each missing word, for instance "The ___ rose."; instead of "___" a
            sentence may also have a longer row of "_".
        top: number of candidates per gap.
        direction: which log-probability sorts the candidates.
        words: the candidates; default: the whole vocabulary without the boundaries and the unknown
            word.
        sorted_by_frequency: whether the vocabulary is sorted, most frequent word first, as
            bilm-tf requires. If False, p(w) is left out, so frequent words rank too high.

    Raises:
        ValueError: the sentence has no gap, the model or tokenizer has no vocabulary, or an
            argument is invalid.
    """
    check_language_model(model, tokenizer)
    _check_arguments(model, top, direction)
    sentence, places = find_gaps(tokenizer, sentence, gap)
    filler = Filler(model, tokenizer, direction, words, sorted_by_frequency)
    return [
        Gap(place, filler.candidates(scores, top))
        for place, scores in zip(places, filler.fill(sentence, places), strict=True)
    ]


class ElmoFillMaskPipeline(FillMaskPipeline):
    """
    Pipeline that fills the gaps of texts by `fill_gaps`; a gap is "___", "[MASK]" or "<mask>".

    `pipeline("fill-mask", model=folder)` creates it for an ELMo folder, after `import elmo_hf`. For
    other models this class creates the stock pipeline. ELMo has no mask token and reads none: see
    `fill_gaps`. The results are those of the stock pipeline, for several gaps a list of them, with
    `forward` and `backward`, the log-probabilities of each side. `score` is the probability given
    both sides (for a model of one direction, given the left side). Unlike the stock pipeline, it
    refuses `targets` that are not in the vocabulary, and texts are not batched.
    """

    def __new__(cls, *args: Any, model: Any = None, **kwargs: Any) -> Any:
        if model is None or model.config.model_type == "elmo":
            return super().__new__(cls)
        return FillMaskPipeline(*args, model=model, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Fill the gaps of a text, or of each of several; options: `top_k` and `targets`."""
        return super().__call__(inputs, **kwargs | {"batch_size": 1})

    def _sanitize_parameters(
        self, top_k: int | None = None, targets: str | list[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options: dict[str, Any] = {}
        if top_k is not None:
            options["top"] = top_k
        if targets is not None:
            options["words"] = [targets] if isinstance(targets, str) else targets
        return {}, options, {}

    def preprocess(self, inputs: str) -> dict[str, Any]:
        for sign in OTHER_GAPS:
            inputs = inputs.replace(sign, GAP)
        return {"text": shorten_gaps(inputs)}

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        direction = "both" if self.model.config.bidirectional else "forward"
        settings = {"direction": direction, "top": 5, **options}
        gaps = fill_gaps(self.model, self.tokenizer, model_inputs["text"], **settings)
        return {**model_inputs, "gaps": gaps, "direction": direction}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[Any]:
        parts = model_outputs["text"].split(GAP)
        found = []
        for number, gap in enumerate(model_outputs["gaps"], 1):
            before, after = GAP.join(parts[:number]), GAP.join(parts[number:])
            found.append(
                [
                    {
                        "score": math.exp(getattr(candidate, model_outputs["direction"])),
                        "token": candidate.id,
                        "token_str": candidate.word,
                        "sequence": f"{before}{candidate.word}{after}",
                        "forward": candidate.forward,
                        "backward": candidate.backward,
                    }
                    for candidate in gap.candidates
                ]
            )
        return found[0] if len(found) == 1 else found


def shorten_gaps(text: str) -> str:
    """Replace each longer row of "_" by "___"."""
    return re.sub("_{4,}", GAP, text)


def find_gaps(
    tokenizer: ElmoTokenizer, sentence: Sentence, gap: str
) -> tuple[list[str], list[int]]:
    """
    Split a sentence into words; return them and the indices of its gaps.

    Raises:
        ValueError: there is no gap, or a gap is part of a word.
    """
    if not gap.strip():
        raise ValueError(f'gap is {gap!r}; expected the sign of a missing word, such as "___"')
    if gap == GAP:
        shorten = shorten_gaps
        sentence = shorten(sentence) if isinstance(sentence, str) else [*map(shorten, sentence)]
    if isinstance(sentence, str):
        words, places = _split(tokenizer, sentence.split(gap))
        count = sentence.count(gap)
    else:
        words, places = list(sentence), [i for i, word in enumerate(sentence) if word == gap]
        count = sum(word.count(gap) for word in words)
    if not count:
        raise ValueError(f"the sentence {sentence!r} has no gap; write {gap} for a missing word")
    if len(places) < count:
        raise ValueError(
            f"a gap in {sentence!r} is part of a word, but ELMo fills in whole words only; write "
            f"{gap} with spaces around it"
        )
    return words, places


def _split(tokenizer: ElmoTokenizer, parts: list[str]) -> tuple[list[str], list[int]]:
    encoding = tokenizer(
        PLACEHOLDER.join(parts), add_special_tokens=False, return_offsets_mapping=True
    )
    starts, end = set(), 0
    for part in parts[:-1]:
        starts.add(end + len(part))
        end += len(part) + len(PLACEHOLDER)
    words, spans = encoding.tokens(), encoding["offset_mapping"]
    is_gap = [a in starts and b - a == len(PLACEHOLDER) for a, b in spans]
    return words, [i for i, found in enumerate(is_gap) if found]


def _check_arguments(model: ElmoForPreTraining, top: int, direction: str) -> None:
    if direction not in get_args(Direction):
        raise ValueError(f"direction is {direction!r}; expected {', '.join(get_args(Direction))}")
    if direction != "forward" and not model.config.bidirectional:
        raise ValueError(
            f"direction is {direction!r}, but the model has no backward LSTMs; pass "
            'direction="forward"'
        )
    if top < 1:
        raise ValueError(f"top is {top}; expected at least 1")


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of all candidates for one gap, `(candidates,)` each."""

    forward: torch.Tensor
    backward: torch.Tensor | None
    both: torch.Tensor | None


@dataclass(frozen=True)
class Filler:
    """Class that scores the candidates for gaps; arguments as in `fill_gaps`."""

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer
    direction: Direction
    words: Iterable[str] | None
    sorted_by_frequency: bool

    @property
    def vocabulary(self) -> LmVocabulary:
        assert self.tokenizer._vocabulary is not None
        return self.tokenizer._vocabulary

    @cached_property
    def ids(self) -> torch.Tensor:
        """Vocabulary ids of the candidates."""
        tokenizer = self.tokenizer
        special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.word_unk_token)
        allowed = torch.ones(len(self.vocabulary), dtype=torch.bool)
        allowed[self.vocabulary.ids(special)] = False
        if self.words is None:
            return allowed.nonzero()[:, 0]
        words = self.words if isinstance(self.words, str) else [*self.words]
        if isinstance(words, str) or not words:
            raise ValueError(f"words is {words!r}; expected a list of one or more words")
        ids = torch.from_numpy(self.vocabulary.ids(words))
        known = (ids != NO_WORD) & allowed[ids]
        if missing := [word for word, is_known in zip(words, known, strict=True) if not is_known]:
            raise ValueError(
                f"the vocabulary of {len(self.vocabulary)} words lacks {missing}; the model can "
                "only predict words of its vocabulary"
            )
        return ids.unique()

    @cached_property
    def prior(self) -> torch.Tensor | float:
        """Log of p(w), unnormalised, of each candidate."""
        if not self.sorted_by_frequency:
            return 0.0
        return torch.log1p(1 / (self.ids.double() + 1)).log()

    def candidates(self, scores: Scores, top: int) -> list[Candidate]:
        best = self.ranking(scores).topk(min(top, len(self.ids))).indices
        ids = self.ids[best].tolist()
        words = [self.vocabulary[i] for i in ids]
        nothing = [None] * len(ids)
        parts = [
            nothing if part is None else part[best].tolist()
            for part in (scores.forward, scores.backward, scores.both)
        ]
        return [Candidate(*row) for row in zip(words, ids, *parts, strict=True)]

    def ranking(self, scores: Scores) -> torch.Tensor:
        return getattr(scores, self.direction)

    def fill(self, sentence: list[str], places: list[int]) -> list[Scores]:
        """Score the candidates for the gaps at these places, whatever stands there."""
        unknown = list(sentence)
        for place in places:
            unknown[place] = self.tokenizer.word_unk_token
        sides = self.predict([unknown], places)
        first = [self.combine(*gap) for gap in zip(*sides, strict=True)]
        if len(places) == 1:
            return first
        return [self.refill(sentence, places, first, number) for number in range(len(places))]

    def refill(
        self, sentence: list[str], places: list[int], found: list[Scores], number: int
    ) -> Scores:
        """Score a gap again, with words in the other gaps."""
        count = min(FILLERS, len(self.ids))
        rows = [list(sentence) for _ in range(count)]
        weights = [torch.zeros(count, 1).log_softmax(0)] * 2
        for other, place in enumerate(places):
            best = self.ranking(found[other]).topk(count)
            near = abs(other - number) == 1
            if near:
                weights[int(other > number)] = best.values[:, None].log_softmax(0)
            for row, i in zip(rows, best.indices, strict=True):
                row[place] = self.vocabulary[int(self.ids[i if near else best.indices[0]])]
        sides = self.predict(rows, [places[number]])
        means = (
            torch.logsumexp(side + weight, 0) for side, weight in zip(sides, weights, strict=False)
        )
        return self.combine(*means)

    @torch.inference_mode()
    def predict(self, rows: list[list[str]], places: list[int]) -> tuple[torch.Tensor, ...]:
        """
        Return, per direction, log-probabilities `(rows or places, candidates)`.

        Args:
            rows: one row, or several of the same length.
            places: the places in one row, or one place in several rows.
        """
        inputs = self.tokenizer(rows, is_split_into_words=True, return_tensors="pt")
        top = self.model.elmo(**inputs.to(self.model.device)).last_hidden_state
        row, at = torch.arange(len(rows)), torch.tensor(places) + 1  # after <S>
        halves = top.chunk(2 if self.model.config.bidirectional else 1, -1)
        return tuple(
            self.model._score(half[row, at + step]).float().log_softmax(-1).cpu()[:, self.ids]
            for half, step in zip(halves, (-1, 1), strict=False)
        )

    def combine(self, forward: torch.Tensor, backward: torch.Tensor | None = None) -> Scores:
        if backward is None:
            return Scores(forward, None, None)
        both = (forward.double() + backward.double() - self.prior).log_softmax(-1)
        return Scores(forward, backward, both)


__all__ = [
    "Candidate",
    "Direction",
    "ElmoFillMaskPipeline",
    "Filler",
    "Gap",
    "Scores",
    "fill_gaps",
    "find_gaps",
]
