# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The LSTM of ELMo for training: `ElmoLstm.run_reference` with a backward pass written by hand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .engine_onednn import PreparedMap, add_product, find_operators, multiply, prepare_map
from .engine_packing import Packing

State = tuple[torch.Tensor, torch.Tensor]

# Laying weights out for oneDNN beforehand pays from this size on, and for this many products.
PACKED_WEIGHTS = 100_000
PACKED_PRODUCTS = 12


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
    Run one direction of one layer as `ElmoLstm` does, ready for a fast backward pass.

    The cell is that of TensorFlow's `LSTMCell` with both clips, as Peters et al. 2018 trained
    it. Padding costs nothing and leaves the state as it was, wherever it stands. Products are
    made in the precision of the weights, or in autocast's; the memory keeps its own.

    Args:
        inputs: `(batch, words, projection_dim)`.
        mask: bool `(batch, words)`, False at padding.
        hidden: output to start from, `(batch, projection_dim)`.
        cell: memory to start from, `(batch, cell_dim)`.
        input_weight: `(4 * cell_dim, projection_dim)`; gate rows input, forget, candidate, output.
        input_bias: `(4 * cell_dim,)`.
        recurrent_weight: `(4 * cell_dim, projection_dim)`.
        output_weight: `(projection_dim, cell_dim)`; None where the output is not projected.
        cell_clip: bound of the memory; None for none.
        projection_clip: bound of the projected output; None for none.
        reverse: read from the last word to the first.
        recompute: compute the gates again in the backward pass; saves about 80 % of the memory
            that the call keeps for it.

    Returns:
        Outputs `(batch, words, projection_dim)`, zero at padding, and the state after each
        sentence's last word read.

    Raises:
        RuntimeError: gradients of the gradients are asked for.
    """
    plan = _make_plan(
        mask,
        reverse,
        cell_clip,
        projection_clip if output_weight is not None else None,
        recompute,
        _product_dtype(input_weight),
    )
    weights = (input_weight, input_bias, recurrent_weight, output_weight)
    outputs, hidden, cell = _ClippedLstm.apply(inputs, hidden, cell, plan, *weights)
    return outputs, (hidden, cell)


@dataclass(frozen=True)
class _Plan:
    """
    All arguments of a call that have no gradients.

    A table of states `(batch + words, ...)` has the initial states of the sentences, sorted as in
    `packing`, and then the state after each packed word.
    """

    packing: Packing
    before: torch.Tensor  # (words,) row of the table with the state that each word starts from
    last: torch.Tensor  # (batch,) row of the table with each sorted sentence's final state
    cell_clip: float | None
    projection_clip: float | None
    recompute: bool
    dtype: torch.dtype  # of the products

    def steps(self) -> list[tuple[slice, slice, slice]]:
        """For each step its packed words, and the rows of the table before and after them."""
        batch, offsets = self.packing.batch, self.packing.offsets.tolist()
        starts = [0, *(batch + offset for offset in offsets)]
        steps = zip(self.packing.sizes, offsets, starts, starts[1:], strict=False)
        return [(_rows(w, n), _rows(x, n), _rows(y, n)) for n, w, x, y in steps]


def _make_plan(mask: torch.Tensor, reverse: bool, *settings: Any) -> _Plan:
    packing = Packing(mask, reverse)
    batch, sizes = packing.batch, packing.sizes
    # So many rows of the table are between a word and the state that it starts from.
    distances = np.repeat([batch, *sizes][:-1], np.array(sizes, dtype=np.int64)).astype(np.int64)
    before = torch.arange(batch, batch + sum(sizes)) - torch.from_numpy(distances)
    last = torch.arange(batch)
    places, alive = packing.last_words()
    last[:alive] = batch + places
    return _Plan(packing, before.to(mask.device), last.to(mask.device), *settings)


def _rows(start: int, size: int) -> slice:
    return slice(start, start + size)


def _product_dtype(weight: torch.Tensor) -> torch.dtype:
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


class _ClippedLstm(torch.autograd.Function):
    """
    For a word x after the state (h, c), with gates i, f, g, o in rows of one map::

        z = Wx x + b + Wh h         i, f, o = sigmoid(z)     g = tanh(z)
        C = f c + i g               c' = clip(C)
        m = o tanh(c')              H = Wp m                 h' = clip(H)

    The backward pass needs H and C before clipping, to know where a clip took effect, and the
    gates. In half precision z is kept in place of the gates, whose distance to 1 would be lost.
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
            gates = F.linear(words, input_weight.to(dtype), input_bias.to(dtype))
            hiddens, cells = _table(hidden, packing), _table(cell, packing)
            _read(gates, hiddens, cells, recurrent_weight, output_weight, plan)
        if plan.recompute:
            gates = gates.new_empty(0)
        ctx.save_for_backward(inputs, *weights, hiddens, cells, gates)
        ctx.plan = plan

        hiddens = _clip(hiddens, plan.projection_clip, packing)
        cells = _clip(cells, plan.cell_clip, packing)
        return (
            packing.unpack(hiddens[packing.batch :]),
            packing.unsort_rows(hiddens[plan.last]),
            packing.unsort_rows(cells[plan.last]),
        )

    @staticmethod
    def backward(
        ctx: Any, d_outputs: torch.Tensor, d_hidden: torch.Tensor, d_cell: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        with torch.no_grad(), torch.autocast(d_outputs.device.type, enabled=False):
            gradients = _gradients(ctx, d_outputs, d_hidden, d_cell)
        if torch.is_grad_enabled():  # create_graph=True
            gradients = [
                None if gradient is None else _OnlyOnce.apply(gradient.requires_grad_())
                for gradient in gradients
            ]
        return *gradients[:3], None, *gradients[3:]


def _read(
    gates: torch.Tensor,
    hiddens: torch.Tensor,
    cells: torch.Tensor,
    recurrent_weight: torch.Tensor,
    output_weight: torch.Tensor | None,
    plan: _Plan,
) -> None:
    """
    Run the recurrence.

    Args:
        gates: Wx x + b `(words, 4 * cell_dim)`; overwritten by the gates, or by z in half
            precision.
        hiddens, cells: tables of states, filled with H and C before clipping.
    """
    dtype, steps, batch = plan.dtype, plan.steps(), plan.packing.batch
    recurrent_map = _prepare(recurrent_weight.to(dtype), len(steps))
    output_map = None if output_weight is None else _prepare(output_weight.to(dtype), len(steps))
    hidden, cell = hiddens[:batch], cells[:batch]
    for words, _, after in steps:
        running = words.stop - words.start
        z = add_product(gates[words], recurrent_map, hidden[:running].to(dtype))
        if dtype == cells.dtype:
            activated = _activate(z, gates[words])
        else:
            gates[words] = z
            activated = _activate(z.to(cells.dtype))
        i, f, g, o = activated.chunk(4, 1)  # (running, cell_dim) each
        raw_cell = torch.mul(i, g, out=cells[after]).addcmul_(f, cell[:running])
        cell = _clamp(raw_cell, plan.cell_clip)
        memory = _tanh(cell).mul_(o)
        projected = memory if output_map is None else multiply(output_map, memory)
        hidden = _clamp(hiddens[after].copy_(projected), plan.projection_clip)


def _gradients(
    ctx: Any, d_outputs: torch.Tensor, d_hidden: torch.Tensor, d_cell: torch.Tensor
) -> list[torch.Tensor | None]:
    """The gradients of the arguments of `_ClippedLstm.forward`, without the plan's."""
    inputs, input_weight, input_bias, recurrent_weight, output_weight, *kept = ctx.saved_tensors
    hiddens, cells, gates = kept
    plan: _Plan = ctx.plan
    packing, dtype, batch = plan.packing, plan.dtype, plan.packing.batch
    words = packing.pack(inputs).to(dtype)  # (words, projection_dim)
    before = _clip(hiddens, plan.projection_clip, packing)[plan.before].to(dtype)
    if plan.recompute:
        gates = F.linear(words, input_weight.to(dtype), input_bias.to(dtype))
        gates.add_(F.linear(before, recurrent_weight.to(dtype)))
    if plan.recompute or dtype != cells.dtype:
        gates = _activate(gates.to(cells.dtype))
    slopes, memory = _slopes(gates, cells, plan)
    del gates

    d_hiddens = cells.new_zeros(hiddens.shape)
    d_hiddens[batch:] = packing.pack(d_outputs).to(cells.dtype)
    d_hiddens[plan.last] += packing.sort_rows(d_hidden).to(cells.dtype)
    d_cell = packing.sort_rows(d_cell).clone()
    d_z = _read_back(slopes, d_hiddens, d_cell, hiddens, recurrent_weight, output_weight, plan)
    del slopes

    # Each product once over all words, and only where its result is wanted.
    needs, d_projected = ctx.needs_input_grad, d_hiddens[batch:].to(dtype)
    d_words = (d_z @ input_weight.to(dtype)).to(inputs.dtype) if needs[0] else None
    return [
        None if d_words is None else packing.unpack(d_words),
        packing.unsort_rows(d_hiddens[:batch]).to(hiddens.dtype) if needs[1] else None,
        packing.unsort_rows(d_cell) if needs[2] else None,
        _weight_gradient(d_z, words, input_weight) if needs[4] else None,
        d_z.sum(0, dtype=cells.dtype).to(input_bias.dtype) if needs[5] else None,
        _weight_gradient(d_z, before, recurrent_weight) if needs[6] else None,
        _weight_gradient(d_projected, memory.to(dtype), output_weight) if needs[7] else None,
    ]


@dataclass(frozen=True)
class _Slopes:
    """
    The factors of the gradients that can be computed for all words at once.

    With dm the gradient of the output m, dc' that of the memory after its clip, dc before it::

        dc' = dm o (1 - tanh(c')^2) + dc(next) f(next)      dc = dc' where |C| <= clip, else 0
        dz_i = dc g i (1 - i)        dz_f = dc c f (1 - f)
        dz_g = dc i (1 - g^2)        dz_o = dm tanh(c') o (1 - o)
    """

    gates: torch.Tensor  # dz / (dc', dc', dc', dm), (words, 4 * cell_dim)
    memory: torch.Tensor  # what dm adds to dc', divided by dm, (words, cell_dim)
    carry: torch.Tensor  # what the word before gets of dc', divided by dc', (words, cell_dim)


def _slopes(gates: torch.Tensor, cells: torch.Tensor, plan: _Plan) -> tuple[_Slopes, torch.Tensor]:
    """Return the slopes, and the outputs m before their projection `(words, cell_dim)`."""
    packing, width = plan.packing, cells.shape[1]
    i, f, g, o = gates.chunk(4, 1)  # (words, cell_dim) each
    clipped = _clip(cells, plan.cell_clip, packing)
    c, t = clipped[plan.before], _tanh(clipped[packing.batch :])
    # The operators that autograd itself uses: grad, result -> grad * derivative.
    by_sigmoid, by_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
    slopes = torch.empty_like(gates)
    d_i, d_f, d_g, d_o = slopes.chunk(4, 1)
    by_sigmoid(g, i, grad_input=d_i)
    by_sigmoid(c, f, grad_input=d_f)
    by_tanh(i, g, grad_input=d_g)
    by_sigmoid(t, o, grad_input=d_o)
    carry = f
    if plan.cell_clip is not None:
        inside = cells[packing.batch :].abs().le_(plan.cell_clip)  # 1 or 0, as clamp has it
        slopes[:, : 3 * width].unflatten(1, (3, width)).mul_(inside[:, None])
        carry = inside.mul_(f)
    return _Slopes(slopes, by_tanh(o, t), carry), t.mul_(o)


def _read_back(
    slopes: _Slopes,
    d_hiddens: torch.Tensor,
    d_cell: torch.Tensor,
    hiddens: torch.Tensor,
    recurrent_weight: torch.Tensor,
    output_weight: torch.Tensor | None,
    plan: _Plan,
) -> torch.Tensor:
    """
    Run the recurrence backwards; return the gradients of z `(words, 4 * cell_dim)`.

    Overwrites its arguments: `d_hiddens` holds the gradients that come from outside, then those of
    the initial outputs and of H before clipping; `d_cell` those of the final memories, then of the
    initial ones.
    """
    dtype, steps, width = plan.dtype, plan.steps(), d_cell.shape[1]
    recurrent_map = _prepare(recurrent_weight.to(dtype).t(), len(steps))
    output_map = (
        None if output_weight is None else _prepare(output_weight.to(dtype).t(), len(steps))
    )
    inside = None if plan.projection_clip is None else hiddens.abs().le_(plan.projection_clip)
    d_z = slopes.gates.to(dtype)  # the slopes themselves unless products have less precision
    for words, before, after in reversed(steps):
        d_projected = d_hiddens[after]
        if inside is not None:
            d_projected.mul_(inside[after])
        d_memory = d_projected if output_map is None else multiply(output_map, d_projected)
        d_memory = d_memory.to(d_cell.dtype)  # (running, cell_dim)
        # What a sentence that ends here has in d_cell is the gradient of its final memory.
        running = d_cell[: len(d_memory)].addcmul_(d_memory, slopes.memory[words])
        d_gates = slopes.gates[words]
        d_gates[:, : 3 * width].unflatten(1, (3, width)).mul_(running[:, None])
        d_gates[:, 3 * width :].mul_(d_memory)
        if d_z is not slopes.gates:
            d_z[words] = d_gates
        d_hiddens[before].add_(multiply(recurrent_map, d_z[words]))
        running.mul_(slopes.carry[words])
    return d_z


def _prepare(weight: torch.Tensor, products: int) -> PreparedMap:
    """
    Lay out a weight `(out, in)` for so many products of few rows each.

    Their time is the reading of the weights, which MKL does up to three times as slowly as oneDNN.
    Products of all words at once gain less than the new layout costs.
    """
    pays = products >= PACKED_PRODUCTS and weight.numel() >= PACKED_WEIGHTS
    has_onednn = weight.device.type == "cpu" and find_operators(weight.dtype) == "onednn"
    return prepare_map("onednn" if pays and has_onednn else "plain", weight)


def _weight_gradient(d_output: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of the weight `(out, in)`, summed over all words."""
    return (d_output.t() @ x).to(weight.dtype)


def _activate(z: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The gates of z `(rows, 4 * cell_dim)`, written to `out` or over z."""
    out, width = z if out is None else out, z.shape[1] // 4
    torch.sigmoid(z[:, : 2 * width], out=out[:, : 2 * width])
    _tanh(z[:, 2 * width : 3 * width], out=out[:, 2 * width : 3 * width])
    torch.sigmoid(z[:, 3 * width :], out=out[:, 3 * width :])
    return out


def _tanh(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The tanh; in float32 on a CPU by a sigmoid, which takes a fifth of the time there."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return torch.tanh(x, out=out)
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _clamp(raw: torch.Tensor, bound: float | None) -> torch.Tensor:
    return raw if bound is None else raw.clamp(-bound, bound)


def _table(initial: torch.Tensor, packing: Packing) -> torch.Tensor:
    """A table of states with the initial ones filled in."""
    batch, width = initial.shape
    table = initial.new_empty(batch + sum(packing.sizes), width)
    table[:batch] = packing.sort_rows(initial)
    return table


def _clip(table: torch.Tensor, bound: float | None, packing: Packing) -> torch.Tensor:
    """A table of states, clipped but for the initial ones."""
    if bound is None:
        return table
    initial, after = table.tensor_split([packing.batch])
    return torch.cat([initial, after.clamp(-bound, bound)])


class _OnlyOnce(torch.autograd.Function):
    """The identity for a gradient; its own backward pass raises an error."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> None:
        raise RuntimeError(
            "the gradient of a gradient was asked for (backward or torch.autograd.grad after "
            "create_graph=True), and the fast training engine of the LSTM has first derivatives "
            'only; run the model under use_engine("reference"), the reference engine, which is '
            "differentiable any number of times"
        )


__all__ = ["clipped_lstm"]
