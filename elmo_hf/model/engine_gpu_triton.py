# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs
"""The pointwise part of an LSTM step, for all directions at once: in PyTorch, and fused in Triton.

Apart from its products, the time of a step is that of launching small operators and of reading and
writing memory. So each of the two kernels here reads its inputs once and writes its results once.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 256  # columns of a kernel's program
Trial = Callable[[torch.device, bool], list[torch.Tensor]]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Kernels(NamedTuple):
    """
    The two functions that compute the pointwise part.

    Args:
        update: computes the new cell state; arguments as in `update_plain`.
        settle: computes the new hidden state; arguments as in `settle_plain`.
        why: describes the implementation and the reason for it.
    """

    update: Callable[..., None]
    settle: Callable[..., None]
    why: str


def find_kernels(device: torch.device, dtype: torch.dtype = torch.float32) -> Kernels:
    """Return Triton kernels if a trial succeeds on this device and the cell state is float32."""
    if (obstacle := find_obstacle(device, dtype, _try)) is not None:
        return Kernels(update_plain, settle_plain, f"{obstacle}: plain operators")
    return Kernels(_update, _settle, describe_kernels())


def find_obstacle(device: torch.device, dtype: torch.dtype, trial: Trial) -> str | None:
    """
    Return why kernels cannot be used on this device; None if they can.

    Args:
        dtype: of the cell state.
        trial: computes test values on a device, with plain operators (False) or the kernels (True).
    """
    if dtype != torch.float32:
        return f"the cell state is {dtype}"
    return _try_once(device, trial)


def describe_kernels() -> str:
    """Return what `engine_info()` says about kernels that are used."""
    place = ", interpreted" if INTERPRETED else ""
    return f"fused kernels by Triton {triton.__version__}{place}"


def update_plain(
    gates: torch.Tensor,
    sums: torch.Tensor,
    bias: torch.Tensor,
    valid: torch.Tensor,
    cell: torch.Tensor,
    memory: torch.Tensor,
    clip: float | None,
) -> None:
    """
    Compute the new cell state, and the output before the output map.

    Args:
        gates, sums: products of the input and recurrent map, `(directions, rows, 4 * cell_dim)`.
        bias: `(directions, 1, 4 * cell_dim)`.
        valid: bool `(directions, rows)`, False at padding, where the cell state is kept.
        cell: cell state `(directions, rows, cell_dim)`, overwritten.
        memory: receives the output before the output map, shaped as `cell`; undefined at padding.
        clip: bound of the cell state; None: unbounded.
    """
    total = gates.to(cell.dtype) + sums + bias
    input_gate, forget_gate, candidate, output_gate = total.chunk(4, -1)
    new = input_gate.sigmoid() * candidate.tanh() + forget_gate.sigmoid() * cell
    if clip is not None:
        new = new.clamp(-clip, clip)
    memory.copy_(output_gate.sigmoid() * new.tanh())
    cell.copy_(torch.where(valid[..., None], new, cell))


def settle_plain(
    product: torch.Tensor,
    valid: torch.Tensor,
    hidden: torch.Tensor,
    outputs: torch.Tensor,
    clip: float | None,
) -> None:
    """Clip `product` `(directions, rows, projection_dim)`; write `outputs` and `hidden`."""
    if clip is not None:
        product = product.clamp(-clip, clip)
    valid = valid[..., None]
    outputs.copy_(torch.where(valid, product, 0))
    hidden.copy_(torch.where(valid, product, hidden))


# The kernels have no type annotations, because Triton would read them as its own types.

if triton is not None:

    @triton.jit
    def _bound(x, clip: tl.constexpr):
        # Comparisons keep NaN; minimum and maximum would hide it.
        if clip is not None:
            x = tl.where(x > clip, clip, tl.where(x < -clip, -clip, x))
        return x

    @triton.jit
    def _tanh(x):
        return 2 * tl.sigmoid(2 * x) - 1

    @triton.jit
    def _sum(gate, sums, bias, inside):
        total = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(sums, mask=inside, other=0.0).to(tl.float32)
        return total + tl.load(bias, mask=inside, other=0.0).to(tl.float32)

    @triton.jit
    def _update_kernel(
        gates,
        sums,
        bias,
        valid,
        cell,
        memory,
        width,
        gates_stride,
        valid_stride,
        clip: tl.constexpr,
        block: tl.constexpr,
    ):
        place, direction = tl.program_id(0).to(tl.int64), tl.program_id(1)
        row = direction * tl.num_programs(0) + place
        column = tl.program_id(2) * block + tl.arange(0, block)
        # At padding no column is inside.
        inside = column < width * tl.load(valid + direction * valid_stride + place).to(tl.int32)
        gates += direction * gates_stride + place * 4 * width + column
        sums += row * 4 * width + column
        bias += direction * 4 * width + column
        input_gate = tl.sigmoid(_sum(gates, sums, bias, inside))
        gates, sums, bias = gates + width, sums + width, bias + width
        forget_gate = tl.sigmoid(_sum(gates, sums, bias, inside))
        gates, sums, bias = gates + width, sums + width, bias + width
        candidate = _tanh(_sum(gates, sums, bias, inside))
        gates, sums, bias = gates + width, sums + width, bias + width
        output_gate = tl.sigmoid(_sum(gates, sums, bias, inside))
        old = tl.load(cell + row * width + column, mask=inside, other=0.0)
        new = _bound(input_gate * candidate + forget_gate * old, clip)
        tl.store(cell + row * width + column, new, mask=inside)
        output = (output_gate * _tanh(new)).to(memory.dtype.element_ty)
        tl.store(memory + row * width + column, output, mask=inside)

    @triton.jit
    def _settle_kernel(
        product,
        valid,
        hidden,
        outputs,
        width,
        outputs_stride,
        valid_stride,
        clip: tl.constexpr,
        block: tl.constexpr,
    ):
        place, direction = tl.program_id(0).to(tl.int64), tl.program_id(1)
        row = direction * tl.num_programs(0) + place
        column = tl.program_id(2) * block + tl.arange(0, block)
        inside = column < width * tl.load(valid + direction * valid_stride + place).to(tl.int32)
        value = tl.load(product + row * width + column, mask=inside, other=0.0)
        value = _bound(value.to(tl.float32), clip).to(outputs.dtype.element_ty)
        outputs += direction * outputs_stride + place * width + column
        tl.store(outputs, value, mask=column < width)
        tl.store(hidden + row * width + column, value, mask=inside)


def _update(
    gates: torch.Tensor,
    sums: torch.Tensor,
    bias: torch.Tensor,
    valid: torch.Tensor,
    cell: torch.Tensor,
    memory: torch.Tensor,
    clip: float | None,
) -> None:
    """Compute `update_plain` in one launch."""
    directions, rows, width = cell.shape
    strides = gates.stride(0), valid.stride(0)
    tensors = gates, sums, bias, valid.view(torch.uint8), cell, memory
    grid = rows, directions, triton.cdiv(width, BLOCK)
    _update_kernel[grid](*tensors, width, *strides, clip, BLOCK)


def _settle(
    product: torch.Tensor,
    valid: torch.Tensor,
    hidden: torch.Tensor,
    outputs: torch.Tensor,
    clip: float | None,
) -> None:
    """Compute `settle_plain` in one launch."""
    directions, rows, width = hidden.shape
    strides = outputs.stride(0), valid.stride(0)
    grid = rows, directions, triton.cdiv(width, BLOCK)
    tensors = product, valid.view(torch.uint8), hidden, outputs
    _settle_kernel[grid](*tensors, width, *strides, clip, BLOCK)


@functools.cache
def _try_once(device: torch.device, trial: Trial) -> str | None:
    if triton is None:
        return "Triton is not installed"
    if device.type != "cuda" and not INTERPRETED:
        return "Triton needs a GPU"
    try:
        with torch.cuda.device_of(torch.empty(0, device=device)):
            plain, fused = trial(device, False), trial(device, True)
    except Exception as error:  # from Triton's compiler, the driver or the linker
        return f"Triton fails here ({type(error).__name__}: {str(error)[:80]})"
    agree = (torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, fused, strict=True))
    return None if all(agree) else "Triton's kernels give other values here"


def _try(device: torch.device, fused: bool) -> list[torch.Tensor]:
    """Return the results of both kernels for test values, with clipped values and padding."""
    update, settle = (_update, _settle) if fused else (update_plain, settle_plain)
    values = torch.linspace(-4.0, 4.0, 160, dtype=torch.float32, device=device)
    gates, sums = values.view(2, 5, 16), values.flip(0).view(2, 5, 16) / 3
    cell, memory = values[:40].view(2, 5, 4).clone(), values.new_zeros(2, 5, 4)
    valid = torch.arange(10, device=device).view(2, 5) != 3
    hidden, outputs = values[80:120].view(2, 5, 4).clone(), values.new_zeros(2, 5, 4)
    update(gates, sums, values[:32].view(2, 1, 16), valid, cell, memory, 1.0)
    settle(memory, valid, hidden, outputs, 0.5)
    return [cell, outputs, hidden]


__all__ = [
    "Kernels",
    "Trial",
    "describe_kernels",
    "find_kernels",
    "find_obstacle",
    "settle_plain",
    "update_plain",
]
