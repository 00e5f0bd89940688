# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The partition function of a CRF by matrix products, with a hand-written backward pass."""

from typing import Any, cast

import torch

from .engine_checks import is_transformed, second_derivative_error
from .engine_choice import forced_engine

# exp underflows at -708 in float64. If the transitions and the end scores each span at most 300
# nats, a tag whose probability underflows cannot be part of a likely tagging.
WIDEST_RANGE = 300.0  # nats


def can_sum_products(emissions: torch.Tensor, transitions: torch.Tensor, end: torch.Tensor) -> bool:
    """Whether `log_partition` may be used: on a CPU, not in a graph, and without underflow."""
    if emissions.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if forced_engine() == "reference" or is_transformed():
        return False
    with torch.no_grad():
        ranges = [scores.max() - scores.min() for scores in (transitions, end)]
        return all(found <= WIDEST_RANGE for found in ranges)


def log_partition(
    emissions: torch.Tensor,
    mask: torch.Tensor,
    start: torch.Tensor,
    transitions: torch.Tensor,
    end: torch.Tensor,
) -> torch.Tensor:
    """
    Return the log of the sum of e^score over all taggings of each chain, `(batch,)`.

    It is the forward-backward algorithm in float64, with probabilities scaled at every word
    (Rabiner 1989); the gradients are the marginals. Second derivatives raise RuntimeError.

    Args:
        emissions: `(batch, words, labels)`, -inf for tags that a word cannot have.
        mask: bool `(batch, words)`, left-aligned; the first word is always part of the chain.
        start, transitions, end: `(labels,)`, `(labels, labels)`, `(labels,)`.
    """
    return cast(torch.Tensor, _LogPartition.apply(emissions, mask, start, transitions, end))


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, emissions: torch.Tensor, mask: torch.Tensor, *scores: torch.Tensor
    ) -> torch.Tensor:
        start, transitions, end = (part.double() for part in scores)
        maps = (transitions - transitions.max()).exp()  # (labels, labels)
        steps = emissions.double().clone().transpose(0, 1)  # (words, batch, labels)
        steps[0] += start
        highest = steps.amax(-1, keepdim=True)
        steps = (steps - highest).exp()
        inside = mask.t()[..., None]  # (words, batch, 1)
        reached = [_scaled(steps[0])]
        sums = [steps[0].sum(-1)]
        for t in range(1, len(steps)):
            longer = (reached[-1] @ maps) * steps[t]
            reached.append(torch.where(inside[t], _scaled(longer), reached[-1]))
            sums.append(longer.sum(-1))
        last = (end - end.max()).exp()
        ctx.save_for_backward(maps, steps, torch.stack(reached), last, inside)
        ctx.types = emissions.dtype, [part.dtype for part in scores]
        growth = torch.stack(sums).log() + highest[..., 0]
        growth[1:] = (growth[1:] + transitions.max()).masked_fill(~inside[1:, :, 0], 0)
        return (growth.sum(0) + (reached[-1] @ last).log() + end.max()).to(emissions.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise second_derivative_error("the fast CRF")
        maps, steps, reached, last, inside = ctx.saved_tensors
        weight = gradient.double()[:, None]
        outlook = last.expand_as(reached[0])
        marginals = [weight * _scaled(reached[-1] * outlook)]
        of_end, of_maps = marginals[0].sum(0), torch.zeros_like(maps)
        for t in range(len(steps) - 1, 0, -1):
            ahead = steps[t] * outlook
            earlier = ahead @ maps.t()
            # Words after the end of a chain have no gradient.
            share = weight * inside[t] / (reached[t - 1] * earlier).sum(-1, keepdim=True)
            of_maps += reached[t - 1].t() @ (ahead * share)
            outlook = torch.where(inside[t], _scaled(earlier), outlook)
            marginals.append(weight * _scaled(reached[t - 1] * outlook))
        of_emissions = torch.stack(marginals[::-1])
        of_start = of_emissions[0].sum(0)
        of_emissions[1:] *= inside[1:]
        found = (of_start, of_maps * maps, of_end)
        emissions_type, types = ctx.types
        of_scores = [part.to(dtype) for part, dtype in zip(found, types, strict=True)]
        return of_emissions.transpose(0, 1).to(emissions_type), None, *of_scores


def _scaled(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum(-1, keepdim=True)


__all__ = ["can_sum_products", "log_partition"]
