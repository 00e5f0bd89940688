# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The `gpu` engine: the LSTMs of a layer without gradients, both directions in the same kernels.

A step is two batched products and two pointwise kernels for all directions. Steps run in pieces
whose length is a power of two, so a few CUDA graphs are enough for sentences of any length. The
sentences are not sorted, which would need the mask on the host. Padding is computed and discarded.
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from .engine_copies import KeptCopy
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
from .engine_gpu_training import GpuTrainer
from .engine_gpu_triton import find_kernels
from .engine_weights import LstmSettings, LstmWeights

State = tuple[torch.Tensor, torch.Tensor]

# Gates of one piece: enough rows for efficient products, but not much more than a cache holds.
PIECE_BYTES = 64 << 20


def find_gpu_obstacle(tensors: Sequence[torch.Tensor], weights: LstmWeights) -> str | None:
    """Return why a GPU cannot compute with `(inputs, hidden, cell)` and weights; None if it can."""
    (*products, cell), maps = tensors, [weight for weight in weights if weight is not None]
    everything, dtype = [*tensors, *maps], maps[0].dtype
    if cell.device.type != "cuda" or any(t.device != cell.device for t in everything):
        return "the tensors are not on one GPU"
    if torch.is_autocast_enabled("cuda"):
        return "autocast is on"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the weights are {dtype}"
    if any(t.dtype != dtype for t in [*products, *maps]) or cell.dtype != torch.float32:
        return "the tensors' dtypes differ"
    if torch.cuda.is_current_stream_capturing():
        return "the caller is capturing a CUDA graph"
    return None


def read_once(
    weights: LstmWeights,
    settings: LstmSettings,
    inputs: torch.Tensor,
    mask: torch.Tensor,
    state: State,
) -> tuple[torch.Tensor, State]:
    """Compute the result of `ElmoLstm.run_reference` without keeping weights or graphs."""
    with without_gradients(inputs):
        stack = _stack([weights])
        workspace = _Workspace(stack, round_up(len(mask)), settings, state, None)
        return _run_pieces(workspace, [settings], [inputs], [mask], [state])[0]


class GpuRunner(KeptCopy["_Kept"]):
    """
    Class that runs the directions of one layer together, and caches their weights and graphs.

    The cache takes as much memory as the LSTMs' weights. Threads take turns. With gradients,
    `trainer` runs the layer.

    Args:
        capture: captures a graph of a function without arguments; returns a function that replays
            it. Default: CUDA graphs on a GPU, no graphs elsewhere.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        super().__init__()
        self._capture = capture
        self._turn = threading.Lock()
        self.trainer = GpuTrainer(capture)

    def clear(self) -> None:
        super().clear()
        self.trainer.clear()

    def clear_if_stale(self, weights: Sequence[torch.Tensor]) -> None:
        """Drop the copy if its tensors were replaced, moved, or converted; drop all buffers."""
        super().clear_if_stale(weights)
        self.trainer.clear()

    def run(
        self,
        weights: Sequence[LstmWeights],
        settings: Sequence[LstmSettings],
        inputs: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor],
        states: Sequence[State],
    ) -> list[tuple[torch.Tensor, State]]:
        """
        Compute the result of `ElmoLstm.run_reference` for each direction.

        Args:
            weights: for each direction, with the same dtype and device.
            settings: for each direction, with the same clips.
            inputs: for each direction, `(batch, words, projection_dim)`.
            masks: for each direction, bool `(batch, words)`, False at padding.
            states: for each, hidden `(batch, projection_dim)` and cell state `(batch, cell_dim)`.

        Returns:
            For each direction, outputs `(batch, words, projection_dim)`, zero at padding, and the
            states after each sentence's last word.
        """
        with self._turn, without_gradients(inputs[0]):
            maps = [weight for one in weights for weight in one if weight is not None]
            words = sum(mask.numel() for mask in masks)
            kept = self.get(maps, lambda: _keep(weights), words)
            workspace = self._find_workspace(kept, len(masks[0]), settings[0], states[0])
            return _run_pieces(workspace, settings, inputs, masks, states)

    def _find_workspace(
        self, kept: "_Kept", batch: int, settings: LstmSettings, state: State
    ) -> "_Workspace":
        rows, clips = round_up(batch), (settings.cell_clip, settings.projection_clip)
        device, dtypes = state[0].device, tuple(part.dtype for part in state)
        capture = self._capture or graph_capture(device)
        make = partial(_Workspace, kept.stack, rows, settings, state, capture)
        return kept.workspaces.get((rows, clips, stream_of(device), dtypes), make)


class _Stack(NamedTuple):
    """The weights of all directions, stacked; those of a single direction are not copied."""

    input: torch.Tensor  # (directions, projection_dim, 4 * cell_dim), transposed
    bias: torch.Tensor  # (directions, 1, 4 * cell_dim)
    recurrent: torch.Tensor  # (directions, projection_dim, 4 * cell_dim), transposed
    output: torch.Tensor | None  # (directions, cell_dim, projection_dim), transposed


def _stack(weights: Sequence[LstmWeights]) -> _Stack:
    def join(parts: tuple[Any, ...]) -> torch.Tensor:
        return torch.stack(parts) if len(parts) > 1 else parts[0].detach()[None]

    inputs, biases, recurrents, outputs = zip(*weights, strict=True)
    return _Stack(
        join(inputs).transpose(1, 2),
        join(biases)[:, None].contiguous(),
        join(recurrents).transpose(1, 2),
        None if outputs[0] is None else join(outputs).transpose(1, 2),
    )


class _Kept(NamedTuple):
    """The weights of a layer, and the workspaces that use them."""

    stack: _Stack
    workspaces: "Workspaces[_Workspace]"


def _keep(weights: Sequence[LstmWeights]) -> _Kept:
    stack = _stack(weights)
    if stack.bias.is_cuda:  # other streams may use the copies next
        torch.cuda.current_stream(stack.bias.device).synchronize()
    return _Kept(stack, Workspaces())


class _Workspace:
    """
    The fixed buffers that a CUDA graph reads and writes, for one batch size.

    Args:
        stack: the weights.
        rows: sentences per direction; the batch size, rounded up.
        settings: the clips.
        state: example of hidden and cell state, for dtypes and device.
        capture: as in `GpuRunner`; None: no graphs.
    """

    def __init__(
        self,
        stack: _Stack,
        rows: int,
        settings: LstmSettings,
        state: State,
        capture: Capture | None,
    ) -> None:
        hidden, cell = state
        self.stack, self._graphs = stack, Graphs(capture)
        self.cell_clip = as_float(settings.cell_clip)
        self.projection_clip = None if stack.output is None else as_float(settings.projection_clip)
        self._update, self._settle, _ = find_kernels(cell.device, cell.dtype)
        directions, width, gates = stack.input.shape
        step_bytes = directions * rows * gates * hidden.element_size()
        self.longest = longest_piece(step_bytes, PIECE_BYTES)
        piece = directions, self.longest, rows
        self.words = hidden.new_zeros(*piece, width)
        self.valid = torch.zeros(piece, dtype=torch.bool, device=hidden.device)
        self.gates = hidden.new_empty(*piece, gates)
        self.outputs = hidden.new_empty(*piece, width)
        self.hidden = hidden.new_zeros(directions, rows, width)
        self.cell = cell.new_zeros(directions, rows, gates // 4)
        self._sums = hidden.new_empty(directions, rows, gates)
        self._memory = hidden.new_zeros(directions, rows, gates // 4)
        # Without an output map, `_memory` is the output already.
        self._product = self._memory if stack.output is None else torch.empty_like(self.hidden)

    def read(self, steps: int) -> None:
        """Read the first `steps` words of the piece, with a graph from the second call on."""
        self._graphs.run(steps, partial(self._read, steps))

    def _read(self, steps: int) -> None:
        stack = self.stack
        rows = self.words[:, :steps].flatten(1, 2)  # (directions, steps * rows, projection_dim)
        torch.bmm(rows, stack.input, out=self.gates[:, :steps].flatten(1, 2))
        for step in range(steps):
            gates, valid = self.gates[:, step], self.valid[:, step]
            torch.bmm(self.hidden, stack.recurrent, out=self._sums)
            inflow = gates, self._sums, stack.bias
            self._update(*inflow, valid, self.cell, self._memory, self.cell_clip)
            if stack.output is not None:
                torch.bmm(self._memory, stack.output, out=self._product)
            outputs = self.outputs[:, step]
            self._settle(self._product, valid, self.hidden, outputs, self.projection_clip)


def _run_pieces(
    workspace: _Workspace,
    settings: Sequence[LstmSettings],
    inputs: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    states: Sequence[State],
) -> list[tuple[torch.Tensor, State]]:
    """Run a workspace piece by piece, with the words of each direction in its reading order."""
    reverse = [setting.reverse for setting in settings]
    batch, length = masks[0].shape
    words = to_steps(inputs, reverse)  # (directions, words, batch, projection_dim)
    valid = to_steps(masks, reverse)  # (directions, words, batch)
    outputs = torch.empty_like(words)
    hidden, cell = (torch.stack(parts) for parts in zip(*states, strict=True))
    workspace.hidden[:, :batch], workspace.cell[:, :batch] = hidden, cell
    # Rows from `batch` on may contain anything, because rows do not affect each other.
    for start, steps in split_length(length, workspace.longest):
        piece = slice(start, start + steps)
        workspace.words[:, :steps, :batch] = words[:, piece]
        workspace.valid[:, :steps, :batch] = valid[:, piece]
        workspace.read(steps)
        outputs[:, piece] = workspace.outputs[:, :steps, :batch]
    hidden.copy_(workspace.hidden[:, :batch])
    cell.copy_(workspace.cell[:, :batch])
    return [
        (output, (h, c))
        for output, h, c in zip(from_steps(outputs, reverse), hidden, cell, strict=True)
    ]


__all__ = ["GpuRunner", "find_gpu_obstacle", "read_once"]
