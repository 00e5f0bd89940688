# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The `cpu_training` engine: ELMo's LSTM with a hand-written backward pass, for any device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .engine_checks import differentiable_once, product_dtype
from .engine_onednn import PreparedMap, add_product, find_operators, multiply, prepare_map
from .engine_packing import Packing
from .engine_training_compiled import Kernels, find_kernels

State = tuple[torch.Tensor, torch.Tensor]
_Step = tuple[slice, slice, slice]

# Converting a weight to oneDNN's layout pays from this size and number of products on.
PACKED_WEIGHTS = 100_000
PACKED_PRODUCTS = 12
# Values of the gates for which the backward pass computes its factors at once: 4 MB in float32.
BLOCK_VALUES = 1 << 20
# oneDNN makes a kernel for each number of rows; above this number, multiples of it are enough.
ROUNDED_ROWS = 8


def clipped_lstm(
    inputs: torch.Tensor,
    mask: torch.Tensor,
    hidden: torch.Tensor,
    cell: torch.Tensor,
    input_weight: torch.Tensor,
    input_bias: torch.Tensor,
    recurrent_weight: torch.Tensor,
    output_weight: torch.Tensor | None,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    reverse: bool,
    recompute: bool = False,
) -> tuple[torch.Tensor, State]:
    """
    Compute the result of `ElmoLstm.run_reference`, with a fast backward pass.

    The cell is TensorFlow's `LSTMCell` with both clips, as trained by Peters et al. 2018. Padding
    is skipped and leaves the states unchanged, wherever it is. Products have the dtype of the
    weights, or autocast's; the cell state keeps its dtype.

    Args:
        inputs: `(batch, words, projection_dim)`.
        mask: bool `(batch, words)`, False at padding.
        hidden: initial hidden state `(batch, projection_dim)`.
        cell: initial cell state `(batch, cell_dim)`.
        input_weight: `(4 * cell_dim, projection_dim)`; gate rows input, forget, candidate, output.
        input_bias: `(4 * cell_dim,)`.
        recurrent_weight: `(4 * cell_dim, projection_dim)`.
        output_weight: `(projection_dim, cell_dim)`; None: no projection.
        cell_clip: bound of the cell state; None: unbounded.
        projection_clip: bound of the projected output; None: unbounded.
        reverse: read from the last word to the first.
        recompute: recompute the gates in the backward pass; saves about 80 % of the memory that
            the call keeps for it.

    Returns:
        Outputs `(batch, words, projection_dim)`, zero at padding, and the states after each
        sentence's last word.

    Raises:
        RuntimeError: second derivatives are requested.
    """
    dtype, has_projection = product_dtype(input_weight), output_weight is not None
    plan = _make_plan(
        mask,
        reverse,
        cell_clip,
        projection_clip if has_projection else None,
        recompute,
        dtype,
        find_kernels(dtype, cell) if has_projection else None,
    )
    weights = (input_weight, input_bias, recurrent_weight, output_weight)
    outputs, hidden, cell = _ClippedLstm.apply(inputs, hidden, cell, plan, *weights)
    return outputs, (hidden, cell)


@dataclass(frozen=True)
class _Plan:
    """
    All arguments of a call that have no gradients.

    The functions below use tables of states `(batch + words, ...)`: first the initial states of
    the sentences, sorted as in `packing`, then the state after each packed word.
    """

    packing: Packing
    before: torch.Tensor  # (words,) table index of the state before each packed word
    last: torch.Tensor  # (batch,) table index of each sorted sentence's final state
    cell_clip: float | None
    projection_clip: float | None
    recompute: bool
    dtype: torch.dtype  # of the products
    kernels: Kernels | None  # None: PyTorch's operators

    def steps(self) -> list[_Step]:
        """Return slices for each step: packed words, and table rows before and after them."""
        batch, offsets = self.packing.batch, self.packing.offsets.tolist()
        starts = [0, *(batch + offset for offset in offsets)]
        steps = zip(self.packing.sizes, offsets, starts, starts[1:], strict=False)
        return [(_rows(w, n), _rows(x, n), _rows(y, n)) for n, w, x, y in steps]


def _make_plan(mask: torch.Tensor, reverse: bool, *settings: Any) -> _Plan:
    packing = Packing(mask, reverse)
    batch, sizes = packing.batch, packing.sizes
    # In the table, the states before and after a word are this far apart.
    distances = np.repeat([batch, *sizes][:-1], np.array(sizes, dtype=np.int64)).astype(np.int64)
    before = np.arange(batch, batch + sum(sizes)) - distances
    last = np.arange(batch)
    places, alive = packing.last_words()
    last[:alive] = batch + places.numpy()
    on_device = [torch.from_numpy(table).to(mask.device) for table in (before, last)]
    return _Plan(packing, on_device[0], on_device[1], *settings)


def _rows(start: int, size: int) -> slice:
    return slice(start, start + size)


class _ClippedLstm(torch.autograd.Function):
    """
    LSTM with clips and a hand-written backward pass; for a word x and the previous (h, c)::

        z = Wx x + b + Wh h         i, f, o = sigmoid(z)     g = tanh(z)
        C = f c + i g               c' = clip(C)
        m = o tanh(c')              H = Wp m                 h' = clip(H)

    The backward pass needs the gates, and H and C before clipping, to know where a clip took
    effect. In half precision z is saved instead of the gates, which would be rounded to 1; the
    compiled kernels always save z.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        hidden: torch.Tensor,
        cell: torch.Tensor,
        plan: _Plan,
        *weights: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        packing, dtype = plan.packing, plan.dtype
        input_weight, input_bias, recurrent_weight, output_weight = weights
        with torch.autocast(inputs.device.type, enabled=False):
            words = packing.pack(inputs).to(dtype)  # (words, projection_dim)
            gates = _empty_table(words, len(words), len(input_bias), dtype)
            bias, weight = input_bias.to(dtype), input_weight.to(dtype)
            torch.addmm(bias, words, weight.t(), out=gates)
            hiddens, cells = _table(hidden, packing), _table(cell, packing)
            _run_forward(gates, hiddens, cells, recurrent_weight, output_weight, plan)
        if plan.recompute:
            gates = gates.new_empty(0)
        ctx.save_for_backward(inputs, *weights, hiddens, cells, gates)
        ctx.plan = plan

        outputs = _clamp(hiddens[packing.batch :], plan.projection_clip)
        return (
            packing.unpack(outputs),
            packing.unsort_rows(_last_states(hiddens, plan.projection_clip, plan)),
            packing.unsort_rows(_last_states(cells, plan.cell_clip, plan)),
        )

    @staticmethod
    def backward(
        ctx: Any, d_outputs: torch.Tensor, d_hidden: torch.Tensor, d_cell: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        with torch.no_grad(), torch.autocast(d_outputs.device.type, enabled=False):
            gradients = _gradients(ctx, d_outputs, d_hidden, d_cell)
        gradients = differentiable_once(gradients)
        return *gradients[:3], None, *gradients[3:]


def _run_forward(
    gates: torch.Tensor,
    hiddens: torch.Tensor,
    cells: torch.Tensor,
    recurrent_weight: torch.Tensor,
    output_weight: torch.Tensor | None,
    plan: _Plan,
) -> None:
    """
    Run the forward recurrence.

    Args:
        gates: Wx x + b `(words, 4 * cell_dim)`; overwritten by what is saved, the gates or z.
        hiddens, cells: tables of states, filled with H and C before clipping.
    """
    dtype, steps, batch = plan.dtype, plan.steps(), plan.packing.batch
    recurrent_map = _prepare(recurrent_weight.to(dtype), len(steps))
    output_map = None if output_weight is None else _prepare(output_weight.to(dtype), len(steps))
    hidden = hiddens[:batch].to(dtype)
    for words, before, after in steps:
        running = words.stop - words.start
        inflow = gates[_round_up(words, words.start + len(hidden))]
        z = add_product(inflow, recurrent_map, hidden[: len(inflow)])
        if plan.kernels is None:
            memory = _update_cells(z[:running], gates[words], cells, before, after, plan)
        else:
            states = cells[before], cells[after], before.start == 0
            memory = plan.kernels.forward(z, gates[words], *states, plan.cell_clip)
        projected = memory if output_map is None else multiply(output_map, memory)
        hiddens[after].copy_(projected[:running])
        hidden = _clamp(projected, plan.projection_clip).to(dtype)


def _update_cells(
    z: torch.Tensor,
    gates: torch.Tensor,
    cells: torch.Tensor,
    before: slice,
    after: slice,
    plan: _Plan,
) -> torch.Tensor:
    """Fill in a step's gates, or z in half precision, and C; return m `(running, cell_dim)`."""
    if plan.dtype == cells.dtype:
        activated = _activate(z, gates)
    else:
        gates.copy_(z)
        activated = _activate(z.to(cells.dtype))
    i, f, g, o = activated.chunk(4, 1)  # (running, cell_dim) each
    cell = cells[before] if before.start == 0 else _clamp(cells[before], plan.cell_clip)
    raw_cell = torch.mul(i, g, out=cells[after]).addcmul_(f, cell)
    return _tanh(_clamp(raw_cell, plan.cell_clip)).mul_(o)


def _gradients(
    ctx: Any, d_outputs: torch.Tensor, d_hidden: torch.Tensor, d_cell: torch.Tensor
) -> list[torch.Tensor | None]:
    """Return the gradients of the arguments of `_ClippedLstm.forward`, except `plan`."""
    inputs, input_weight, input_bias, recurrent_weight, output_weight, *kept = ctx.saved_tensors
    hiddens, cells, gates = kept
    plan: _Plan = ctx.plan
    packing, dtype, batch = plan.packing, plan.dtype, plan.packing.batch
    words = packing.pack(inputs).to(dtype)  # (words, projection_dim)
    before = hiddens[plan.before]
    _clamp_(before[sum(packing.sizes[:1]) :], plan.projection_clip)  # not the initial states
    before = before.to(dtype)

    def compute_gates(block: slice) -> torch.Tensor:
        if not plan.recompute:
            return gates[block]
        z = F.linear(words[block], input_weight.to(dtype), input_bias.to(dtype))
        return z.add_(F.linear(before[block], recurrent_weight.to(dtype)))

    d_hiddens = _empty_table(cells, len(hiddens), hiddens.shape[1], cells.dtype)
    d_hiddens[:batch].zero_()
    d_hiddens[batch:] = packing.pack(d_outputs)
    d_hiddens[plan.last] += packing.sort_rows(d_hidden).to(cells.dtype)
    d_cell = packing.sort_rows(d_cell).clone(memory_format=torch.contiguous_format)
    d_z, d_bias, memory = _run_backward(
        compute_gates, cells, d_hiddens, d_cell, hiddens, recurrent_weight, output_weight, plan
    )

    # Each product is computed for all words at once, and only if its gradient is required.
    needs, d_projected = ctx.needs_input_grad, d_hiddens[batch:].to(dtype)
    d_words = (d_z @ input_weight.to(dtype)).to(inputs.dtype) if needs[0] else None
    return [
        None if d_words is None else packing.unpack(d_words),
        packing.unsort_rows(d_hiddens[:batch]).to(hiddens.dtype) if needs[1] else None,
        packing.unsort_rows(d_cell) if needs[2] else None,
        _weight_gradient(d_z, words, input_weight) if needs[4] else None,
        d_bias.to(input_bias.dtype) if needs[5] else None,
        _weight_gradient(d_z, before, recurrent_weight) if needs[6] else None,
        _weight_gradient(d_projected, memory, output_weight) if needs[7] else None,
    ]


@dataclass(frozen=True)
class _Slopes:
    """
    The factors of the gradients that can be computed for all words of a block at once.

    With the gradients dm of m, dc' of the clipped cell state c', and dc of C::

        dc' = dm o (1 - tanh(c')^2) + dc(next) f(next)      dc = dc' where |C| <= clip, else 0
        dz_i = dc g i (1 - i)        dz_f = dc c f (1 - f)
        dz_g = dc i (1 - g^2)        dz_o = dm tanh(c') o (1 - o)
    """

    gates: torch.Tensor  # dz / (dc', dc', dc', dm), (words, 4 * cell_dim)
    memory: torch.Tensor  # the contribution of dm to dc', divided by dm, (words, cell_dim)
    carry: torch.Tensor  # factor from dc' to the previous word's dc', (words, cell_dim)


def _slopes(
    gates: torch.Tensor, cells: torch.Tensor, block: slice, slopes: torch.Tensor, plan: _Plan
) -> tuple[_Slopes, torch.Tensor]:
    """
    Return the slopes of a block of words, and its outputs m before the projection.

    Args:
        gates: the block's gates, or z in half precision, `(words, 4 * cell_dim)`.
        cells: the table of C.
        block: the packed words.
        slopes: memory for `_Slopes.gates`.
    """
    width, initial = cells.shape[1], plan.packing.sizes[0]
    if plan.recompute or plan.dtype != cells.dtype:
        gates = _activate(gates.to(cells.dtype))
    i, f, g, o = gates.chunk(4, 1)  # (words, cell_dim) each
    raw = cells[plan.packing.batch :][block]
    c, t = cells[plan.before[block]], _tanh(_clamp(raw, plan.cell_clip))
    _clamp_(c[max(initial - block.start, 0) :], plan.cell_clip)
    # The operators that autograd uses: (grad, result) -> grad * derivative.
    by_sigmoid, by_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
    d_i, d_f, d_g, d_o = slopes.chunk(4, 1)
    by_sigmoid(g, i, grad_input=d_i)
    by_sigmoid(c, f, grad_input=d_f)
    by_tanh(i, g, grad_input=d_g)
    by_sigmoid(t, o, grad_input=d_o)
    carry = f
    if plan.cell_clip is not None:
        inside = raw.abs().le_(plan.cell_clip)  # clamp's derivative: 1 or 0
        slopes[:, : 3 * width].unflatten(1, (3, width)).mul_(inside[:, None])
        carry = inside.mul_(f)
    return _Slopes(slopes, by_tanh(o, t), carry), t.mul_(o)


def _run_backward(
    compute_gates: Callable[[slice], torch.Tensor],
    cells: torch.Tensor,
    d_hiddens: torch.Tensor,
    d_cell: torch.Tensor,
    hiddens: torch.Tensor,
    recurrent_weight: torch.Tensor,
    output_weight: torch.Tensor | None,
    plan: _Plan,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Run the backward recurrence.

    It overwrites two arguments. `d_hiddens` contains the gradients of the outputs, afterwards those
    of the initial hidden states and of H before clipping. `d_cell` contains the gradients of the
    final cell states, afterwards those of the initial ones.

    Args:
        compute_gates: returns the gates, or z in half precision, of some packed words.

    Returns:
        The gradients of z `(words, 4 * cell_dim)`, their sum, and m `(words, cell_dim)`.
    """
    dtype, steps, width = plan.dtype, plan.steps(), d_cell.shape[1]
    recurrent_map = _prepare(recurrent_weight.to(dtype).t(), len(steps))
    output_map = (
        None if output_weight is None else _prepare(output_weight.to(dtype).t(), len(steps))
    )
    inside = None if plan.projection_clip is None else hiddens.abs().le_(plan.projection_clip)
    words = len(plan.before)
    d_z, memory = (_empty_table(cells, words, n * width, dtype) for n in (4, 1))
    d_bias = cells.new_zeros(4 * width)
    blocks = _blocks(steps, 4 * width)
    longest = max((block.stop - block.start for block, _ in blocks), default=0)
    is_apart = plan.kernels is None and dtype != cells.dtype
    buffer = cells.new_empty(longest, 4 * width) if is_apart else None
    for block, in_block in reversed(blocks):
        gates = compute_gates(block)
        if plan.kernels is None:
            target = d_z[block] if buffer is None else buffer[: block.stop - block.start]
            slopes, memory[block] = _slopes(gates, cells, block, target, plan)
        for words, before, after in reversed(in_block):
            if inside is not None:
                d_hiddens[after].mul_(inside[after])
            d_memory = d_hiddens[after]
            if output_map is not None:
                d_memory = multiply(output_map, d_hiddens[_round_up(after)])[: len(d_memory)]
            # For a sentence that ends here, d_cell still has the gradient of its final cell state.
            running = d_cell[: len(d_memory)]
            own = slice(words.start - block.start, words.stop - block.start)
            if plan.kernels is None:
                _gate_gradients(slopes, own, d_memory.to(d_cell.dtype), running, d_z[words])
            else:
                states = cells[before], cells[after], before.start == 0, plan.cell_clip
                given = d_memory, running, d_z[words], memory[words], d_bias
                plan.kernels.backward(gates[own], *states, *given)
            d_hidden = multiply(recurrent_map, d_z[_round_up(words)])
            d_hiddens[before].add_(d_hidden[: len(running)])
        if plan.kernels is None:
            d_bias += target.sum(0)
    return d_z, d_bias, memory


def _gate_gradients(
    slopes: _Slopes, own: slice, d_memory: torch.Tensor, d_cell: torch.Tensor, d_z: torch.Tensor
) -> None:
    """Fill in d_z for the words `own` of a block, and bring d_cell one step back."""
    width = d_cell.shape[1]
    d_cell.addcmul_(d_memory, slopes.memory[own])
    d_gates = slopes.gates[own]
    d_gates[:, : 3 * width].unflatten(1, (3, width)).mul_(d_cell[:, None])
    d_gates[:, 3 * width :].mul_(d_memory)
    if d_gates.dtype != d_z.dtype:  # else they are the same memory
        d_z.copy_(d_gates)
    d_cell.mul_(slopes.carry[own])


def _round_up(rows: slice, end: int | None = None) -> slice:
    """Return more rows up to `end`, a multiple of ROUNDED_ROWS, whose results are discarded."""
    size = rows.stop - rows.start
    if size <= ROUNDED_ROWS:
        return rows
    stop = rows.stop + -size % ROUNDED_ROWS
    return slice(rows.start, stop if end is None else min(stop, end))


def _blocks(steps: list[_Step], width: int) -> list[tuple[slice, list[_Step]]]:
    """Group consecutive steps, so that a block's gates stay in the CPU's cache."""
    blocks: list[tuple[slice, list[_Step]]] = []
    for step in steps:
        words = step[0]
        if blocks and (words.stop - blocks[-1][0].start) * width <= BLOCK_VALUES:
            block, in_block = blocks[-1]
            blocks[-1] = slice(block.start, words.stop), [*in_block, step]
        else:
            blocks.append((words, [step]))
    return blocks


def _prepare(weight: torch.Tensor, products: int) -> PreparedMap:
    """
    Prepare a weight `(out, in)` for a number of products with few rows each.

    They spend their time on reading the weights, in which MKL is up to three times slower than
    oneDNN. Products of all words at once gain less than converting the layout costs.
    """
    pays = products >= PACKED_PRODUCTS and weight.numel() >= PACKED_WEIGHTS
    has_onednn = weight.device.type == "cpu" and find_operators(weight.dtype) == "onednn"
    return prepare_map("onednn" if pays and has_onednn else "plain", weight)


def _weight_gradient(d_output: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the weight `(out, in)`, summed over all words."""
    # Products read the narrower matrix by columns, for which a copy of it pays.
    if d_output.shape[1] > x.shape[1]:
        product = (x.t().contiguous() @ d_output).t()
    else:
        product = d_output.t() @ x
    return product.to(weight.dtype).contiguous()


def _activate(z: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the gates from z `(rows, 4 * cell_dim)`, in `out` or in place."""
    out, width = z if out is None else out, z.shape[1] // 4
    torch.sigmoid(z[:, : 2 * width], out=out[:, : 2 * width])
    _tanh(z[:, 2 * width : 3 * width], out=out[:, 2 * width : 3 * width])
    torch.sigmoid(z[:, 3 * width :], out=out[:, 3 * width :])
    return out


def _tanh(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Compute tanh; in float32 on a CPU from a sigmoid, which takes a fifth of the time there."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return torch.tanh(x, out=out)
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _clamp(raw: torch.Tensor, bound: float | None) -> torch.Tensor:
    return raw if bound is None else raw.clamp(-bound, bound)


def _clamp_(raw: torch.Tensor, bound: float | None) -> None:
    if bound is not None:
        raw.clamp_(-bound, bound)


def _empty_table(like: torch.Tensor, rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Allocate up to an eighth more rows, so that the next batch fits into the same memory."""
    step = 1 << max(0, rows.bit_length() - 4)
    return like.new_empty(rows + -rows % step, width, dtype=dtype)[:rows]


def _table(initial: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Allocate a table of states and fill in the initial ones."""
    batch, width = initial.shape
    table = _empty_table(initial, batch + sum(packing.sizes), width, initial.dtype)
    table[:batch] = packing.sort_rows(initial)
    return table


def _last_states(table: torch.Tensor, bound: float | None, plan: _Plan) -> torch.Tensor:
    """Return the final states of the sorted sentences; initial ones are not clipped."""
    last = table[plan.last]
    if bound is None:
        return last
    is_initial = plan.last < plan.packing.batch
    return torch.where(is_initial[:, None], last, last.clamp(-bound, bound))


__all__ = ["clipped_lstm"]
