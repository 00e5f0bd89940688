# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The recurrence of ELMo for training: the plain loop's function, with its gradient by hand."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .engine_onednn import PreparedMap, add_product, find_operators, multiply, prepare_map

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
        recompute: keep a fifth as much for the backward pass, which then makes the gates again.

    Returns:
        Outputs `(batch, words, projection_dim)`, zero at padding, and the state after each
        sentence's last word read.

    Raises:
        RuntimeError: gradients of the gradients are asked for.
    """
    plan = _Plan(
        _pack(mask, reverse),
        cell_clip,
        projection_clip if output_weight is not None else None,
        recompute,
        _product_dtype(input_weight),
    )
    weights = (input_weight, input_bias, recurrent_weight, output_weight)
    outputs, hidden, cell = _ClippedLstm.apply(inputs, hidden, cell, plan, *weights)
    return outputs, (hidden, cell)


@dataclass(frozen=True)
class _Packing:
    """
    The valid words of a batch step by step, each sentence in its reading order.

    The sentences with most words come first, so that those still running are always the first
    ones. A table of states has the sentences' initial states first, then those after each word.
    """

    words: torch.Tensor  # (valid,) the place of each in the flattened batch
    order: torch.Tensor  # (batch,) sentences, most valid words first
    before: torch.Tensor  # (valid,) row of the table of states that each word starts from
    last: torch.Tensor  # (batch,) row of the table with each final state, sentences as in `order`
    steps: tuple[tuple[slice, slice, slice], ...]  # words, their states before, and after


@dataclass(frozen=True)
class _Plan:
    """What a call is given beside tensors that have gradients."""

    packing: _Packing
    cell_clip: float | None
    projection_clip: float | None
    recompute: bool
    dtype: torch.dtype  # of the products


def _pack(mask: torch.Tensor, reverse: bool) -> _Packing:
    device, mask = mask.device, mask.cpu()
    batch = mask.shape[0]
    lengths, order = mask.sum(1).sort(descending=True, stable=True)
    slots = torch.empty_like(order).scatter_(0, order, torch.arange(batch))  # the inverse
    read = mask.flip(1).cumsum(1).flip(1) if reverse else mask.cumsum(1)  # (batch, words)
    sentence, word = mask.nonzero(as_tuple=True)  # (valid,) each
    step, slot = read[sentence, word] - 1, slots[sentence]

    sizes = step.bincount()  # (steps,) sentences still running
    # Where the states before each step begin in the table, and the final ones.
    starts = torch.cat([sizes.new_zeros(1), batch + sizes.cumsum(0) - sizes])  # (steps + 1,)
    packed = starts[step + 1] - batch + slot
    words = torch.empty_like(packed).scatter_(0, packed, sentence * mask.shape[1] + word)
    before = torch.empty_like(packed).scatter_(0, packed, starts[step] + slot)
    last = starts[lengths] + torch.arange(batch)
    words, order, before, last = (table.to(device) for table in (words, order, before, last))
    places = zip(starts.tolist(), starts[1:].tolist(), sizes.tolist(), strict=False)
    steps = tuple((_rows(y - batch, n), _rows(x, n), _rows(y, n)) for x, y, n in places)
    return _Packing(words, order, before, last, steps)


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

    Kept for the backward pass are the raw H and C, which tell where a clip cut, and the gates.
    Half precision keeps z in their place: a gate near 1 would lose what it leaves open.
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
            words = inputs.flatten(0, 1)[packing.words].to(dtype)  # (valid, projection_dim)
            gates = F.linear(words, input_weight.to(dtype), input_bias.to(dtype))
            hiddens, cells = _table(hidden, packing), _table(cell, packing)
            _read(gates, hiddens, cells, recurrent_weight, output_weight, plan)
        if plan.recompute:
            gates = gates.new_empty(0)
        ctx.save_for_backward(inputs, *weights, hiddens, cells, gates)
        ctx.plan = plan

        hiddens = _clip(hiddens, plan.projection_clip, packing)
        return (
            _scatter(hiddens[len(hidden) :], packing, inputs.shape),
            _unsort(hiddens[packing.last], packing),
            _unsort(_clip(cells, plan.cell_clip, packing)[packing.last], packing),
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
    Run the recurrence over the input's share of z `(valid, 4 * cell_dim)`.

    Fills the tables of raw states; leaves in `gates` what `_ClippedLstm` keeps of them.
    """
    dtype, steps, batch = plan.dtype, plan.packing.steps, len(plan.packing.order)
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
    """Of all tensors that `_ClippedLstm.forward` was given."""
    inputs, input_weight, input_bias, recurrent_weight, output_weight, *kept = ctx.saved_tensors
    hiddens, cells, gates = kept
    plan: _Plan = ctx.plan
    packing, dtype, batch = plan.packing, plan.dtype, len(plan.packing.order)
    words = inputs.flatten(0, 1)[packing.words].to(dtype)  # (valid, projection_dim)
    before = _clip(hiddens, plan.projection_clip, packing)[packing.before].to(dtype)
    if plan.recompute:
        gates = F.linear(words, input_weight.to(dtype), input_bias.to(dtype))
        gates.add_(F.linear(before, recurrent_weight.to(dtype)))
    if plan.recompute or dtype != cells.dtype:
        gates = _activate(gates.to(cells.dtype))
    slopes, memory = _slopes(gates, cells, plan)
    del gates

    d_hiddens = cells.new_zeros(hiddens.shape)
    d_hiddens[batch:] = d_outputs.flatten(0, 1)[packing.words].to(cells.dtype)
    d_hiddens[packing.last] += d_hidden[packing.order].to(cells.dtype)
    d_cell = d_cell[packing.order]
    d_z = _read_back(slopes, d_hiddens, d_cell, hiddens, recurrent_weight, output_weight, plan)
    del slopes

    # Each product once over all words, and only where its result is wanted.
    needs, d_projected = ctx.needs_input_grad, d_hiddens[batch:].to(dtype)
    d_words = (d_z @ input_weight.to(dtype)).to(inputs.dtype) if needs[0] else None
    return [
        None if d_words is None else _scatter(d_words, packing, inputs.shape),
        _unsort(d_hiddens[:batch], packing).to(hiddens.dtype) if needs[1] else None,
        _unsort(d_cell, packing) if needs[2] else None,
        _weight_gradient(d_z, words, input_weight) if needs[4] else None,
        d_z.sum(0, dtype=cells.dtype).to(input_bias.dtype) if needs[5] else None,
        _weight_gradient(d_z, before, recurrent_weight) if needs[6] else None,
        _weight_gradient(d_projected, memory.to(dtype), output_weight) if needs[7] else None,
    ]


@dataclass(frozen=True)
class _Slopes:
    """
    The factors of the gradients that do not depend on later words.

    With dm the gradient of the output m, dc' that of the memory after its clip, dc before it::

        dc' = dm o (1 - tanh(c')^2) + dc(next) f(next)      dc = dc' where |C| <= clip, else 0
        dz_i = dc g i (1 - i)        dz_f = dc c f (1 - f)
        dz_g = dc i (1 - g^2)        dz_o = dm tanh(c') o (1 - o)
    """

    gates: torch.Tensor  # dz / (dc', dc', dc', dm), (valid, 4 * cell_dim)
    memory: torch.Tensor  # what dm adds to dc', divided by dm, (valid, cell_dim)
    carry: torch.Tensor  # what the word before gets of dc', divided by dc', (valid, cell_dim)


def _slopes(gates: torch.Tensor, cells: torch.Tensor, plan: _Plan) -> tuple[_Slopes, torch.Tensor]:
    """The slopes, and the outputs m before their projection `(valid, cell_dim)`."""
    packing, width = plan.packing, cells.shape[1]
    i, f, g, o = gates.chunk(4, 1)  # (valid, cell_dim) each
    clipped = _clip(cells, plan.cell_clip, packing)
    c, t = clipped[packing.before], _tanh(clipped[len(packing.order) :])
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
        inside = cells[len(packing.order) :].abs().le_(plan.cell_clip)  # 1 or 0, as clamp has it
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
    Run the recurrence backwards; return the gradients of z `(valid, 4 * cell_dim)`.

    `d_hiddens`, given with what comes from outside, becomes the gradients of the initial outputs
    and of the raw H; `d_cell` becomes that of the initial memory. Overwrites the slopes.
    """
    dtype, steps, width = plan.dtype, plan.packing.steps, d_cell.shape[1]
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
    """That of the map that makes the output of x, all words at once."""
    return (d_output.t() @ x).to(weight.dtype)


def _activate(z: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The gates of z `(rows, 4 * cell_dim)`, in its own place unless given another."""
    out, width = z if out is None else out, z.shape[1] // 4
    torch.sigmoid(z[:, : 2 * width], out=out[:, : 2 * width])
    _tanh(z[:, 2 * width : 3 * width], out=out[:, 2 * width : 3 * width])
    torch.sigmoid(z[:, 3 * width :], out=out[:, 3 * width :])
    return out


def _tanh(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The tanh, which costs five sigmoids on a CPU, by a sigmoid in single precision there."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return torch.tanh(x, out=out)
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _clamp(raw: torch.Tensor, bound: float | None) -> torch.Tensor:
    return raw if bound is None else raw.clamp(-bound, bound)


def _table(initial: torch.Tensor, packing: _Packing) -> torch.Tensor:
    """A table of states `(batch + valid, width)` with the initial ones filled in."""
    batch, width = initial.shape
    table = initial.new_empty(batch + len(packing.words), width)
    table[:batch] = initial[packing.order]
    return table


def _clip(table: torch.Tensor, bound: float | None, packing: _Packing) -> torch.Tensor:
    """A table of states, clipped where they come after a word: initial ones are as given."""
    if bound is None:
        return table
    batch = len(packing.order)
    return torch.cat([table[:batch], table[batch:].clamp(-bound, bound)])


def _scatter(words: torch.Tensor, packing: _Packing, shape: torch.Size) -> torch.Tensor:
    """Rows of the valid words back in their places among zeros, `(batch, words, width)`."""
    table = words.new_zeros(shape).flatten(0, 1)
    return table.index_copy_(0, packing.words, words).view(shape)


def _unsort(states: torch.Tensor, packing: _Packing) -> torch.Tensor:
    """States of the sorted sentences in the batch's order."""
    return torch.empty_like(states).index_copy_(0, packing.order, states)


class _OnlyOnce(torch.autograd.Function):
    """The identity, for a gradient that has none itself."""

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
