# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Decide whether the `gpu_training` engine can be used: by one trial of the whole engine."""

import functools
import math
from collections.abc import Sequence

import torch

from .engine_checks import product_dtype
from .engine_gpu_training import GpuTrainer
from .engine_gpu_training_triton import find_training_kernels
from .engine_training import clipped_lstm
from .engine_weights import LstmSettings, LstmWeights

Result = tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]


def find_gpu_training_obstacle(tensors: Sequence[torch.Tensor], weights: LstmWeights) -> str | None:
    """Return why a GPU cannot train with `(inputs, hidden, cell)` and weights; None if it can."""
    cell, maps = tensors[-1], [weight for weight in weights if weight is not None]
    dtype = product_dtype(weights.input_weight)
    if cell.device.type != "cuda" or any(t.device != cell.device for t in [*tensors, *maps]):
        return "the tensors are not on one GPU"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the products are {dtype}"
    if any(product_dtype(weight) != dtype for weight in maps):
        return "the weights' dtypes differ"
    return find_training_kernels(cell.device, cell.dtype).obstacle or try_training(cell.device)


@functools.cache
def try_training(device: torch.device) -> str | None:
    """Return how the engine, its graphs included, fails for test values; None if it does not."""
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            expected, *found = _compute(device)
    except Exception as error:  # from the driver, the allocator or a capture
        return f"a trial of the engine fails ({type(error).__name__}: {str(error)[:80]})"
    pairs = [pair for results in found for pair in zip(results, expected, strict=True)]
    # More than the rounding of products in TF32, and less than any mistake.
    agree = all((one - other).norm() <= 0.01 * other.norm() for one, other in pairs)
    return None if agree else "a trial of the engine gives other values"


def _compute(device: torch.device) -> list[list[torch.Tensor]]:
    """Return values and gradients of `clipped_lstm` and of three calls: the last replays graphs."""
    shapes = (2, 5, 3), (2, 3), (2, 4), (16, 3), (16,), (16, 3), (3, 4)
    sizes = [math.prod(shape) for shape in shapes]
    values = torch.arange(sum(sizes), dtype=torch.float32, device=device).mul(1.7).sin()
    parts = values.split(sizes)
    sources = [one.view(shape).requires_grad_() for one, shape in zip(parts, shapes, strict=True)]
    inputs, hidden, cell, *maps = sources
    mask = torch.arange(10, device=device).view(2, 5) < 7
    settings = [LstmSettings(0.5, 0.5, reverse) for reverse in (False, True)]
    arguments = [LstmWeights(*maps)] * 2, settings, [inputs] * 2, [mask] * 2, [(hidden, cell)] * 2

    def run_plain() -> list[Result]:
        return [
            clipped_lstm(
                *(inputs, mask, hidden, cell, *maps),
                cell_clip=one.cell_clip,
                projection_clip=one.projection_clip,
                reverse=one.reverse,
            )
            for one in settings
        ]

    trainer, results = GpuTrainer(), []
    for run in (run_plain, *3 * [lambda: trainer.run(*arguments)]):
        parts = [part for outputs, state in run() for part in (outputs, *state)]
        gradients = torch.autograd.grad(parts, sources, [part.detach() for part in parts])
        results.append([*parts, *gradients])
    return results


__all__ = ["find_gpu_training_obstacle", "try_training"]
