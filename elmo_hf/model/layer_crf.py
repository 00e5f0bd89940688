# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""A linear-chain conditional random field (CRF), which scores whole taggings of a sentence."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import nn

from .engine_crf import can_sum_products, log_partition
from .layer_alignment import LeftAlignment

TaggingScheme = Literal["BIO", "BIOES"]
FORBIDDEN = -1e6  # finite, because a softmax over -inf only would be NaN


class Constraints(NamedTuple):
    """Bool tensors: the tags that may start and end a sentence, and the allowed transitions."""

    start: torch.Tensor  # (labels,)
    transitions: torch.Tensor  # (labels, labels), from the row's label to the column's
    end: torch.Tensor  # (labels,)


class ElmoCrf(nn.Module):
    """
    A linear-chain CRF over the words of a sentence (Lafferty et al. 2001).

    The score of a tagging is `start + sum of emissions + sum of transitions + end`. All parameters
    start at zero, so at first the tags are independent. All methods compute in float32 or wider.
    The chain of a sentence is its words with mask True, wherever they are.

    Args:
        num_labels: size of the tag set.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.start = nn.Parameter(torch.zeros(num_labels))
        self.transitions = nn.Parameter(torch.zeros(num_labels, num_labels))
        self.end = nn.Parameter(torch.zeros(num_labels))

    def forward(
        self, emissions: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the negative log-likelihood of each sentence's labels, `(batch,)` in nats.

        For a word with label -100 it sums over all tags.

        Args:
            emissions: `(batch, words, labels)`.
            labels: `(batch, words)`, ids or -100.
            mask: bool `(batch, words)`, True for the words of the chain.
        """
        if not emissions.shape[1]:
            return emissions.new_zeros(len(emissions))
        rows = LeftAlignment(mask)
        emissions = rows.align(_at_least_float32(emissions))
        labels = rows.align(labels.masked_fill(~mask, -100))[..., None]
        tags = torch.arange(self.num_labels, device=labels.device)
        possible = labels.eq(-100) | labels.eq(tags)
        # One batch for both partition functions: of all taggings, and of those with these labels.
        chains = torch.cat([emissions, emissions.masked_fill(~possible, -torch.inf)])
        of_all, of_labels = self._log_partition(chains, rows.mask.repeat(2, 1)).chunk(2)
        return of_all - of_labels

    def decode(
        self, emissions: torch.Tensor, mask: torch.Tensor, constraints: Constraints | None = None
    ) -> torch.Tensor:
        """
        Return the best tagging `(batch, words)` by Viterbi's algorithm, -100 outside the chain.

        Args:
            emissions: `(batch, words, labels)`.
            mask: bool `(batch, words)`, True for the words of the chain.
            constraints: the allowed taggings, from `make_constraints`; None: all.
        """
        rows = LeftAlignment(mask)
        emissions = rows.align(_at_least_float32(emissions))
        start, transitions, end = self._scores(constraints)
        suffixes = _suffix_scores(emissions, rows.mask, transitions, end)
        tags: list[torch.Tensor] = []
        for t in range(emissions.shape[1]):
            before = transitions[tags[-1]] if tags else start
            tags.append((before + emissions[:, t] + suffixes[t]).argmax(-1))
        best = torch.stack(tags, 1) if tags else rows.order
        return rows.restore(best.masked_fill(~rows.mask, -100))

    def max_marginals(
        self, emissions: torch.Tensor, mask: torch.Tensor, constraints: Constraints | None = None
    ) -> torch.Tensor:
        """
        Score each tag of each word by the best tagging that contains it, `(batch, words, labels)`.

        An entry is the score of that tagging minus the score of the best tagging overall: 0 for
        the best tag, negative for the others. The argmax is the Viterbi tagging. Outside of the
        chain the result is the emissions. Arguments as in `decode`.
        """
        totals = self._totals(emissions, mask, constraints, torch.amax)
        scores = totals - totals.amax(-1, keepdim=True)
        return torch.where(mask[..., None], scores, emissions)

    def log_marginals(
        self, emissions: torch.Tensor, mask: torch.Tensor, constraints: Constraints | None = None
    ) -> torch.Tensor:
        """
        Return the log-probability of each tag of each word, `(batch, words, labels)`.

        It sums over all allowed taggings that contain the tag. Outside of the chain the result is
        the log-softmax of the emissions. Arguments as in `decode`.
        """
        totals = self._totals(emissions, mask, constraints, torch.logsumexp)
        return torch.where(mask[..., None], totals, emissions).log_softmax(-1)

    def _totals(
        self,
        emissions: torch.Tensor,
        mask: torch.Tensor,
        constraints: Constraints | None,
        combine: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        """Combine, for each tag of each word, the scores of all taggings that contain it."""
        if not emissions.shape[1]:
            return emissions
        rows = LeftAlignment(mask)
        aligned = rows.align(_at_least_float32(emissions))
        start, transitions, end = self._scores(constraints)
        prefixes = [start + aligned[:, 0]]
        for t in range(1, aligned.shape[1]):
            before = combine(prefixes[-1][:, :, None] + transitions, 1)
            prefixes.append(before + aligned[:, t])
        suffixes = _suffix_scores(aligned, rows.mask, transitions, end, combine)
        return rows.restore(torch.stack(prefixes, 1) + torch.stack(suffixes, 1))

    def _log_partition(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        start, transitions, end = self._scores(None)
        if can_sum_products(emissions, transitions, end):
            return log_partition(emissions, mask, start, transitions, end)
        scores = start + emissions[:, 0]
        for t in range(1, emissions.shape[1]):
            longer = (scores[:, :, None] + transitions).logsumexp(1) + emissions[:, t]
            scores = torch.where(mask[:, t, None], longer, scores)
        return (scores + end).logsumexp(-1)

    def _scores(self, constraints: Constraints | None) -> tuple[torch.Tensor, ...]:
        scores = tuple(map(_at_least_float32, (self.start, self.transitions, self.end)))
        if constraints is None:
            return scores
        pairs = zip(scores, constraints, strict=True)
        return tuple(
            part.masked_fill(~allowed.to(part.device), FORBIDDEN) for part, allowed in pairs
        )


@lru_cache
def make_constraints(labels: tuple[str, ...], scheme: TaggingScheme) -> Constraints:
    """
    Return the taggings that a tagging scheme allows.

    In `"BIO"` a span is B-X, then any number of I-X; in `"BIOES"` it is S-X, or B-X, any number
    of I-X, and E-X. O is outside of spans.

    Args:
        labels: names in the order of their ids.
        scheme: the tagging scheme.

    Raises:
        ValueError: a label does not belong to the scheme.
    """
    prefixes = scheme.replace("O", "")
    for label in labels:
        if label != "O" and not (label[:1] in prefixes and label[1:2] == "-" and label[2:]):
            expected = ", ".join(f"{prefix}-..." for prefix in prefixes)
            raise ValueError(
                f"label {label!r} does not belong to the tagging scheme {scheme}; expected O, "
                f"{expected}. Name the labels with id2label={{0: 'O', ...}} or drop tagging_scheme"
            )
    outside = "O"
    allowed = (
        [_may_follow(outside, label, scheme) for label in labels],
        [[_may_follow(before, after, scheme) for after in labels] for before in labels],
        [_may_follow(label, outside, scheme) for label in labels],
    )
    # Not on the meta device, where transformers creates models: the cache needs values.
    return Constraints(*(torch.tensor(part, device="cpu") for part in allowed))


def _may_follow(before: str, after: str, scheme: TaggingScheme) -> bool:
    is_inside = after[0] in "IE"
    continues = is_inside and before[0] in "BI" and before[1:] == after[1:]
    if scheme == "BIO":
        return continues or not is_inside
    is_open = before[0] in "BI"
    return continues if is_open else not is_inside


def _suffix_scores(
    emissions: torch.Tensor,
    mask: torch.Tensor,
    transitions: torch.Tensor,
    end: torch.Tensor,
    combine: Callable[..., torch.Tensor] = torch.amax,
) -> list[torch.Tensor]:
    """Return, per word of left-aligned chains, the scores `(batch, labels)` of all that follows."""
    suffix = end.expand_as(emissions[:, 0]) if emissions.shape[1] else end
    suffixes = [suffix] * emissions.shape[1]
    for t in reversed(range(emissions.shape[1] - 1)):
        longer = combine(transitions + (emissions[:, t + 1] + suffixes[t + 1])[:, None], -1)
        suffixes[t] = torch.where(mask[:, t + 1, None], longer, suffix)
    return suffixes


def _at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


__all__ = ["Constraints", "ElmoCrf", "TaggingScheme", "make_constraints"]
