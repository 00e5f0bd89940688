# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The LSTM's loop as one operator of a graph, so that one graph serves any number of words."""

import dataclasses
import warnings
from typing import Any

import torch

from .engine_weights import States

_TRANSLATOR = "_i_will_not_complain_if_bc_breaks_InstructionTranslator"
_warned: list[bool] = []


@torch.compiler.assume_constant_result
def has_scan() -> bool:
    """Whether this PyTorch has the private parts that a scan needs; warns once if it has not."""
    try:
        from torch._dynamo.comptime import ComptimeContext
        from torch._higher_order_ops.scan import scan  # noqa: F401
        from torch.fx.experimental.symbolic_shapes import ShapeEnvSettings

        names = {field.name for field in dataclasses.fields(ShapeEnvSettings)}
        found = hasattr(ComptimeContext, _TRANSLATOR) and "allow_scalar_outputs" in names
    except (ImportError, AttributeError, TypeError):
        found = False
    if not found and not _warned:
        _warned.append(True)
        warnings.warn(
            f"PyTorch {torch.__version__} lacks the scan operator in the form that elmo_hf knows; "
            "compiled and exported models unroll the loop over words and serve sentences of one "
            "length only. Other releases of PyTorch have it",
            stacklevel=2,
        )
    return found


def run_scan(
    lstm: Any, inputs: torch.Tensor, mask: torch.Tensor, state: States
) -> tuple[torch.Tensor, States]:
    """Do what `ElmoLstm.run_reference` does, by the LSTM's own `input_map` and `scan_step`."""
    from torch._dynamo.comptime import comptime
    from torch._higher_order_ops.scan import scan

    if torch.compiler.is_dynamo_compiling():
        comptime(_allow_counting)
    gates = lstm.input_map(inputs).transpose(0, 1)  # (words, batch, 4 * cell_dim)
    valid = mask.t()[..., None]  # (words, batch, 1)

    # `contiguous` keeps the strides of a single row, which the loop would not.
    start = tuple(part.clone(memory_format=torch.contiguous_format) for part in state)
    end, outputs = scan(lstm.scan_step, start, (gates, valid), dim=0, reverse=lstm.reverse)
    return outputs.transpose(0, 1), end


def _allow_counting(compilation: Any) -> None:
    """
    Let inductor turn the scan into a loop that counts its steps.

    `torch.compile` without `fullgraph=True` forbids it to look at the counter, and fails.
    """
    shapes = getattr(compilation, _TRANSLATOR)().output.shape_env
    shapes.settings = dataclasses.replace(shapes.settings, allow_scalar_outputs=True)


__all__ = ["has_scan", "run_scan"]
