# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Cross entropy over a large vocabulary: memory-saving full softmax, and sampled softmax."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from .engine_checks import is_transformed, product_dtype, second_derivative_error
from .engine_choice import forced_engine

# Rows whose logits are in memory at once. Fewer rows: too many additions to the weight's gradient.
ROWS_AT_ONCE = 512
# A GPU takes more rows of a small vocabulary, because launching a kernel takes as long for few.
LOGITS_ON_GPU = 1 << 26  # 256 MB in float32


def full_softmax_loss(
    hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """
    Sum the cross entropies of a full softmax, with the logits of few rows in memory at once.

    Gradients are computed in the same pass, and accumulated in float32 or wider. Under autocast,
    products have autocast's dtype.

    Args:
        hidden: `(rows, width)`, one row for each word to predict.
        targets: ids of these words `(rows,)`.
        weight: `(words, width)`, one row for each word of the vocabulary.
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
    Sum the cross entropies of a sampled softmax, as in bilm-tf's training.

    It is TensorFlow's `sampled_softmax_loss` with its default sampler: all rows share one set of
    negative samples. The logarithm of a word's expected count is subtracted from its logit, also
    for targets. A negative sample that is the row's target is left out. The vocabulary must be
    sorted by falling frequency.

    Arguments, result and errors as in `full_softmax_loss`, and:

    Args:
        num_sampled: number of negative samples, less than the number of words.
    """
    candidates, tries = sample_words(num_sampled, len(weight))
    candidates = candidates.to(targets.device)
    columns = targets.new_full((len(weight),), -1)
    columns[candidates] = torch.arange(num_sampled, device=targets.device)

    # A single embedding lookup: each would allocate a gradient as large as the weight.
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
    Draw distinct words from TensorFlow's log-uniform distribution, P(k) ~ log((k + 2) / (k + 1)).

    Words are drawn with replacement until `count` of them are distinct. The random numbers come
    from torch's CPU generator, whatever the model's device is.

    Args:
        count: number of distinct words, at most `words`.
        words: size of the vocabulary, the most frequent word first.

    Returns:
        Their ids `(count,)`, and the number of draws.

    Raises:
        ValueError: there are fewer than `count` words.
    """
    if count > words:
        raise ValueError(f"cannot draw {count} different words from a vocabulary of {words}")
    draws = torch.empty(0, dtype=torch.long, device="cpu")
    while True:
        draws = torch.cat([draws, draw_words(max(2 * count, len(draws)), words)])
        order = torch.arange(len(draws), device="cpu")
        first = torch.full((words,), len(draws), device="cpu")
        first.scatter_reduce_(0, draws, order, "amin")
        found = (first[draws] == order).nonzero()[:, 0]  # each word's first occurrence
        if len(found) >= count:
            return draws[found[:count]], int(found[count - 1]) + 1


def draw_words(count: int, words: int) -> torch.Tensor:
    """Draw words `(count,)` with replacement from the log-uniform distribution."""
    uniform = torch.rand(count, dtype=torch.float64, device="cpu")
    return uniform.mul_(math.log(words + 1)).exp_().long().sub_(1).clamp_(max=words - 1)


def expected_counts(ids: torch.Tensor, tries: int, words: int) -> torch.Tensor:
    """Return the probability, in float64, that `tries` draws contain each word."""
    probability = (1 / (ids.double() + 1)).log1p() / math.log(words + 1)
    return -torch.expm1(tries * torch.log1p(-probability))


def rows_at_once(device: torch.device, words: int) -> int:
    """Return how many rows' logits for a vocabulary of this size are in memory at once."""
    return max(ROWS_AT_ONCE, LOGITS_ON_GPU // words) if device.type == "cuda" else ROWS_AT_ONCE


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
        columns: `(rows,)`, index of each row's target in `weight`; -1: not in `weight`.
        true: logits of the targets `(rows,)`, replacing those from `weight`; None: no replacement.
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
    """Compute the result of `_CrossEntropy` with all logits in memory, for any derivatives."""
    scores = F.linear(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if true is None:
        return F.cross_entropy(scores, columns, reduction="sum")
    words = torch.arange(len(weight), device=columns.device)
    scores = scores.masked_fill(columns[:, None] == words, -torch.inf)
    scores = torch.cat([true.to(scores.dtype)[:, None], scores], 1)
    return F.cross_entropy(scores, torch.zeros_like(columns), reduction="sum")


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy that computes its gradients in the forward pass, few rows at a time."""

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
        step = rows_at_once(hidden.device, len(weight))
        sums = _Sums(hidden, weight, bias, columns, true, needed, step)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), step):
                sums.add(slice(start, start + step))
        ctx.save_for_backward(*sums.gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias, true)]
        return sums.loss

    @staticmethod
    def backward(ctx: Any, d_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise second_derivative_error("the fast softmax")
        d_hidden, d_weight, d_bias, d_true = (
            None if gradient is None else (gradient * d_loss).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return d_hidden, d_weight, d_bias, None, d_true


class _Sums:
    """Running sums of the losses and of the gradients of hidden, weight, bias and true."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        columns: torch.Tensor,
        true: torch.Tensor | None,
        needed: tuple[bool, ...],
        rows: int,
    ) -> None:
        dtype = product_dtype(hidden)
        precision = torch.promote_types(dtype, torch.float32)
        self.hidden, self.weight = hidden.to(dtype), weight.to(dtype)
        self.bias = bias.to(precision)
        self.columns, self.true = columns, None if true is None else true.to(precision)
        shape = (min(rows, len(hidden)), len(weight))
        # Buffers for all calls of `add`, because allocating memory is slow.
        self.products = hidden.new_empty(shape, dtype=dtype)
        self.scores = self.products if dtype == precision else self.products.to(precision)
        self.loss = hidden.new_zeros((), dtype=precision)
        inputs = (hidden, weight, bias, true)
        self.gradients = [
            torch.zeros_like(x, dtype=precision) if x is not None and wanted else None
            for x, wanted in zip(inputs, needed, strict=True)
        ]

    def add(self, rows: slice) -> None:
        """Add the losses and gradients of a slice of the rows."""
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
        """Add the gradients, given the probabilities of all words and of the target `(rows, 1)`."""
        d_hidden, d_weight, d_bias, d_true = self.gradients
        if self.true is None:
            shares.scatter_add_(1, self.columns[rows, None], torch.full_like(own, -1))
        if d_true is not None:
            d_true[rows] = own[:, 0] - 1
        if d_bias is not None:
            d_bias += shares.sum(0)
        shares = self.products[: len(shares)].copy_(shares)  # the same memory if dtypes are equal
        if d_hidden is not None:
            d_hidden[rows] = shares @ self.weight
        if d_weight is None:
            return
        if shares.dtype == d_weight.dtype:
            d_weight.addmm_(shares.t(), self.hidden[rows])
        else:
            d_weight += shares.t() @ self.hidden[rows]


__all__ = [
    "draw_words",
    "expected_counts",
    "full_softmax_loss",
    "rows_at_once",
    "sample_words",
    "sampled_softmax_loss",
]
