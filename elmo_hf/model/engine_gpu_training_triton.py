# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs
"""The pointwise part of an LSTM step in training, forward and backward: in PyTorch and in Triton.

All tensors are of one step of all directions, `(directions, rows, width)`. The rows of one
direction are contiguous. Computations have the dtype of the cell state.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .engine_gpu_triton import BLOCK, describe_kernels, find_obstacle

try:
    import triton
    import triton.language as tl

    from .engine_gpu_triton import _bound, _tanh
except ImportError:
    triton = None


class TrainingKernels(NamedTuple):
    """
    The functions that compute the pointwise part of a step.

    Args:
        update, settle: forward; arguments as in `update_plain` and `settle_plain`.
        settle_backward, update_backward: backward; arguments as in `settle_backward_plain` and
            `update_backward_plain`.
        obstacle: why these are plain operators; None: they are Triton's kernels.
        why: describes the implementation and the reason for it.
    """

    update: Callable[..., None]
    settle: Callable[..., None]
    settle_backward: Callable[..., None]
    update_backward: Callable[..., None]
    obstacle: str | None
    why: str


def find_training_kernels(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> TrainingKernels:
    """Return Triton kernels if a trial succeeds on this device and the cell state is float32."""
    if (obstacle := find_obstacle(device, dtype, _try)) is not None:
        return TrainingKernels(*PLAIN, obstacle, f"{obstacle}: plain operators")
    return TrainingKernels(*FUSED, None, describe_kernels())


def update_plain(
    z: torch.Tensor,
    valid: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    memory: torch.Tensor,
    clip: float | None,
) -> None:
    """
    Compute the new cell state, and the output before the output map.

    Args:
        z: gates before activation, `(directions, rows, 4 * cell_dim)`.
        valid: bool `(directions, rows)`, False at padding, where the cell state is kept.
        before: the old cell state, `(directions, rows, cell_dim)`.
        after: receives the new cell state.
        memory: receives the output before the output map; undefined at padding.
        clip: bound of the cell state; None: unbounded.
    """
    *_, output_gate, _, new = _activate_plain(z, before, clip)
    memory.copy_(output_gate * new.tanh())
    after.copy_(torch.where(valid[..., None], new, before))


def settle_plain(
    product: torch.Tensor,
    valid: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    clip: float | None,
) -> None:
    """Write the new hidden state to `after`: `product`, clipped; the old one at padding."""
    if clip is not None:
        product = product.clamp(-clip, clip)
    after.copy_(torch.where(valid[..., None], product, before))


def settle_backward_plain(
    flow: torch.Tensor,
    held: torch.Tensor,
    valid: torch.Tensor,
    d_output: torch.Tensor,
    product: torch.Tensor,
    d_product: torch.Tensor,
    clip: float | None,
) -> None:
    """
    Compute the gradient of the output map's product, before clipping.

    Args:
        flow, held: their sum is the gradient of the hidden state after this step, as far as it
            comes from later steps. `held` is overwritten by the sum at padding, else by 0.
        valid: bool `(directions, rows)`, False at padding.
        d_output: gradient of this step's output.
        product: the product, as it was given to `settle_plain`.
        d_product: receives the result, zero at padding.
        clip: as in `settle_plain`.
    """
    total, valid = held + flow, valid[..., None]
    gradient = total + d_output
    if clip is not None:
        gradient = torch.where(product.abs() <= clip, gradient, 0)
    d_product.copy_(torch.where(valid, gradient, 0))
    held.copy_(torch.where(valid, 0, total))


def update_backward_plain(
    z: torch.Tensor,
    valid: torch.Tensor,
    before: torch.Tensor,
    d_memory: torch.Tensor,
    d_cell: torch.Tensor,
    memory: torch.Tensor,
    clip: float | None,
) -> None:
    """
    Compute the gradient of z, in place, and that of the old cell state.

    Args:
        z, valid, before, clip: as in `update_plain`. `z` is overwritten by its gradient, zero at
            padding.
        d_memory: gradient of the output before the output map.
        d_cell: gradient of the new cell state, overwritten by that of the old one.
        memory: receives the output before the output map, zero at padding.
    """
    i, f, g, o, raw, new = _activate_plain(z, before, clip)
    valid, t = valid[..., None], new.tanh()
    d_memory = d_memory.to(before.dtype)
    d_new = d_cell + d_memory * o * (1 - t * t)
    if clip is not None:
        d_new = torch.where(raw.abs() <= clip, d_new, 0)
    d_i, d_f = d_new * g * i * (1 - i), d_new * before * f * (1 - f)
    d_g, d_o = d_new * i * (1 - g * g), d_memory * t * o * (1 - o)
    z.copy_(torch.where(valid, torch.cat([d_i, d_f, d_g, d_o], -1), 0))
    memory.copy_(torch.where(valid, o * t, 0))
    d_cell.copy_(torch.where(valid, d_new * f, d_cell))


def _activate_plain(
    z: torch.Tensor, before: torch.Tensor, clip: float | None
) -> tuple[torch.Tensor, ...]:
    """Return the four gates, and the new cell state before and after clipping."""
    i, f, g, o = z.to(before.dtype).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    raw = torch.addcmul(i * g, f, before)
    return i, f, g, o, raw, raw if clip is None else raw.clamp(-clip, clip)


# The kernels have no type annotations, because Triton would read them as its own types. Each
# program computes `block` columns of one row.

if triton is not None:

    @triton.jit
    def _place(valid, width, valid_stride, block: tl.constexpr):
        row, direction = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
        column = tl.program_id(2) * block + tl.arange(0, block)
        inside = column < width
        is_word = tl.load(valid + direction * valid_stride + row) != 0
        return direction, row * width + column, row * width * 4 + column, inside, inside & is_word

    @triton.jit
    def _widen(x):
        if x.dtype != tl.float64:
            x = x.to(tl.float32)
        return x

    @triton.jit
    def _activate(z, width, before, live, clip: tl.constexpr):
        # At padding z and the state are 0, and so are all gradients.
        i = tl.sigmoid(_widen(tl.load(z, mask=live, other=0.0)))
        f = tl.sigmoid(_widen(tl.load(z + width, mask=live, other=0.0)))
        g = _tanh(_widen(tl.load(z + 2 * width, mask=live, other=0.0)))
        o = tl.sigmoid(_widen(tl.load(z + 3 * width, mask=live, other=0.0)))
        # An explicit fma: forward and backward must agree on which values were clipped.
        raw = tl.fma(f, before, i * g)
        return i, f, g, o, raw, _bound(raw, clip)

    @triton.jit
    def _update_kernel(
        z,
        valid,
        before,
        after,
        memory,
        width,
        z_stride,
        valid_stride,
        state_stride,
        memory_stride,
        clip: tl.constexpr,
        block: tl.constexpr,
    ):
        direction, place, place_z, inside, live = _place(valid, width, valid_stride, block)
        state = direction * state_stride + place
        old = tl.load(before + state, mask=inside, other=0.0)
        z += direction * z_stride + place_z
        _, _, _, o, _, new = _activate(z, width, old, live, clip)
        output = (o * _tanh(new)).to(memory.dtype.element_ty)
        tl.store(memory + direction * memory_stride + place, output, mask=inside)
        tl.store(after + state, tl.where(live, new, old), mask=inside)

    @triton.jit
    def _settle_kernel(
        product,
        valid,
        before,
        after,
        width,
        product_stride,
        valid_stride,
        state_stride,
        clip: tl.constexpr,
        block: tl.constexpr,
    ):
        direction, place, _, inside, live = _place(valid, width, valid_stride, block)
        state = direction * state_stride + place
        new = tl.load(product + direction * product_stride + place, mask=live, other=0.0)
        new = _bound(_widen(new), clip).to(after.dtype.element_ty)
        old = tl.load(before + state, mask=inside, other=0.0)
        tl.store(after + state, tl.where(live, new, old), mask=inside)

    @triton.jit
    def _settle_backward_kernel(
        flow,
        held,
        valid,
        d_output,
        product,
        d_product,
        width,
        flow_stride,
        valid_stride,
        step_stride,
        clip: tl.constexpr,
        block: tl.constexpr,
    ):
        direction, place, _, inside, live = _place(valid, width, valid_stride, block)
        state, step = direction * flow_stride + place, direction * step_stride + place
        total = tl.load(held + state, mask=inside, other=0.0)
        total += _widen(tl.load(flow + state, mask=inside, other=0.0))
        gradient = total + _widen(tl.load(d_output + step, mask=live, other=0.0))
        if clip is not None:
            raw = _widen(tl.load(product + step, mask=live, other=0.0))
            gradient = tl.where(tl.abs(raw) <= clip, gradient, 0.0)
        gradient = tl.where(live, gradient, 0.0).to(d_product.dtype.element_ty)
        tl.store(d_product + step, gradient, mask=inside)
        tl.store(held + state, tl.where(live, 0.0, total), mask=inside)

    @triton.jit
    def _update_backward_kernel(
        z,
        valid,
        before,
        d_memory,
        d_cell,
        memory,
        width,
        z_stride,
        valid_stride,
        before_stride,
        d_memory_stride,
        d_cell_stride,
        memory_stride,
        clip: tl.constexpr,
        block: tl.constexpr,
    ):
        direction, place, place_z, inside, live = _place(valid, width, valid_stride, block)
        old = tl.load(before + direction * before_stride + place, mask=live, other=0.0)
        z += direction * z_stride + place_z
        i, f, g, o, raw, new = _activate(z, width, old, live, clip)
        t = _tanh(new)
        d_memory += direction * d_memory_stride + place
        d_m = _widen(tl.load(d_memory, mask=live, other=0.0))
        d_cell += direction * d_cell_stride + place
        d_new = tl.load(d_cell, mask=live, other=0.0) + d_m * o * (1 - t * t)
        if clip is not None:
            d_new = tl.where(tl.abs(raw) <= clip, d_new, 0.0)
        kind = z.dtype.element_ty
        tl.store(z, (d_new * g * i * (1 - i)).to(kind), mask=inside)
        tl.store(z + width, (d_new * old * f * (1 - f)).to(kind), mask=inside)
        tl.store(z + 2 * width, (d_new * i * (1 - g * g)).to(kind), mask=inside)
        tl.store(z + 3 * width, (d_m * t * o * (1 - o)).to(kind), mask=inside)
        output = (o * t).to(memory.dtype.element_ty)
        tl.store(memory + direction * memory_stride + place, output, mask=inside)
        tl.store(d_cell, d_new * f, mask=live)


def _update(
    z: torch.Tensor,
    valid: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    memory: torch.Tensor,
    clip: float | None,
) -> None:
    """Compute `update_plain` in one launch."""
    tensors = z, valid.view(torch.uint8), before, after, memory
    strides = z.stride(0), valid.stride(0), before.stride(0), memory.stride(0)
    _update_kernel[_grid(before)](*tensors, before.shape[2], *strides, clip, BLOCK)


def _settle(
    product: torch.Tensor,
    valid: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    clip: float | None,
) -> None:
    """Compute `settle_plain` in one launch."""
    tensors = product, valid.view(torch.uint8), before, after
    strides = product.stride(0), valid.stride(0), before.stride(0)
    _settle_kernel[_grid(before)](*tensors, before.shape[2], *strides, clip, BLOCK)


def _settle_backward(
    flow: torch.Tensor,
    held: torch.Tensor,
    valid: torch.Tensor,
    d_output: torch.Tensor,
    product: torch.Tensor,
    d_product: torch.Tensor,
    clip: float | None,
) -> None:
    """Compute `settle_backward_plain` in one launch."""
    tensors = flow, held, valid.view(torch.uint8), d_output, product, d_product
    strides = held.stride(0), valid.stride(0), product.stride(0)
    _settle_backward_kernel[_grid(held)](*tensors, held.shape[2], *strides, clip, BLOCK)


def _update_backward(
    z: torch.Tensor,
    valid: torch.Tensor,
    before: torch.Tensor,
    d_memory: torch.Tensor,
    d_cell: torch.Tensor,
    memory: torch.Tensor,
    clip: float | None,
) -> None:
    """Compute `update_backward_plain` in one launch."""
    tensors = z, valid.view(torch.uint8), before, d_memory, d_cell, memory
    strides = [tensor.stride(0) for tensor in tensors]
    _update_backward_kernel[_grid(before)](*tensors, before.shape[2], *strides, clip, BLOCK)


def _grid(state: torch.Tensor) -> tuple[int, int, int]:
    directions, rows, width = state.shape
    return rows, directions, triton.cdiv(width, BLOCK)


PLAIN = update_plain, settle_plain, settle_backward_plain, update_backward_plain
FUSED = _update, _settle, _settle_backward, _update_backward


def _try(device: torch.device, fused: bool) -> list[torch.Tensor]:
    """Return the results of all kernels for test values, with clipped values and padding."""
    update, settle, settle_backward, update_backward = FUSED if fused else PLAIN
    values = torch.linspace(-4.0, 4.0, 160, dtype=torch.float32, device=device)
    z, cells = values.view(2, 5, 16).clone(), values.flip(0).view(2, 2, 5, 8)[..., :4].contiguous()
    valid = torch.arange(10, device=device).view(2, 5) != 3
    memory, hiddens, d_cell = torch.zeros_like(cells), cells.flip(-1).contiguous(), z[..., :4] / 3
    update(z, valid, cells[:, 0], cells[:, 1], memory[:, 0], 1.0)
    settle(memory[:, 0], valid, hiddens[:, 0], hiddens[:, 1], 0.5)
    flow, held, d_output = (part.contiguous() for part in (z[..., 4:8], d_cell * 2, hiddens[:, 0]))
    results, d_memory = [cells, hiddens, flow, held], torch.empty_like(flow)
    settle_backward(flow, held, valid, d_output, memory[:, 0].contiguous(), d_memory, 0.5)
    update_backward(z, valid, cells[:, 0], d_memory, d_cell, memory[:, 1], 1.0)
    return [*results, d_memory, z, d_cell, memory[:, 0][valid], memory[:, 1]]


__all__ = [
    "TrainingKernels",
    "find_training_kernels",
    "settle_backward_plain",
    "settle_plain",
    "update_backward_plain",
    "update_plain",
]
