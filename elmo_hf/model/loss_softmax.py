# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Cross entropy over a large vocabulary: full softmax in pieces, and sampled softmax."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from .engine_checks import is_transformed
from .engine_choice import forced_engine

# Rows whose scores are in memory at once; fewer would add to the weight's gradient too often.
ROWS_AT_ONCE = 512


def full_softmax_loss(
    hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """
    Sum the cross entropies of a full softmax, with the scores of few rows in memory at once.

    Gradients are computed in the same pass, and accumulated in float32 at least. Under autocast
    products have autocast's precision.

    Args:
        hidden: `(rows, width)`, one row for each word to predict.
        targets: the words `(rows,)`, ids of rows of the weight.
        weight: `(words, width)`.
        bias: `(words,)`.

    Returns:
        A scalar, in nats.

    Raises:
        RuntimeError: second derivatives are requested.
    """
    return _sum_losses(hidden, weight, bias, targets, None)


def sampled_softmax_loss(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    num_sampled: int,
) -> torch.Tensor:
    """
    Sum the cross entropies of each word among words drawn by frequency, as bilm-tf trains.

    TensorFlow's `sampled_softmax_loss` with its default sampler: all rows share one set of
    candidates; from every score, the target's too, the logarithm of the word's expected count
    is taken; a candidate that is the row's target does not count. The vocabulary must be sorted
    by falling frequency.

    Args, result and errors are those of `full_softmax_loss`, and:

    Args:
        num_sampled: candidates to draw, fewer than there are words.
    """
    candidates, tries = sample_words(num_sampled, len(weight))
    candidates = candidates.to(targets.device)
    columns = targets.new_full((len(weight),), -1)
    columns[candidates] = torch.arange(num_sampled, device=targets.device)

    # One look into the weight, whose gradient is as large as the weight itself.
    distinct, places = targets.unique(return_inverse=True)
    ids = torch.cat([candidates, distinct])
    precision = torch.promote_types(weight.dtype, torch.float32)
    rows = F.embedding(ids, weight).to(precision)  # (num_sampled + distinct, width)
    counts = expected_counts(ids, tries, len(weight)).log()
    biases = bias.to(precision)[ids] - counts.to(precision)
    chosen, own = rows.split([num_sampled, len(distinct)])
    chosen_bias, own_bias = biases.split([num_sampled, len(distinct)])
    true = (hidden.to(precision) * own[places]).sum(-1) + own_bias[places]
    return _sum_losses(hidden, chosen, chosen_bias, columns[targets], true)


def sample_words(count: int, words: int) -> tuple[torch.Tensor, int]:
    """
    Draw different words from TensorFlow's log-uniform distribution, P(k) = log((k + 2) / (k + 1)).

    Words are drawn one after another until there are enough different ones. torch's generator of
    the CPU decides, whatever device the model is on.

    Args:
        count: how many, at most `words`.
        words: size of the vocabulary, the most frequent word first.

    Returns:
        Their ids `(count,)`, and how many had to be drawn.
    """
    draws = torch.empty(0, dtype=torch.long, device="cpu")
    while True:
        draws = torch.cat([draws, draw_words(max(2 * count, len(draws)), words)])
        order = torch.arange(len(draws), device="cpu")
        first = torch.full((words,), len(draws), device="cpu")
        first.scatter_reduce_(0, draws, order, "amin")
        found = (first[draws] == order).nonzero()[:, 0]  # where a word comes for the first time
        if len(found) >= count:
            return draws[found[:count]], int(found[count - 1]) + 1


def draw_words(count: int, words: int) -> torch.Tensor:
    """Draw `(count,)` words, equal ones among them, from the log-uniform distribution."""
    uniform = torch.rand(count, dtype=torch.float64, device="cpu")
    return uniform.mul_(math.log(words + 1)).exp_().long().sub_(1).clamp_(max=words - 1)


def expected_counts(ids: torch.Tensor, tries: int, words: int) -> torch.Tensor:
    """The probability, in float64, that `tries` draws contain each word."""
    probability = (1 / (ids.double() + 1)).log1p() / math.log(words + 1)
    return -torch.expm1(tries * torch.log1p(-probability))


def _sum_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    columns: torch.Tensor,
    true: torch.Tensor | None,
) -> torch.Tensor:
    """
    Sum the rows' cross entropies among the words of `weight`.

    Args:
        columns: `(rows,)`, the index of each row's target among the words, -1 if it is not there.
        true: scores of the targets `(rows,)`, used in place of those among the words; or None.
    """
    if forced_engine() == "reference" or is_transformed():
        return _sum_plainly(hidden, weight, bias, columns, true)
    return _CrossEntropy.apply(hidden, weight, bias, columns, true)


def _sum_plainly(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    columns: torch.Tensor,
    true: torch.Tensor | None,
) -> torch.Tensor:
    """What `_CrossEntropy` computes, with all scores in memory."""
    scores = F.linear(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if true is None:
        return F.cross_entropy(scores, columns, reduction="sum")
    words = torch.arange(len(weight), device=columns.device)
    scores = scores.masked_fill(columns[:, None] == words, -torch.inf)
    scores = torch.cat([true.to(scores.dtype)[:, None], scores], 1)
    return F.cross_entropy(scores, torch.zeros_like(columns), reduction="sum")


class _CrossEntropy(torch.autograd.Function):
    """For one piece of the rows after another: scores, losses, and the gradients of their sum."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        columns: torch.Tensor,
        true: torch.Tensor | None,
    ) -> torch.Tensor:
        needed = (*ctx.needs_input_grad[:3], ctx.needs_input_grad[4])
        sums = _Sums(hidden, weight, bias, columns, true, needed)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), ROWS_AT_ONCE):
                sums.add(slice(start, start + ROWS_AT_ONCE))
        ctx.save_for_backward(*sums.gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias, true)]
        return sums.loss

    @staticmethod
    def backward(ctx: Any, d_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the gradient of a gradient was asked for (create_graph=True), and the fast "
                'softmax has first derivatives only; run the model under use_engine("reference"), '
                "which is differentiable any number of times"
            )
        d_hidden, d_weight, d_bias, d_true = (
            None if gradient is None else (gradient * d_loss).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return d_hidden, d_weight, d_bias, None, d_true


class _Sums:
    """The losses summed so far, and the gradients for hidden, weight, bias and true."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        columns: torch.Tensor,
        true: torch.Tensor | None,
        needed: tuple[bool, ...],
    ) -> None:
        dtype = _product_dtype(hidden)
        precision = torch.promote_types(dtype, torch.float32)
        self.hidden, self.weight = hidden.to(dtype), weight.to(dtype)
        self.bias = bias.to(precision)
        self.columns, self.true = columns, None if true is None else true.to(precision)
        shape = (min(ROWS_AT_ONCE, len(hidden)), len(weight))
        # Kept from piece to piece: fresh memory is slow to come.
        self.products = hidden.new_empty(shape, dtype=dtype)
        self.scores = self.products if dtype == precision else self.products.to(precision)
        self.loss = hidden.new_zeros((), dtype=precision)
        inputs = (hidden, weight, bias, true)
        self.gradients = [
            torch.zeros_like(x, dtype=precision) if x is not None and wanted else None
            for x, wanted in zip(inputs, needed, strict=True)
        ]

    def add(self, rows: slice) -> None:
        """Add the losses and gradients of some rows."""
        hidden, columns = self.hidden[rows], self.columns[rows, None]
        products = torch.mm(hidden, self.weight.t(), out=self.products[: len(hidden)])
        scores = self.scores[: len(hidden)]
        torch.add(products, self.bias, out=scores)
        if self.true is None:
            own = scores.gather(1, columns)  # (rows, 1)
        else:
            own = self.true[rows, None]
            place = columns.clamp(min=0)
            kept = scores.gather(1, place).masked_fill_(columns >= 0, -torch.inf)
            scores.scatter_(1, place, kept)
        highest = torch.maximum(scores.amax(1, keepdim=True), own)
        scores.sub_(highest).exp_()
        total = scores.sum(1, keepdim=True)
        if self.true is not None:
            total += (own - highest).exp_()
        self.loss += (total.log() + highest - own).sum()
        if any(gradient is not None for gradient in self.gradients):
            self._add_gradients(rows, scores.div_(total), (own - highest).exp_() / total)

    def _add_gradients(self, rows: slice, shares: torch.Tensor, own: torch.Tensor) -> None:
        """Add the gradients, from the probabilities of the words and of the target `(rows, 1)`."""
        d_hidden, d_weight, d_bias, d_true = self.gradients
        if self.true is None:
            shares.scatter_add_(1, self.columns[rows, None], torch.full_like(own, -1))
        if d_true is not None:
            d_true[rows] = own[:, 0] - 1
        if d_bias is not None:
            d_bias += shares.sum(0)
        shares = self.products[: len(shares)].copy_(shares)  # nothing to do in one precision
        if d_hidden is not None:
            d_hidden[rows] = shares @ self.weight
        if d_weight is None:
            return
        if shares.dtype == d_weight.dtype:
            d_weight.addmm_(shares.t(), self.hidden[rows])
        else:
            d_weight += shares.t() @ self.hidden[rows]


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


__all__ = [
    "draw_words",
    "expected_counts",
    "full_softmax_loss",
    "sample_words",
    "sampled_softmax_loss",
]
