# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The `scan` engine: the LSTM's loop as one operator, so a graph fits sentences of any length."""

import dataclasses
import warnings
from typing import Any

import torch

from .engine_weights import States

_TRANSLATOR = "_i_will_not_complain_if_bc_breaks_InstructionTranslator"
_warned: list[bool] = []


@torch.compiler.assume_constant_result
def has_scan() -> bool:
    """Whether this PyTorch has the private functions that a scan needs; warn once if not."""
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
            f"PyTorch {torch.__version__} lacks the scan operator that elmo_hf needs: compiled and "
            "exported models unroll the loop over words and accept sentences of one length only. "
            "Install another PyTorch release for graphs that fit all lengths",
            stacklevel=2,
        )
    return found


def run_scan(
    lstm: Any, inputs: torch.Tensor, mask: torch.Tensor, state: States
) -> tuple[torch.Tensor, States]:
    """Compute the result of `ElmoLstm.run_reference` with `input_map` and `scan_step`."""
    from torch._dynamo.comptime import comptime
    from torch._higher_order_ops.scan import scan

    if torch.compiler.is_dynamo_compiling():
        comptime(_allow_counting)
    gates = lstm.input_map(inputs).transpose(0, 1)  # (words, batch, 4 * cell_dim)
    valid = mask.t()[..., None]  # (words, batch, 1)

    # Not `contiguous()`, which keeps a single row's strides; the loop must not change strides.
    start = tuple(part.clone(memory_format=torch.contiguous_format) for part in state)
    end, outputs = scan(lstm.scan_step, start, (gates, valid), dim=0, reverse=lstm.reverse)
    return outputs.transpose(0, 1), end


def _allow_counting(compilation: Any) -> None:
    """
    Allow inductor to compile the scan to a loop with a step counter.

    Without this, `torch.compile` without `fullgraph=True` fails: it may not read the counter.
    """
    shapes = getattr(compilation, _TRANSLATOR)().output.shape_env
    shapes.settings = dataclasses.replace(shapes.settings, allow_scalar_outputs=True)


__all__ = ["has_scan", "run_scan"]
