# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""What the engines for a GPU share: loops over words in pieces, as CUDA graphs, on kept buffers."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

Workspace = TypeVar("Workspace")
Capture = Callable[[Callable[[], None]], Callable[[], None]]

LONGEST_PIECE = 32  # steps
WORKSPACES = 4  # kept by each layer, for different batch sizes
_capturing = threading.Lock()


class Graphs:
    """
    Class that runs functions, each as a CUDA graph from its second call on.

    Args:
        capture: captures a graph of a function without arguments; returns a function that replays
            it. None: no graphs.
    """

    def __init__(self, capture: Capture | None) -> None:
        self._capture = capture
        self._seen: set[Hashable] = set()
        self._replays: dict[Hashable, Callable[[], None]] = {}

    def run(self, key: Hashable, function: Callable[[], None]) -> None:
        """Run the function, which does the same in every call with this key."""
        if key in self._replays:
            self._replays[key]()
        elif self._capture is None or key not in self._seen:
            # The first call compiles and loads kernels, which must not happen during a capture.
            self._seen.add(key)
            function()
        else:
            self._replays[key] = _make_replay(self._capture, function)
            self._replays[key]()


class Workspaces(Generic[Workspace]):
    """The workspaces of a layer that were used last, for different batch sizes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Workspace] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Workspace]) -> Workspace:
        """Return the workspace with this key; if there is none, the one that `make` returns."""
        if key not in self._kept:
            if len(self._kept) >= WORKSPACES:
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]

    def values(self) -> list[Workspace]:
        return list(self._kept.values())

    def clear(self) -> None:
        self._kept.clear()


def graph_capture(device: torch.device) -> Capture | None:
    """Return how functions become CUDA graphs on this device; None if it has none."""
    return _capture_graph if device.type == "cuda" else None


def stream_of(device: torch.device) -> int | None:
    """Return the current stream of a GPU, whose order of work a workspace relies on."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


@contextmanager
def without_gradients(tensor: torch.Tensor) -> Iterator[None]:
    """Disable gradients and inference mode (its tensors refuse writes); select the tensor's GPU."""
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device_of(tensor):
        yield


def to_steps(padded: Sequence[torch.Tensor], reverse: Sequence[bool]) -> torch.Tensor:
    """Stack `(batch, words, ...)` of each direction, in its order of reading, as
    `(directions, words, batch, ...)`."""
    pairs = zip(padded, reverse, strict=True)
    turned = [tensor.flip(1) if backward else tensor for tensor, backward in pairs]
    return torch.stack(turned).transpose(1, 2)


def from_steps(steps: torch.Tensor, reverse: Sequence[bool]) -> list[torch.Tensor]:
    """Undo `to_steps`."""
    pairs = zip(steps.transpose(1, 2).unbind(), reverse, strict=True)
    return [tensor.flip(1) if backward else tensor for tensor, backward in pairs]


def longest_piece(step_bytes: int, piece_bytes: int) -> int:
    """Return the number of steps of the longest piece, a power of two, for a step's gates."""
    return min(LONGEST_PIECE, power_of_two(max(1, piece_bytes // max(1, step_bytes))))


def split_length(words: int, longest: int) -> Iterator[tuple[int, int]]:
    """Yield first step and number of steps of each piece; the numbers are powers of two."""
    start = 0
    while start < words:
        steps = min(longest, power_of_two(words - start))
        yield start, steps
        start += steps


def round_up(batch: int) -> int:
    """Round a batch size up, so that batches of similar sizes share graphs."""
    unit = max(8, power_of_two(batch) // 8)
    return max(1, -(-batch // unit)) * unit


def power_of_two(number: int) -> int:
    """Return the largest power of two that is at most `number` (1 for 0)."""
    return 1 << max(0, number.bit_length() - 1)


def as_float(bound: float | None) -> float | None:
    """Return a clip as a number that kernels take; None stays None."""
    return None if bound is None else float(bound)


def _make_replay(capture: Capture, function: Callable[[], None]) -> Callable[[], None]:
    try:
        return capture(function)
    except RuntimeError as error:
        warnings.warn(f"no CUDA graph could be captured: {error}; using none", stacklevel=2)
        return function


def _capture_graph(function: Callable[[], None]) -> Callable[[], Any]:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    # "thread_local": CUDA calls of other threads are allowed during a capture.
    with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        function()
    return graph.replay


__all__ = [
    "Capture",
    "Graphs",
    "Workspaces",
    "as_float",
    "from_steps",
    "graph_capture",
    "longest_piece",
    "power_of_two",
    "round_up",
    "split_length",
    "stream_of",
    "to_steps",
    "without_gradients",
]
