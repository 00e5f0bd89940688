# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The LSTMs of a layer on a GPU without gradients: both directions at once, few launches a word.

A step is two batched products and two pointwise kernels, whatever the number of directions. Steps
are run in pieces of a power of two, so that few CUDA graphs serve sentences of any length. Nothing
is sorted: that would need the mask on the host. Padding is computed and discarded.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from .engine_copies import KeptCopy
from .engine_gpu_triton import find_kernels
from .engine_weights import LstmSettings, LstmWeights

State = tuple[torch.Tensor, torch.Tensor]
Capture = Callable[[Callable[[], None]], Callable[[], None]]

# Gates of one piece: enough rows for an efficient product, not much more than a cache holds.
PIECE_BYTES = 64 << 20
LONGEST_PIECE = 32
WORKSPACES = 4  # kept by each layer, one for each number of sentences
_capturing = threading.Lock()


def find_gpu_obstacle(tensors: Sequence[torch.Tensor], weights: LstmWeights) -> str | None:
    """Say why a GPU cannot read `(inputs, hidden, cell)` with these weights; None if it can."""
    (*products, cell), maps = tensors, [weight for weight in weights if weight is not None]
    everything, dtype = [*tensors, *maps], maps[0].dtype
    if cell.device.type != "cuda" or any(t.device != cell.device for t in everything):
        return "the tensors are not on one GPU"
    if torch.is_autocast_enabled("cuda"):
        return "autocast is on"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the weights are {dtype}"
    if any(t.dtype != dtype for t in [*products, *maps]) or cell.dtype != torch.float32:
        return "the tensors' types differ"
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
    """Do what `ElmoLstm.forward` does, and keep nothing for the next time."""
    with _quietly(inputs):
        stack = _stack([weights])
        workspace = _Workspace(stack, _round_up(len(mask)), settings, state, None)
        return _read(workspace, [settings], [inputs], [mask], [state])[0]


class GpuRunner(KeptCopy["_Kept"]):
    """
    The directions of one layer, run together; keeps their weights and graphs for the next time.

    It doubles the memory of the LSTMs' weights. Threads take turns.

    Args:
        capture: makes a graph of a function without arguments and returns what replays it.
            Default: a CUDA graph on a GPU, none elsewhere.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        super().__init__()
        self._capture = capture
        self._turn = threading.Lock()

    def run(
        self,
        weights: Sequence[LstmWeights],
        settings: Sequence[LstmSettings],
        inputs: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor],
        states: Sequence[State],
    ) -> list[tuple[torch.Tensor, State]]:
        """
        Do what `ElmoLstm.forward` does in each direction.

        Args:
            weights: of each direction, of one type, on one device.
            settings: of each direction; the clips must be the same.
            inputs: `(batch, words, projection_dim)` for each direction.
            masks: bool `(batch, words)` for each direction, False at padding.
            states: output `(batch, projection_dim)` and memory `(batch, cell_dim)` for each.

        Returns:
            For each direction outputs `(batch, words, projection_dim)`, zero at padding, and the
            state after each sentence's last word read.
        """
        with self._turn, _quietly(inputs[0]):
            maps = [weight for one in weights for weight in one if weight is not None]
            words = sum(mask.numel() for mask in masks)
            kept = self.get(maps, lambda: _keep(weights), words)
            workspace = self._find_workspace(kept, len(masks[0]), settings[0], states[0])
            return _read(workspace, settings, inputs, masks, states)

    def _find_workspace(
        self, kept: "_Kept", batch: int, settings: LstmSettings, state: State
    ) -> "_Workspace":
        rows, clips = _round_up(batch), (settings.cell_clip, settings.projection_clip)
        on_gpu, workspaces = state[0].is_cuda, kept.workspaces
        stream = torch.cuda.current_stream(state[0].device).cuda_stream if on_gpu else None
        key = rows, clips, stream, state[0].dtype, state[1].dtype
        if key not in workspaces:
            if len(workspaces) >= WORKSPACES:
                workspaces.popitem(last=False)
            capture = self._capture or (_capture_graph if on_gpu else None)
            workspaces[key] = _Workspace(kept.stack, rows, settings, state, capture)
        workspaces.move_to_end(key)
        return workspaces[key]


class _Stack(NamedTuple):
    """The weights of one direction above those of the other; a lone direction's are not copied."""

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
    """The weights of a layer, and the workspaces that read them, least recently used first."""

    stack: _Stack
    workspaces: "OrderedDict[Any, _Workspace]"


def _keep(weights: Sequence[LstmWeights]) -> _Kept:
    stack = _stack(weights)
    if stack.bias.is_cuda:  # other streams may use them next
        torch.cuda.current_stream(stack.bias.device).synchronize()
    return _Kept(stack, OrderedDict())


class _Workspace:
    """
    Places in memory for one number of sentences, where a graph finds what it reads and writes.

    Args:
        stack: the weights.
        rows: sentences of each direction, room for a few more than are given.
        settings: the clips.
        state: of the types and on the device of those to come.
        capture: as in `GpuRunner`; None never captures.
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
        self.stack, self._capture = stack, capture
        self.cell_clip = _as_float(settings.cell_clip)
        self.projection_clip = None if stack.output is None else _as_float(settings.projection_clip)
        self._update, self._settle, _ = find_kernels(cell.device, cell.dtype)
        directions, width, gates = stack.input.shape
        step_bytes = directions * rows * gates * hidden.element_size()
        self.longest = min(LONGEST_PIECE, _power_of_two(max(1, PIECE_BYTES // step_bytes)))
        piece = directions, self.longest, rows
        self.words = hidden.new_zeros(*piece, width)
        self.valid = torch.zeros(piece, dtype=torch.bool, device=hidden.device)
        self.gates = hidden.new_empty(*piece, gates)
        self.outputs = hidden.new_empty(*piece, width)
        self.hidden = hidden.new_zeros(directions, rows, width)
        self.cell = cell.new_zeros(directions, rows, gates // 4)
        self._sums = hidden.new_empty(directions, rows, gates)
        self._memory = hidden.new_zeros(directions, rows, gates // 4)
        # Without an output map the memory's output is the product.
        self._product = self._memory if stack.output is None else torch.empty_like(self.hidden)
        self._met: set[int] = set()
        self._replays: dict[int, Callable[[], None]] = {}

    def read(self, steps: int) -> None:
        """Read the first `steps` words of the piece, by a graph from the second time on."""
        if steps in self._replays:
            self._replays[steps]()
        elif self._capture is None or steps not in self._met:
            # The first time also compiles and loads what a capture must not meet.
            self._met.add(steps)
            self._read(steps)
        else:
            self._replays[steps] = self._make_replay(self._capture, steps)
            self._replays[steps]()

    def _make_replay(self, capture: Capture, steps: int) -> Callable[[], None]:
        def read() -> None:
            self._read(steps)

        try:
            return capture(read)
        except RuntimeError as error:
            warnings.warn(f"no CUDA graph could be captured: {error}", stacklevel=2)
            return read

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


def _read(
    workspace: _Workspace,
    settings: Sequence[LstmSettings],
    inputs: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    states: Sequence[State],
) -> list[tuple[torch.Tensor, State]]:
    """Feed a workspace piece by piece, each direction in its own reading order."""

    def turn(padded: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        ways = zip(padded, settings, strict=True)
        return [one.flip(1) if way.reverse else one for one, way in ways]

    batch, length = masks[0].shape
    words = torch.stack(turn(inputs)).transpose(1, 2)  # (directions, words, batch, projection_dim)
    valid = torch.stack(turn(masks)).transpose(1, 2)  # (directions, words, batch)
    outputs = torch.empty_like(words)
    hidden, cell = (torch.stack(parts) for parts in zip(*states, strict=True))
    workspace.hidden[:, :batch], workspace.cell[:, :batch] = hidden, cell
    # Rows from `batch` on may hold anything: none looks at another.
    for start, steps in _cut(length, workspace.longest):
        piece = slice(start, start + steps)
        workspace.words[:, :steps, :batch] = words[:, piece]
        workspace.valid[:, :steps, :batch] = valid[:, piece]
        workspace.read(steps)
        outputs[:, piece] = workspace.outputs[:, :steps, :batch]
    hidden.copy_(workspace.hidden[:, :batch])
    cell.copy_(workspace.cell[:, :batch])
    return [
        (output, (h, c))
        for output, h, c in zip(turn(outputs.transpose(1, 2).unbind()), hidden, cell, strict=True)
    ]


def _cut(words: int, longest: int) -> Iterator[tuple[int, int]]:
    """Start and number of the steps of each piece, powers of two that fall."""
    start = 0
    while start < words:
        steps = min(longest, _power_of_two(words - start))
        yield start, steps
        start += steps


def _round_up(batch: int) -> int:
    """Sentences to make room for: a few more, so that batches of about one size share graphs."""
    unit = max(8, _power_of_two(batch) // 8)
    return max(1, -(-batch // unit)) * unit


def _power_of_two(number: int) -> int:
    """The greatest that is not above the number."""
    return 1 << max(0, number.bit_length() - 1)


def _as_float(bound: float | None) -> float | None:
    return None if bound is None else float(bound)


@contextmanager
def _quietly(tensor: torch.Tensor) -> Iterator[None]:
    """No gradients, the tensor's GPU, and no inference tensors, which refuse later writes."""
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device_of(tensor):
        yield


def _capture_graph(read: Callable[[], None]) -> Callable[[], None]:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    # What other threads do meanwhile is no error, unless they capture too.
    with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        read()
    return graph.replay


__all__ = ["GpuRunner", "find_gpu_obstacle", "read_once"]
