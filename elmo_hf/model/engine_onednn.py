# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Linear maps through oneDNN, in floating point or 8 bits, and TorchScript."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from .engine_weights import Operators

Kind = Literal["onednn", "plain", "int8", "plain int8"]

# Up to this size BLAS multiplies a single row faster than oneDNN, whose call costs 15 us.
ROW_WEIGHT_BYTES = 4 << 20


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


# TorchScript must understand every line of the next three functions.


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


def add_product(gates: torch.Tensor, linear: PreparedMap, x: torch.Tensor) -> torch.Tensor:
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
        agrees &= torch.allclose(add_product(gates, trial, x), expected, atol=1e-2)
    except (AttributeError, RuntimeError):
        return "plain"
    return "onednn" if agrees else "plain"


# --- Weights that torchao has quantized to 8 bits, as `TorchAoConfig` does at loading ---


def is_int8(weight: torch.Tensor | None) -> bool:
    """Whether products with this weight have 8-bit weights and activations in torchao."""
    # By name, so that torchao need not be installed.
    return (
        type(weight).__name__ == "Int8Tensor"
        and getattr(weight, "act_quant_kwargs", None) is not None
    )


def dequantize(weight: torch.Tensor) -> torch.Tensor:
    """The weight in floating point, as it is or as near as its levels come."""
    return weight.dequantize() if is_int8(weight) else weight


def stored_values(weight: torch.Tensor) -> torch.Tensor:
    """What is kept of the weight: itself, or its levels, which change when it does."""
    return getattr(weight, "qdata") if is_int8(weight) else weight  # noqa: B009


__all__ = [
    "Kind",
    "PreparedMap",
    "add_product",
    "dequantize",
    "find_operators",
    "is_int8",
    "multiply",
    "prepare_map",
    "stored_values",
    "without_python",
]
