# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo's language model in the Language Model Evaluation Harness (lm-eval)."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch

from .. import ElmoForPreTraining, ElmoTokenizer, SentenceScores, score_sentences, score_text
from ..extras import require
from ..loading import find_source

Direction = Literal["forward", "backward", "both"]
DIRECTIONS = ("forward", "backward", "both")
LM: Any = require("lm_eval.api.model", "lm-eval").LM


class ElmoLM(LM):
    """
    Class for `lm_eval.simple_evaluate(model=ElmoLM(folder), tasks=[...])`.

    A text is one sentence, whatever its length, and its score is the sum of its words'
    log-probabilities. An end-of-sentence word `</S>` is predicted after it (forward), or a `<S>`
    before it (backward), as in `score_sentences`. Unknown words count as one class.

    Args:
        pretrained: folder or Hub name of a model with a softmax.
        direction: "forward" predicts each word from the words before it, so it is a probability.
            "backward" predicts it from the words after it; "both" is the sum of both, which is a
            score, not a probability.
        batch_words: maximum number of words in a batch, padding included.
        device: default: the GPU if there is one, else the CPU.

    Raises:
        ValueError: `direction` is unknown, the model has no softmax, or it has no backward LSTMs.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike,
        direction: Direction = "forward",
        batch_words: int = 2048,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if direction not in DIRECTIONS:
            raise ValueError(f"direction is {direction!r}; expected one of {', '.join(DIRECTIONS)}")
        find_source(pretrained)  # a better message for a folder that is not there
        model, info = ElmoForPreTraining.from_pretrained(pretrained, output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{pretrained} holds no complete language model; it lacks {', '.join(missing[:3])}"
            )
        if direction != "forward" and not model.config.bidirectional:
            raise ValueError(
                f"direction is {direction!r}, but {pretrained} has no backward LSTMs; use 'forward'"
            )
        self.direction, self.batch_words = direction, batch_words
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self._device).eval()
        self.tokenizer = ElmoTokenizer.from_pretrained(pretrained)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """
        Score each continuation given its context, with `</S>` after the continuation.

        With a context, "both" is the score of the whole text minus that of the context alone.

        Returns:
            Pairs of the score and False: whether greedy decoding would write the continuation is
            not computed.

        Raises:
            ValueError: `direction` is "backward" and there is a context, which is not read then.
        """
        pairs = [request.args for request in requests]
        contexts = sorted({context for context, _ in pairs if context.strip()})
        if contexts and self.direction == "backward":
            raise ValueError(
                "this task has contexts, but direction='backward' predicts a word from the words "
                "after it; use 'forward' or 'both'"
            )
        wholes = self._score([context + continuation for context, continuation in pairs])
        if self.direction == "forward":
            rows = [whole.forward for whole in wholes]
            starts = map(self._count_words, pairs)
            return [(float(row[n:].sum()), False) for row, n in zip(rows, starts, strict=True)]
        alone = dict(zip(contexts, map(self._sum, self._score(contexts)), strict=True))
        before = [alone.get(context, 0.0) for context, _ in pairs]
        return [(self._sum(s) - b, False) for s, b in zip(wholes, before, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Score each text as running text: its lines are sentences, and states are carried."""
        texts = (request.args[0] for request in requests)
        return [sum(map(self._sum, self._score_lines(text))) for text in texts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Raise NotImplementedError: ELMo is not used to write text."""
        raise NotImplementedError(
            "ELMo scores texts and does not write any; choose tasks with output_type "
            "multiple_choice, loglikelihood or loglikelihood_rolling"
        )

    def _score(self, texts: list[str]) -> list[SentenceScores]:
        stripped = [text.strip() for text in texts]
        given = (self.model, self.tokenizer, stripped)
        return list(score_sentences(*given, batch_words=self.batch_words))

    def _score_lines(self, text: str) -> list[SentenceScores]:
        lines = [line for line in text.splitlines() if line.strip()]
        return score_text(self.model, self.tokenizer, lines) if lines else []

    def _sum(self, scores: SentenceScores) -> float:
        names = ("forward", "backward") if self.direction == "both" else (self.direction,)
        return float(sum(getattr(scores, name).sum() for name in names))

    def _count_words(self, pair: tuple[str, str]) -> int:
        """Return how many words of a pair's whole text end in its context."""
        whole, context_length = "".join(pair), len(pair[0])
        if not pair[0].strip():
            return 0
        words = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        return sum(end <= context_length for _, end in words["offset_mapping"])


__all__ = ["ElmoLM"]
