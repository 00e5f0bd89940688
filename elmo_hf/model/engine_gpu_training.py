# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The `gpu_training` engine: the LSTMs of a layer with gradients, both directions together.

Forward and backward, a step is two batched products and two pointwise kernels for all directions.
Steps run in pieces as in the `gpu` engine, as CUDA graphs on fixed buffers. The gradients of the
weights are products over all words, outside of this loop. Nothing is read back to the host.
Padding is computed, and has no effect.

A single kernel for all steps would save launches. But its programs would have to wait for each
other after every step, and only a GPU could show that they do.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch

from .engine_checks import differentiable_once, product_dtype
from .engine_gpu_graphs import (
    Capture,
    Graphs,
    Workspaces,
    as_float,
    from_steps,
    graph_capture,
    longest_piece,
    round_up,
    split_length,
    stream_of,
    to_steps,
    without_gradients,
)
from .engine_gpu_training_triton import find_training_kernels
from .engine_weights import LstmSettings, LstmWeights

State = tuple[torch.Tensor, torch.Tensor]

# Gates of one piece. Short pieces cost time: some ten copies each, into the buffers and out.
PIECE_BYTES = 256 << 20


class GpuTrainer:
    """
    Class that runs the directions of one layer together, with gradients.

    It keeps buffers, which take the memory of the LSTMs' weights and of up to 32 steps, and CUDA
    graphs. Every call copies the weights into the buffers. Threads take turns.

    Args:
        capture: captures a graph of a function without arguments; returns a function that replays
            it. Default: CUDA graphs on a GPU, no graphs elsewhere.
        keep: False: make new buffers in each call, and no graphs.
    """

    def __init__(self, capture: Capture | None = None, keep: bool = True) -> None:
        self._capture, self._keep = capture, keep
        self._turn = threading.Lock()
        self._workspaces: Workspaces[_Workspace] = Workspaces()

    def run(
        self,
        weights: Sequence[LstmWeights],
        settings: Sequence[LstmSettings],
        inputs: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor],
        states: Sequence[State],
        *,
        recompute: bool = False,
    ) -> list[tuple[torch.Tensor, State]]:
        """
        Compute the result of `ElmoLstm.run_reference` for each direction, with gradients.

        Products have the dtype of the weights, or autocast's; the cell state keeps its dtype.

        Args:
            weights: for each direction, with the same dtype and device.
            settings: for each direction, with the same clips.
            inputs: for each direction, `(batch, words, projection_dim)`.
            masks: for each direction, bool `(batch, words)`, False at padding.
            states: for each, hidden `(batch, projection_dim)` and cell state `(batch, cell_dim)`.
            recompute: recompute the gates in the backward pass; saves over half of the memory that
                the call keeps for it.

        Returns:
            For each direction, outputs `(batch, words, projection_dim)`, zero at padding, and the
            states after each sentence's last word.

        Raises:
            RuntimeError: second derivatives are requested.
        """
        dtype = product_dtype(weights[0].input_weight)
        reverse = [setting.reverse for setting in settings]
        call = _Call(self, settings[0], reverse, masks, dtype, recompute)
        tensors = [*inputs, *chain(*zip(*states, strict=True)), *chain(*zip(*weights, strict=True))]
        outputs, hiddens, cells = _group(_GpuLstm.apply(call, *tensors), len(weights))
        return list(zip(outputs, zip(hiddens, cells, strict=True), strict=True))

    def clear(self) -> None:
        """Free the buffers and graphs."""
        with self._turn:
            self._workspaces.clear()

    @contextmanager
    def lend(
        self, call: "_Call", weights: "_Weights", cell: torch.Tensor
    ) -> Iterator["_Workspace"]:
        """Lend buffers for states like `cell` `(directions, ...)`, with the weights in them."""
        with self._turn:
            workspace = self._find_workspace(call, weights, cell)
            workspace.maps.load(weights)
            yield workspace

    def _find_workspace(
        self, call: "_Call", weights: "_Weights", cell: torch.Tensor
    ) -> "_Workspace":
        device, rows = cell.device, round_up(call.masks[0].shape[0])
        make = partial(_Workspace, call, weights, rows, cell)
        if not self._keep:
            return make(None)
        sizes = [None if group[0] is None else group[0].shape for group in weights]
        kind = call.settings[:2], call.dtype, cell.dtype, device, stream_of(device)
        key = len(call.reverse), rows, *sizes, *kind
        return self._workspaces.get(key, lambda: make(self._capture or graph_capture(device)))


class _Call(NamedTuple):
    """All arguments of a call that have no gradients."""

    trainer: GpuTrainer
    settings: LstmSettings
    reverse: Sequence[bool]
    masks: Sequence[torch.Tensor]
    dtype: torch.dtype  # of the products
    recompute: bool


class _Weights(NamedTuple):
    """The weights of each direction."""

    input: Sequence[torch.Tensor]
    bias: Sequence[torch.Tensor]
    recurrent: Sequence[torch.Tensor]
    output: Sequence[torch.Tensor | None]


class _Trace(NamedTuple):
    """What the backward pass needs; a table begins with the initial state, also if unclipped."""

    gates: torch.Tensor  # before activation, (directions, words, batch, 4 * cell_dim)
    products: torch.Tensor  # of the output map, before clipping, (directions, words, batch, width)
    hiddens: torch.Tensor  # table (directions, words + 1, batch, width)
    cells: torch.Tensor  # table (directions, words + 1, batch, cell_dim)


class _Gradients(NamedTuple):
    """What the backward recurrence computes; zero at padding."""

    gates: torch.Tensor  # shaped as in `_Trace`
    products: torch.Tensor  # shaped as in `_Trace`
    hidden: torch.Tensor  # of the initial hidden states, (directions, batch, width)
    cell: torch.Tensor  # of the initial cell states, (directions, batch, cell_dim)
    memories: torch.Tensor  # no gradient: the outputs before the output map, shaped as `cells`


class _GpuLstm(torch.autograd.Function):
    """
    The LSTMs of a layer, by the equations of `_ClippedLstm` in engine_training.py.

    After `call` come inputs, hidden states, cell states and weights, each of all directions.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Any) -> tuple[torch.Tensor, ...]:
        inputs, hiddens, cells, *groups = _group(tensors, len(call.reverse))
        with _plainly(inputs[0]):
            valid = to_steps(call.masks, call.reverse)  # (directions, words, batch)
            words = to_steps(inputs, call.reverse).to(call.dtype)
            words = words.masked_fill(~valid[..., None], 0)  # whatever is at padding
            hidden, cell = torch.stack(hiddens), torch.stack(cells)
            with call.trainer.lend(call, _Weights(*groups), cell) as workspace:
                trace = workspace.read(words, valid, hidden, cell)
            outputs = trace.hiddens[:, 1:].masked_fill(~valid[..., None], 0).to(hidden.dtype)
            read, last = valid.any(1)[..., None], trace.hiddens[:, -1].to(hidden.dtype)
            last = torch.where(read, last, hidden)  # not rounded if no word was read
            ends = [*last.unbind(), *trace.cells[:, -1].clone().unbind()]
        if call.recompute:
            trace = trace._replace(gates=words.new_empty(0))
        ctx.call, ctx.dtypes = call, [None if one is None else one.dtype for one in tensors]
        ctx.save_for_backward(words, valid, *trace, *chain(*groups))
        return *from_steps(outputs, call.reverse), *ends

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with _plainly(gradients[0]):
            stacked = _gradients(ctx, *_group(gradients, len(ctx.call.reverse)))
            parts = chain(*stacked)
            found = [
                part.to(dtype) if needed else None
                for part, dtype, needed in zip(
                    parts, ctx.dtypes, ctx.needs_input_grad[1:], strict=True
                )
            ]
        return None, *differentiable_once(found)


def _gradients(ctx: Any, d_outputs: list[torch.Tensor], *d_ends: list[torch.Tensor]) -> list[Any]:
    """Return the gradients of each group of arguments of `_GpuLstm.forward` after `call`."""
    call: _Call = ctx.call
    directions = len(call.reverse)
    words, valid, *saved = ctx.saved_tensors
    trace, weights = _Trace(*saved[:4]), _Weights(*_group(saved[4:], directions))
    needs = [any(group) for group in _group(ctx.needs_input_grad[1:], directions)]
    d_hidden, d_cell = (torch.stack(group) for group in d_ends)
    with call.trainer.lend(call, weights, trace.cells) as workspace:
        if call.recompute:
            trace = trace._replace(gates=workspace.maps.compute_gates(words, trace))
        found = workspace.read_backward(
            trace, valid, to_steps(d_outputs, call.reverse), d_hidden, d_cell
        )
        d_z = found.gates.flatten(1, 2)  # (directions, words * batch, 4 * cell_dim)
        d_words = torch.bmm(d_z, workspace.maps.input) if needs[0] else None
    before, d_products = trace.hiddens[:, :-1], found.products
    nothing = [None] * directions
    return [
        nothing if d_words is None else from_steps(d_words.view_as(words), call.reverse),
        found.hidden,
        found.cell,
        _sum_products(d_z, words) if needs[3] else nothing,
        d_z.sum(1, dtype=trace.cells.dtype) if needs[4] else nothing,
        _sum_products(d_z, before) if needs[5] else nothing,
        _sum_products(d_products.flatten(1, 2), found.memories) if needs[6] else nothing,
    ]


class _Maps(NamedTuple):
    """The weights of all directions, in fixed buffers with the dtype of the products."""

    input: torch.Tensor  # (directions, 4 * cell_dim, projection_dim)
    bias: torch.Tensor  # (directions, 4 * cell_dim)
    recurrent: torch.Tensor  # (directions, 4 * cell_dim, projection_dim)
    output: torch.Tensor | None  # (directions, projection_dim, cell_dim)

    def load(self, weights: _Weights) -> None:
        """Copy the weights into the buffers."""
        for buffer, group in zip(self, weights, strict=True):
            for one, weight in zip(() if buffer is None else buffer, group, strict=False):
                one.copy_(weight)

    def compute_gates(self, words: torch.Tensor, trace: _Trace) -> torch.Tensor:
        """Return `_Trace.gates` of known hidden states, in one product over all words."""
        before = trace.hiddens[:, :-1]
        gates = torch.baddbmm(self.bias[:, None], words.flatten(1, 2), self.input.mT)
        return gates.baddbmm_(before.flatten(1, 2), self.recurrent.mT).view(*words.shape[:3], -1)


class _Workspace:
    """
    The fixed buffers that CUDA graphs read and write, for one batch size.

    Rows after the batch may contain anything, because rows do not affect each other.

    Args:
        call, weights, cell: examples, for clips, sizes, dtypes and device.
        rows: sentences per direction; the batch size, rounded up.
        capture: as in `GpuTrainer`; None: no graphs.
    """

    def __init__(
        self,
        call: _Call,
        weights: _Weights,
        rows: int,
        cell: torch.Tensor,
        capture: Capture | None,
    ) -> None:
        self._graphs = Graphs(capture)
        new = partial(torch.zeros, device=cell.device)
        product, state = partial(new, dtype=call.dtype), partial(new, dtype=cell.dtype)
        directions, cell_dim, width = len(call.reverse), cell.shape[-1], weights.input[0].shape[1]
        maps = [None if one[0] is None else product(directions, *one[0].shape) for one in weights]
        self.maps = _Maps._make(maps)
        self._kernels = find_training_kernels(cell.device, cell.dtype)
        self._cell_clip = as_float(call.settings.cell_clip)
        self._projection_clip = None
        if self.maps.output is not None and call.settings.projection_clip is not None:
            # Rounded as `clamp` rounds it.
            clip = torch.tensor(call.settings.projection_clip, dtype=call.dtype)
            self._projection_clip = float(clip)

        step_bytes = directions * rows * 4 * cell_dim * call.dtype.itemsize
        self.longest = longest_piece(step_bytes, PIECE_BYTES)
        step, piece = (directions, rows), (directions, self.longest, rows)
        table = directions, self.longest + 1, rows
        self._words, self._valid = product(*piece, width), new(piece, dtype=torch.bool)
        self._gates, self._products = product(*piece, 4 * cell_dim), product(*piece, width)
        self._hiddens, self._cells = product(*table, width), state(*table, cell_dim)
        self._memories = product(*piece, cell_dim)
        # For the backward pass; `_flow` and `_held` are those of `settle_backward_plain`.
        self._d_outputs, self._flow = state(*piece, width), product(*step, width)
        self._held, self._d_cell = state(*step, width), state(*step, cell_dim)
        self._d_products, self._d_memory = product(*piece, width), product(*step, cell_dim)

    def read(
        self, words: torch.Tensor, valid: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> _Trace:
        """Read all words, `(directions, words, batch, width)`, from the initial states."""
        directions, length, batch = valid.shape
        trace = _Trace(
            words.new_empty(directions, length, batch, self._gates.shape[-1]),
            torch.empty_like(words),
            words.new_empty(directions, length + 1, batch, words.shape[-1]),
            cell.new_empty(directions, length + 1, batch, cell.shape[-1]),
        )
        trace.hiddens[:, 0], trace.cells[:, 0] = hidden, cell
        self._hiddens[:, 0, :batch], self._cells[:, 0, :batch] = hidden, cell
        for start, steps in split_length(length, self.longest):
            piece, after = slice(start, start + steps), slice(start + 1, start + steps + 1)
            self._words[:, :steps, :batch] = words[:, piece]
            self._valid[:, :steps, :batch] = valid[:, piece]
            self._graphs.run(("forward", steps), partial(self._read, steps))
            trace.gates[:, piece] = self._gates[:, :steps, :batch]
            trace.products[:, piece] = self._products[:, :steps, :batch]
            trace.hiddens[:, after] = self._hiddens[:, 1 : steps + 1, :batch]
            trace.cells[:, after] = self._cells[:, 1 : steps + 1, :batch]
        return trace

    def _read(self, steps: int) -> None:
        maps, kernels = self.maps, self._kernels
        gates, words = (part[:, :steps].flatten(1, 2) for part in (self._gates, self._words))
        torch.baddbmm(maps.bias[:, None], words, maps.input.mT, out=gates)
        for step in range(steps):
            z, valid, product = (x[:, step] for x in (self._gates, self._valid, self._products))
            z.baddbmm_(self._hiddens[:, step], maps.recurrent.mT)
            cells = self._cells[:, step], self._cells[:, step + 1]
            memory = product if maps.output is None else self._memories[:, step]
            kernels.update(z, valid, *cells, memory, self._cell_clip)
            if maps.output is not None:
                torch.bmm(memory, maps.output.mT, out=product)
            hiddens = self._hiddens[:, step], self._hiddens[:, step + 1]
            kernels.settle(product, valid, *hiddens, self._projection_clip)
        for table in (self._hiddens, self._cells):  # the next piece goes on from here
            table[:, 0] = table[:, steps]

    def read_backward(
        self,
        trace: _Trace,
        valid: torch.Tensor,
        d_outputs: torch.Tensor,
        d_hidden: torch.Tensor,
        d_cell: torch.Tensor,
    ) -> _Gradients:
        """Compute the gradients, from those of all outputs and of the final states."""
        _, length, batch = valid.shape
        d_gates, d_products = torch.empty_like(trace.gates), torch.empty_like(trace.products)
        memories = trace.gates.new_empty(*valid.shape, d_cell.shape[-1])
        self._flow.zero_()
        self._held[:, :batch], self._d_cell[:, :batch] = d_hidden, d_cell
        for start, steps in reversed([*split_length(length, self.longest)]):
            piece = slice(start, start + steps)
            self._valid[:, :steps, :batch] = valid[:, piece]
            self._gates[:, :steps, :batch] = trace.gates[:, piece]
            self._products[:, :steps, :batch] = trace.products[:, piece]
            self._cells[:, :steps, :batch] = trace.cells[:, piece]
            self._d_outputs[:, :steps, :batch] = d_outputs[:, piece]
            self._graphs.run(("backward", steps), partial(self._read_backward, steps))
            d_gates[:, piece] = self._gates[:, :steps, :batch]
            d_products[:, piece] = self._d_products[:, :steps, :batch]
            memories[:, piece] = self._memories[:, :steps, :batch]
        d_hidden = (self._held + self._flow)[:, :batch]
        return _Gradients(d_gates, d_products, d_hidden, self._d_cell[:, :batch].clone(), memories)

    def _read_backward(self, steps: int) -> None:
        maps, kernels = self.maps, self._kernels
        for step in reversed(range(steps)):
            z, valid, product = (x[:, step] for x in (self._gates, self._valid, self._products))
            d_output, d_product = self._d_outputs[:, step], self._d_products[:, step]
            settled = valid, d_output, product, d_product, self._projection_clip
            kernels.settle_backward(self._flow, self._held, *settled)
            d_memory = d_product
            if maps.output is not None:
                d_memory = torch.bmm(d_product, maps.output, out=self._d_memory)
            updated = d_memory, self._d_cell, self._memories[:, step], self._cell_clip
            kernels.update_backward(z, valid, self._cells[:, step], *updated)
            torch.bmm(z, maps.recurrent, out=self._flow)


@contextmanager
def _plainly(tensor: torch.Tensor) -> Iterator[None]:
    """Switch off gradients and autocast, and select the tensor's GPU."""
    with without_gradients(tensor), torch.autocast(tensor.device.type, enabled=False):
        yield


def _sum_products(d_outputs: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Return the gradients of weights `(directions, out, in)`, summed over all words."""
    return torch.bmm(d_outputs.mT, words.flatten(1, 2))


def _group(tensors: Sequence[Any], directions: int) -> list[list[Any]]:
    """Split into groups with one entry for each direction."""
    return [[*tensors[at : at + directions]] for at in range(0, len(tensors), directions)]


__all__ = ["GpuTrainer"]
