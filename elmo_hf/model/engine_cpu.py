# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The LSTM of ELMo on a CPU without gradients: the plain loop's values, many times faster.

Three things make the difference. No work is done on padding. The weights are copied once into the
layout that oneDNN multiplies fastest. And every tanh is a sigmoid, `tanh(x) = 2 sigmoid(2x) - 1`,
because PyTorch's tanh costs five sigmoids on a CPU; the factors go into the copied weights.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from .engine_packing import Packing
from .engine_quantization import dequantize, is_int8, stored_values
from .engine_weights import LstmSettings, LstmWeights, Operators

Kind = Literal["onednn", "plain", "int8", "plain int8"]

# Gates of one piece of the input map: more leaves the cache, less makes thin products.
PIECE_BYTES = 16 << 20
# Up to this size BLAS multiplies a single row faster than oneDNN, whose call costs 15 us.
ROW_WEIGHT_BYTES = 4 << 20
SAMPLE_SIZE = 64


def find_obstacle(inputs: Sequence[torch.Tensor], weights: LstmWeights) -> str | None:
    """Say why `PreparedLstm` cannot serve these inputs and weights; None if it can."""
    tensors = [*inputs, *(weight for weight in weights if weight is not None)]
    dtype = weights.input_weight.dtype
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the model is being compiled or exported"
    if torch._C._are_functorch_transforms_active():
        return "a function transform is at work"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"the weights are {dtype}"
    # The output map may differ: transformers leaves a model's last map as it is.
    if is_int8(weights.input_weight) != is_int8(weights.recurrent_weight):
        return "of the maps to the gates only one has 8 bits"
    if not all(is_ordinary(tensor) or is_int8(tensor) for tensor in tensors):
        return "a tensor is of a special type"
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return "a tensor is not on the CPU"
    if any(weight.dtype != dtype for weight in tensors[len(inputs) :]):
        return "the weights' types differ"
    if not all(stored_values(weight).is_contiguous() for weight in tensors[len(inputs) :]):
        return "a weight is not contiguous"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients are wanted"
    return None


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether a tensor is no subclass that gives the operators another meaning."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


class PreparedLstm:
    """
    One direction of one layer, ready for inference: `ElmoLstm`'s weights in the fastest layout.

    It holds copies and no state, so that any number of threads may run it at once.

    Args:
        weights: float32, bfloat16 or torchao's 8 bits, on the CPU. The memory is float32.
        settings: the clips, the direction, and how to compute.
    """

    def __init__(self, weights: LstmWeights, settings: LstmSettings) -> None:
        self.settings = settings
        self.dtype = weights.input_weight.dtype
        self.operators = settings.operators or find_operators(self.dtype)
        self.cell_dim = weights.input_weight.shape[0] // 4
        kinds = [self._kind(weight) for weight in weights]
        candidate = slice(2 * self.cell_dim, 3 * self.cell_dim)
        input_weight, bias, recurrent_weight = (
            _double_rows(dequantize(tensor), candidate) for tensor in weights[:3]
        )
        self.input_map = prepare_map(kinds[0], input_weight, bias)
        self.recurrent_map = prepare_map(kinds[2], recurrent_weight)
        self.output_map = None
        if weights.output_weight is not None:
            doubled = dequantize(weights.output_weight).detach() * 2
            self.output_map = prepare_map(kinds[3], doubled, None, settings.projection_clip)

    def _kind(self, weight: torch.Tensor | None) -> Kind:
        if is_int8(weight) or self.settings.precision == "int8":
            return "plain int8" if self.operators == "plain" else "int8"
        return self.operators

    @torch.no_grad()
    def run(
        self,
        inputs: torch.Tensor | None,
        mask: torch.Tensor,
        hidden: torch.Tensor,
        cell: torch.Tensor,
        distinct: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """
        Do what `ElmoLstm.forward` does.

        Args:
            inputs: `(batch, words, projection_dim)`.
            mask: bool `(batch, words)`, False at padding.
            hidden: output to start from, `(batch, projection_dim)`.
            cell: memory to start from, float32 `(batch, cell_dim)`.
            distinct: instead of `inputs`, vectors `(vectors, projection_dim)` and the place of
                each word's among them, `(batch, words)`: the input map then reads each vector once.

        Returns:
            Outputs `(batch, words, projection_dim)`, zero at padding, and the state after each
            sentence's last word read.
        """
        packing = Packing(mask, self.settings.reverse)
        if not packing.sizes:
            return hidden.new_zeros(*mask.shape, hidden.shape[1]), (hidden, cell)
        bound = None if self.settings.cell_clip is None else 2.0 * self.settings.cell_clip
        read = without_python(_read) if self.settings.operators is None else _read
        doubled_cell = packing.sort_rows(cell) * 2
        outputs = [packing.sort_rows(hidden)]
        is_empty = not hidden.any()
        for gates in self._map_inputs(inputs, packing, distinct):
            maps = self.recurrent_map, self.output_map
            outputs += read(gates, outputs[-1], is_empty, doubled_cell, *maps, bound)
            is_empty = False
        packed = torch.cat(outputs[1:])
        last, alive = packing.last_words()
        new_hidden = packed.index_select(0, last)
        if alive < packing.batch:
            new_hidden = torch.cat([new_hidden, packing.sort_rows(hidden)[alive:]])
        state = packing.unsort_rows(new_hidden), packing.unsort_rows(doubled_cell.mul_(0.5))
        return packing.unpack(packed), state

    def _map_inputs(
        self,
        inputs: torch.Tensor | None,
        packing: Packing,
        distinct: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> Iterator[list[torch.Tensor]]:
        """The input's share of the gates, `(rows, 4 * cell_dim)` each step, piece by piece."""
        places = table = None
        if distinct is not None:
            vectors, where = distinct
            places = packing.pack(where)
            if len(vectors) < len(places):
                table = multiply(self.input_map, vectors)
        else:
            assert inputs is not None
            vectors = packing.pack(inputs)
        limit = PIECE_BYTES // (16 * self.cell_dim)
        for start, stop in _cut(packing.sizes, limit):
            rows = slice(packing.offsets[start], packing.offsets[stop])
            if table is not None and places is not None:
                gates = table.index_select(0, places[rows])
            elif places is not None:
                gates = multiply(self.input_map, vectors.index_select(0, places[rows]))
            else:
                gates = multiply(self.input_map, vectors[rows])
            yield list(gates.split(packing.sizes[start:stop]))


class PreparedMap(NamedTuple):
    """
    A linear map in the layout of one kind of product.

    Args:
        kind: `"onednn"`, `"plain"`, `"int8"` or `"plain int8"`.
        weight: `(out, in)`, in oneDNN's own blocked layout unless plain.
        bias: `(out)`.
        bound: what the product is clipped to.
        row_weight: `(in, out)`, for single rows.
        scales: `(out)`, what one level of an 8-bit weight stands for.
        zeros: `(out)`, the levels of 0.
    """

    kind: str
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    bound: float | None = None
    row_weight: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    zeros: torch.Tensor | None = None


def prepare_map(
    kind: Kind, weight: torch.Tensor, bias: torch.Tensor | None = None, bound: float | None = None
) -> PreparedMap:
    """Lay out a weight `(out, in)`, float32 or bfloat16."""
    bound = None if bound is None else float(bound)
    if kind == "plain":
        return PreparedMap(kind, weight, bias, bound)
    if kind == "onednn":
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight, 32)
        small = weight.numel() * weight.element_size() <= ROW_WEIGHT_BYTES
        by_row = weight.dtype == torch.float32 and bias is None and small
        row_weight = weight.t().contiguous() if by_row else None
        return PreparedMap(kind, blocked, bias, bound, row_weight)
    weight, bias = weight.float(), None if bias is None else bias.float()
    scales = weight.abs().amax(1).clamp_min(1e-30) / 127
    levels = (weight / scales[:, None]).round()  # (out, in), from -127 to 127
    if kind == "plain int8":
        return PreparedMap(kind, levels * scales[:, None], bias, bound)
    blocked = torch.ops.onednn.qlinear_prepack(levels.to(torch.int8), None)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return PreparedMap(kind, blocked, bias, bound, None, scales, zeros)


# From here to `_read` TorchScript must understand every line.


def multiply(linear: PreparedMap, x: torch.Tensor) -> torch.Tensor:
    """`x W^T + b`, bounded; float32 from an 8-bit map, else of the weight's type."""
    row_weight, bias, bound = linear.row_weight, linear.bias, linear.bound
    if linear.kind.endswith("int8"):
        levels, scale = _multiply_levels(linear, x)
        product = levels.mul_(scale)
        if bias is not None:
            product.add_(bias)
    elif row_weight is not None and x.size(0) == 1:
        product = torch.mm(x, row_weight)
    elif linear.kind == "plain":
        product = F.linear(x.to(linear.weight.dtype), linear.weight, bias)
    else:
        x = x.to(linear.weight.dtype)
        nothing: list[int | float | complex | None] = []
        product = torch.ops.mkldnn._linear_pointwise(x, linear.weight, bias, "none", nothing, "")
    return product if bound is None else product.clamp_(-bound, bound)


def _add_product(gates: torch.Tensor, linear: PreparedMap, x: torch.Tensor) -> torch.Tensor:
    """`gates + x W^T`, `(rows, 4 * cell_dim)`."""
    if linear.kind.endswith("int8"):
        product, scale = _multiply_levels(linear, x)
        return product.mul_(scale).add_(gates)  # addcmul takes three times as long
    row_weight = linear.row_weight
    if row_weight is not None and x.size(0) == 1:
        return torch.addmm(gates, x, row_weight)
    if linear.kind == "plain":
        return torch.addmm(gates, x, linear.weight.t())
    return torch.ops.mkldnn._linear_pointwise(x, gates, linear.weight, None, "add")


def _multiply_levels(linear: PreparedMap, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The product with 8 bits, and each row's scale `(rows, 1)` still to apply.

    oneDNN's product knows one scale for all rows, which would make a row's values depend on its
    neighbours'. So each row is scaled to [-1, 1] before it and scaled back after it.
    """
    scale = torch.amax(torch.abs(x), 1, True).to(torch.float32).clamp_min_(1e-30)
    # Half a unit above 128, the zero point, so that cutting off rounds to the nearest.
    levels = (x * (127.0 / scale)).add_(128.5).to(torch.uint8)
    scales, zeros = linear.scales, linear.zeros
    if scales is None or zeros is None:
        return F.linear(levels.to(torch.float32).sub_(128.0), linear.weight) / 127.0, scale
    weight, one_level = linear.weight, 1.0 / 127.0
    nothing: list[int | float | complex | None] = []
    product = torch.ops.onednn.qlinear_pointwise(
        levels,
        one_level,
        128,
        weight,
        scales,
        zeros,
        None,
        1.0,
        0,
        torch.float32,
        "none",
        nothing,
        "",
    )
    return product, scale


def _read(
    gates: list[torch.Tensor],
    hidden: torch.Tensor,
    is_empty: bool,
    cell: torch.Tensor,
    recurrent_map: PreparedMap,
    output_map: PreparedMap | None,
    bound: float | None,
) -> list[torch.Tensor]:
    """
    Read one piece of a packed batch, step by step.

    Args:
        gates: the input's share of the gates for each step, `(rows, 4 * cell_dim)`.
        hidden: output before the first step, `(rows, projection_dim)`.
        is_empty: that output is zero, and so is its share of the gates.
        cell: twice the memory, float32 `(batch, cell_dim)`; overwritten.
        recurrent_map, output_map: as `PreparedLstm` holds them.
        bound: twice the memory's clip.

    Returns:
        The outputs of each step, `(rows, projection_dim)`.
    """
    rows = gates[0].size(0)
    sigmoids = torch.empty(rows, gates[0].size(1), dtype=cell.dtype)
    half = torch.empty(rows, cell.size(1), dtype=cell.dtype)
    memory = cell[:rows]
    parts = sigmoids.chunk(4, 1)
    outputs: list[torch.Tensor] = []
    for inflow in gates:
        if inflow.size(0) != rows:
            rows = inflow.size(0)
            memory, half, sigmoids = memory[:rows], half[:rows], sigmoids[:rows]
            parts = sigmoids.chunk(4, 1)
        sums = inflow if is_empty else _add_product(inflow, recurrent_map, hidden[:rows])
        is_empty = False
        torch.sigmoid(sums.to(cell.dtype), out=sigmoids)
        input_gate, forget_gate, candidate, output_gate = parts[0], parts[1], parts[2], parts[3]
        # 2c' = f * 2c + i * 2 * (2s - 1), s being the sigmoid of twice the candidate.
        candidate.sub_(0.5)
        memory.mul_(forget_gate).addcmul_(input_gate, candidate, value=4.0)
        if bound is not None:
            memory.clamp_(-bound, bound)
        # Half the output, since the output map is doubled.
        torch.sigmoid(memory, out=half).sub_(0.5).mul_(output_gate)
        product = half * 2 if output_map is None else multiply(output_map, half)
        hidden = product.to(hidden.dtype)
        outputs.append(hidden)
    return outputs


@functools.cache
def without_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    The function in TorchScript, where that can still be had, else itself.

    Between its operators no thread waits for Python's lock.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.jit.script(function)
        except Exception:
            return function


@functools.cache
def find_operators(dtype: torch.dtype) -> Operators:
    """`"onednn"` if its operators are here and give what `F.linear` gives, found by trial."""
    weight = torch.arange(-32.0, 32.0).reshape(16, 4).to(dtype) / 32
    x, gates = torch.ones(3, 4, dtype=dtype) / 2, torch.ones(3, 16, dtype=dtype)
    try:
        trial = prepare_map("onednn", weight, gates[0], 0.5)._replace(row_weight=None)
        expected = F.linear(x, weight) + 1
        agrees = torch.allclose(multiply(trial, x), expected.clamp(-0.5, 0.5), atol=1e-2)
        agrees &= torch.allclose(_add_product(gates, trial, x), expected, atol=1e-2)
    except (AttributeError, RuntimeError):
        return "plain"
    return "onednn" if agrees else "plain"


class PreparedCache:
    """
    Keeps the `PreparedLstm` of weights for as long as they stay what they are.

    A change is seen by the tensors' identity, place, type and version counter; and, since a write
    through `.data` passes by that counter, by a sample of their values. Copies and pickles are
    empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entry: tuple[Any, PreparedLstm] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return PreparedCache, ()

    def get(self, weights: LstmWeights, settings: LstmSettings) -> PreparedLstm:
        """The weights made ready, anew only if they or the settings changed."""
        key = (settings, *(_describe(weight) for weight in weights))
        entry = self._entry
        if entry is None or entry[0] != key:
            with self._lock:
                entry = self._entry
                if entry is None or entry[0] != key:
                    self._entry = None  # never two copies at once
                    with torch.no_grad():
                        entry = self._entry = key, PreparedLstm(weights, settings)
        return entry[1]


def _describe(weight: torch.Tensor | None) -> tuple[Any, ...]:
    if weight is None:
        return ()
    weight = stored_values(weight)
    version = -1 if weight.is_inference() else weight._version
    sample = weight.detach().flatten()
    sample = sample[:: len(sample) // SAMPLE_SIZE | 1]  # odd, to meet more than one column
    if sample.dtype == torch.bfloat16:
        sample = sample.view(torch.int16)
    place = id(weight), weight.data_ptr(), version, weight.dtype, weight.shape
    return *place, sample.numpy().tobytes()


def _double_rows(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    doubled = tensor.detach().clone(memory_format=torch.contiguous_format)
    doubled[rows] *= 2
    return doubled


def _cut(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Runs of steps `(start, stop)` that hold at most `limit` rows each, but at least one step."""
    start = rows = 0
    for step, size in enumerate(sizes):
        if step > start and rows + size > limit:
            yield start, step
            start, rows = step, 0
        rows += size
    if start < len(sizes):
        yield start, len(sizes)


__all__ = [
    "PreparedCache",
    "PreparedLstm",
    "find_obstacle",
    "find_operators",
    "is_ordinary",
    "multiply",
    "prepare_map",
    "without_python",
]
