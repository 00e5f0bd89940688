# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Losses of the task heads, and checks of their labels.

Each loss is a sum over the labels, divided by the number of labels in the whole optimizer step:
`num_items_in_batch`, which Trainer counts over all batches of a gradient accumulation. Without it
the divisor is the number of labels in this call.
"""

import torch
import torch.nn.functional as F

from .engine_checks import is_concrete

NumItems = int | torch.Tensor | None
IGNORED = -100


def sequence_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None, num_items: NumItems
) -> torch.Tensor:
    """
    Return the loss of sentence labels.

    Args:
        logits: `(batch, labels)`.
        labels: `(batch,)` ids; for `"regression"` numbers `(batch,)` or `(batch, labels)`; for
            `"multi_label_classification"` 0 or 1 `(batch, labels)`. -100 is ignored, except in
            a regression.
        problem_type: as `config.problem_type`; None: derived from the labels, as in BERT.
        num_items: number of labels in the whole step; None: in this call.

    Raises:
        ValueError: the labels have the wrong shape, type or range.
    """
    batch, num_labels = logits.shape
    if problem_type is None:
        problem_type = guess_problem(num_labels, labels)
    if problem_type == "single_label_classification":
        return label_loss(logits, labels, num_items)
    expected = [(batch, num_labels)] + ([(batch,)] if num_labels == 1 else [])
    if tuple(labels.shape) not in expected:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; expected {expected[-1]} for {problem_type} "
            f"with num_labels={num_labels}"
        )
    targets = labels.view_as(logits).float()
    if problem_type == "regression":
        losses = F.mse_loss(logits.float(), targets, reduction="none")
        return _divide(losses.sum(), torch.ones_like(losses), num_items)
    given = targets.ne(IGNORED)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return _divide(losses.masked_fill(~given, 0).sum(), given, num_items)


def label_loss(logits: torch.Tensor, labels: torch.Tensor, num_items: NumItems) -> torch.Tensor:
    """
    Return the cross entropy in nats of `labels` `(...)` under `logits` `(..., labels)`.

    Raises:
        ValueError: the labels have the wrong shape, type or range.
    """
    check_label_ids(labels, logits.shape[:-1], logits.shape[-1])
    total = F.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return _divide(total, labels.ne(IGNORED), num_items)


def chain_loss(
    losses: torch.Tensor, labels: torch.Tensor, words: torch.Tensor, num_items: NumItems
) -> torch.Tensor:
    """
    Return the loss of CRF chains, in nats per labelled word.

    Args:
        losses: negative log-likelihood of each sentence `(batch,)`.
        labels: `(batch, words)`, -100 where there is no label.
        words: bool `(batch, words)`, True for the words of the chains.
        num_items: number of labels in the whole step; None: in this call.
    """
    return _divide(losses.sum(), labels.ne(IGNORED) & words, num_items)


def span_loss(
    logits: tuple[torch.Tensor, torch.Tensor],
    positions: tuple[torch.Tensor, torch.Tensor],
    allowed: torch.Tensor,
    num_items: NumItems,
) -> torch.Tensor:
    """
    Return the mean of the cross entropies of a span's start and end.

    Args:
        logits: start and end logits, `(batch, words)` each.
        positions: start and end, `(batch,)` each; ignored where out of range or not allowed.
        allowed: bool `(batch, words)`, True where a span may start or end.
        num_items: number of spans in the whole step; None: in this call.

    Raises:
        ValueError: the positions have the wrong shape or type.
    """
    losses = []
    for scores, position, name in zip(logits, positions, ("start", "end"), strict=True):
        position = position.squeeze(-1) if position.ndim == 2 else position
        _check_shape(position, scores.shape[:1], f"{name}_positions")
        inside = (position >= 0) & (position < scores.shape[1])
        places = position.clamp(0, max(scores.shape[1] - 1, 0))
        inside = inside & allowed.gather(1, places[:, None])[:, 0]
        targets = position.masked_fill(~inside, IGNORED)
        total = F.cross_entropy(scores.float(), targets, reduction="sum")
        losses.append(_divide(total, inside, num_items))
    return torch.stack(losses).mean(0)


def check_label_ids(labels: torch.Tensor, shape: torch.Size, num_labels: int) -> None:
    """Raise ValueError unless labels have this shape and are ids below `num_labels`, or -100."""
    _check_shape(labels, shape, "labels")
    # Reading the values would stall a GPU's queue, break a compiled graph and fail in vmap.
    if labels.device.type != "cpu" or not is_concrete(labels):
        return
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= num_labels))]
    if len(wrong):
        raise ValueError(
            f"labels hold {int(wrong[0])}; expected 0 to {num_labels - 1}, or -100 for no label. "
            f"For more labels, load the model with from_pretrained(..., num_labels=...)"
        )


def _check_shape(labels: torch.Tensor, shape: torch.Size, name: str) -> None:
    if labels.shape != shape:
        raise ValueError(
            f"{name} have shape {tuple(labels.shape)}; expected {tuple(shape)}, one id for each "
            + ("word of input_ids, boundary words included" if len(shape) == 2 else "example")
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name} have dtype {labels.dtype}; expected integers (torch.long)")


def guess_problem(num_labels: int, labels: torch.Tensor) -> str:
    """Return the `problem_type` that the labels of sentences suggest, as in BERT."""
    if num_labels == 1:
        return "regression"
    is_multi = labels.is_floating_point() or labels.dtype == torch.bool
    return "multi_label_classification" if is_multi else "single_label_classification"


def _divide(total: torch.Tensor, counted: torch.Tensor, num_items: NumItems) -> torch.Tensor:
    return total / (counted.sum().clamp(min=1) if num_items is None else num_items)


__all__ = [
    "NumItems",
    "chain_loss",
    "check_label_ids",
    "guess_problem",
    "label_loss",
    "sequence_loss",
    "span_loss",
]
