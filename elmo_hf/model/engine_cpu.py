# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The `cpu` engine: ELMo's LSTM without gradients on a CPU, many times faster than the reference.

It has three optimizations. Padding is skipped. The weights are copied once into the layout that
oneDNN multiplies fastest. And `tanh(x)` is computed as `2 sigmoid(2x) - 1`, because PyTorch's tanh
takes five times as long as its sigmoid on a CPU; the copied weights include the factors 2.
"""

from collections.abc import Iterator, Sequence

import torch

from .engine_onednn import (
    Kind,
    PreparedMap,
    add_product,
    dequantize,
    find_int8_kind,
    find_operators,
    is_int8,
    multiply,
    prepare_map,
    stored_values,
    without_python,
)
from .engine_packing import Packing
from .engine_weights import LstmSettings, LstmWeights

# Gates that the input map computes at once: more leave the cache, fewer make products inefficient.
PIECE_BYTES = 16 << 20


def find_cpu_obstacle(inputs: Sequence[torch.Tensor], weights: LstmWeights) -> str | None:
    """Return why `CpuLstm` cannot compute with these inputs and weights; None if it can."""
    maps = [stored_values(weight) for weight in weights if weight is not None]
    types = {weight.dtype for weight in weights if weight is not None}
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if not types <= {torch.float32, torch.bfloat16}:
        return f"the weights are {weights.input_weight.dtype}"
    # The output map may differ: transformers does not quantize a model's last linear map.
    if is_int8(weights.input_weight) != is_int8(weights.recurrent_weight):
        return "only one of the input and recurrent weights is quantized to 8 bits"
    if any(tensor.device.type != "cpu" for tensor in (*inputs, *maps)):
        return "a tensor is not on the CPU"
    if len(types) > 1:
        return "the weights' dtypes differ"
    if not all(weight.is_contiguous() for weight in maps):
        return "a weight is not contiguous"
    return None


class CpuLstm:
    """
    One direction of one layer, prepared for inference: `ElmoLstm`'s weights in the fastest layout.

    It contains weights but no states, so any number of threads may run it at once.

    Args:
        weights: float32, bfloat16 or torchao's 8 bits, on the CPU. Cell states are float32.
        settings: clips, direction, precision and operators.
    """

    def __init__(self, weights: LstmWeights, settings: LstmSettings) -> None:
        self.settings = settings
        self.dtype = weights.input_weight.dtype
        self.cell_dim = weights.input_weight.shape[0] // 4
        kind = _find_kind(weights, settings)
        candidate = slice(2 * self.cell_dim, 3 * self.cell_dim)
        input_weight, bias, recurrent_weight = (
            _double_rows(dequantize(tensor), candidate) for tensor in weights[:3]
        )
        self.input_map = prepare_map(kind, input_weight, bias)
        self.recurrent_map = prepare_map(kind, recurrent_weight, single_rows=True)
        self.output_map = None
        if weights.output_weight is not None:
            doubled = dequantize(weights.output_weight).detach() * 2
            clip = settings.projection_clip
            self.output_map = prepare_map(kind, doubled, None, clip, single_rows=True)

    @torch.no_grad()
    def run(
        self,
        inputs: torch.Tensor | None,
        mask: torch.Tensor,
        hidden: torch.Tensor,
        cell: torch.Tensor,
        unique: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """
        Compute the result of `ElmoLstm.run_reference`.

        Args:
            inputs: `(batch, words, projection_dim)`.
            mask: bool `(batch, words)`, False at padding.
            hidden: initial hidden state `(batch, projection_dim)`.
            cell: initial cell state, float32 `(batch, cell_dim)`.
            unique: replaces `inputs`: deduplicated vectors `(vectors, projection_dim)`, and the
                index of each word's vector `(batch, words)`. The input map is then applied to
                each vector once.

        Returns:
            Outputs `(batch, words, projection_dim)`, zero at padding, and the states after each
            sentence's last word.
        """
        packing = Packing(mask, self.settings.reverse)
        if not packing.sizes:
            return hidden.new_zeros(*mask.shape, hidden.shape[1]), (hidden, cell)
        bound = None if self.settings.cell_clip is None else 2.0 * self.settings.cell_clip
        read = without_python(_run_steps) if self.settings.operators is None else _run_steps
        doubled_cell = packing.sort_rows(cell) * 2
        outputs = [packing.sort_rows(hidden)]
        is_empty = not hidden.any()
        for gates in self._map_inputs(inputs, packing, unique):
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
        unique: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> Iterator[list[torch.Tensor]]:
        """Yield lists of the input map's outputs `(rows, 4 * cell_dim)` for some steps each."""
        places = table = None
        if unique is not None:
            vectors, where = unique
            places = packing.pack(where)
            if len(vectors) < len(places):
                table = multiply(self.input_map, vectors)
        else:
            assert inputs is not None
            vectors = packing.pack(inputs)
        limit = PIECE_BYTES // (16 * self.cell_dim)
        for start, stop in _split_steps(packing.sizes, limit):
            rows = slice(packing.offsets[start], packing.offsets[stop])
            if table is not None and places is not None:
                gates = table.index_select(0, places[rows])
            elif places is not None:
                gates = multiply(self.input_map, vectors.index_select(0, places[rows]))
            else:
                gates = multiply(self.input_map, vectors[rows])
            yield list(gates.split(packing.sizes[start:stop]))


def _run_steps(
    gates: list[torch.Tensor],
    hidden: torch.Tensor,
    is_empty: bool,
    cell: torch.Tensor,
    recurrent_map: PreparedMap,
    output_map: PreparedMap | None,
    bound: float | None,
) -> list[torch.Tensor]:
    """
    Read some steps of a packed batch.

    Args:
        gates: outputs of the input map for each step, `(rows, 4 * cell_dim)`.
        hidden: hidden state before the first step, `(rows, projection_dim)`.
        is_empty: whether this hidden state is zero, which makes its product unnecessary.
        cell: twice the cell state, float32 `(batch, cell_dim)`; overwritten.
        recurrent_map, output_map: as in `CpuLstm`.
        bound: twice the clip of the cell state.

    Returns:
        The output of each step, `(rows, projection_dim)`.
    """
    rows = gates[0].size(0)
    sigmoids = torch.empty(rows, gates[0].size(1), dtype=cell.dtype, device=cell.device)
    half = torch.empty(rows, cell.size(1), dtype=cell.dtype, device=cell.device)
    memory = cell[:rows]
    parts = sigmoids.chunk(4, 1)
    outputs: list[torch.Tensor] = []
    for inflow in gates:
        if inflow.size(0) != rows:
            rows = inflow.size(0)
            memory, half, sigmoids = memory[:rows], half[:rows], sigmoids[:rows]
            parts = sigmoids.chunk(4, 1)
        sums = inflow if is_empty else add_product(inflow, recurrent_map, hidden[:rows])
        is_empty = False
        torch.sigmoid(sums.to(cell.dtype), out=sigmoids)
        input_gate, forget_gate, candidate, output_gate = parts[0], parts[1], parts[2], parts[3]
        # 2c' = f * 2c + i * 2 * (2s - 1), where s is the sigmoid of twice the candidate.
        candidate.sub_(0.5)
        memory.mul_(forget_gate).addcmul_(input_gate, candidate, value=4.0)
        if bound is not None:
            memory.clamp_(-bound, bound)
        # Half the output, because the weights of the output map are doubled.
        torch.sigmoid(memory, out=half).sub_(0.5).mul_(output_gate)
        product = half * 2 if output_map is None else multiply(output_map, half)
        hidden = product.to(hidden.dtype)
        outputs.append(hidden)
    return outputs


def _find_kind(weights: LstmWeights, settings: LstmSettings) -> Kind:
    """
    Return the kind of all three products.

    With 8-bit gates the output map has 8 bits too, although transformers does not quantize a
    model's last map. In floating point its sums could differ in the last bit between batches, and
    this could round the next word's 8-bit input differently.
    """
    operators = settings.operators or find_operators(weights.input_weight.dtype)
    if is_int8(weights.input_weight) or settings.precision == "int8":
        return "plain int8" if operators == "plain" else find_int8_kind()
    return operators


def _double_rows(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    doubled = tensor.detach().clone(memory_format=torch.contiguous_format)
    doubled[rows] *= 2
    return doubled


def _split_steps(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of steps `(start, stop)`, with at most `limit` rows or with a single step."""
    start = rows = 0
    for step, size in enumerate(sizes):
        if step > start and rows + size > limit:
            yield start, step
            start, rows = step, 0
        rows += size
    if start < len(sizes):
        yield start, len(sizes)


__all__ = [
    "CpuLstm",
    "find_cpu_obstacle",
]
