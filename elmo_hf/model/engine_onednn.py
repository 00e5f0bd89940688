# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Linear maps by oneDNN, in floating point or 8 bits, and loops in TorchScript.

PyTorch keeps oneDNN's operators private and has announced the end of TorchScript. So this file
alone uses them, for every engine; it tries them on values once per process, and where one is
missing, takes other arguments, or gives other values, PyTorch's public operators take its place.
`operators_info` tells what is in use.
"""

import functools
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from .engine_threads import call_in_new_thread
from .engine_weights import Operators

Kind = Literal["onednn", "plain", "int8", "split int8", "plain int8"]
_Type = torch.dtype | Literal["int8"]

# Up to this size BLAS multiplies a single row faster than oneDNN, whose call costs 15 us.
ROW_WEIGHT_BYTES = 4 << 20
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the trial, for sums near 1

# Replaced by True in TorchScript, which does not compile what follows a return.
_is_scripting = getattr(torch.jit, "is_scripting", lambda: False)

logger = logging.getLogger(__name__)


class PreparedMap(NamedTuple):
    """
    A linear map in the layout of one kind of product.

    Args:
        kind: `"onednn"` or `"plain"` in floating point; `"int8"`, `"split int8"` or `"plain int8"`
            with levels of 8 bits.
        weight: `(out, in)`, in oneDNN's own blocked layout unless plain; levels if 8-bit.
        bias: `(out)`.
        bound: what the product is clipped to.
        row_weight: `(in, out)`, for single rows.
        scales: `(out)`, what a product of one level of the weight and one of a row with largest
            value 1 stands for.
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
    kind: Kind,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    bound: float | None = None,
    *,
    rows: int = 32,
    single_rows: bool = False,
) -> PreparedMap:
    """
    Lay out a weight for one kind of product.

    Args:
        kind: as `find_operators` and `find_int8_kind` give it.
        weight: `(out, in)`, float32 or bfloat16.
        bias: `(out)`.
        bound: what to clip the product to.
        rows: a hint at how many will be multiplied at once; any number can be.
        single_rows: whether products of one row are frequent enough for a layout of their own.
    """
    bound = None if bound is None else float(bound)
    if kind == "plain":
        return PreparedMap(kind, weight, bias, bound)
    if kind == "onednn":
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        small = weight.numel() * weight.element_size() <= ROW_WEIGHT_BYTES
        by_row = single_rows and small and weight.dtype == torch.float32 and bias is None
        row_weight = weight.t().contiguous() if by_row else None
        return PreparedMap(kind, blocked, bias, bound, row_weight)
    weight, bias = weight.float(), None if bias is None else bias.float()
    level = weight.abs().amax(1).clamp_min(1e-30) / 127  # (out)
    levels = (weight / level[:, None]).round()  # (out, in), from -127 to 127
    scales = level / 127
    if kind == "plain int8":
        return PreparedMap(kind, levels, bias, bound, None, scales)
    blocked = torch.ops.onednn.qlinear_prepack(levels.to(torch.int8), None)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device="cpu")
    return PreparedMap(kind, blocked, bias, bound, None, scales, zeros)


# TorchScript must understand every line of the next three functions.


def multiply(linear: PreparedMap, x: torch.Tensor, then: str = "none") -> torch.Tensor:
    """
    `x W^T + b`, clipped to the map's bound; float32 from an 8-bit map, else of the weight's type.

    Args:
        linear: the map.
        x: `(rows, in)`.
        then: `"relu"`, `"sigmoid"` or `"none"`, applied to the sum.
    """
    row_weight, bias, bound = linear.row_weight, linear.bias, linear.bound
    if linear.scales is not None:
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
        product = torch.ops.mkldnn._linear_pointwise(x, linear.weight, bias, then, nothing, "")
        then = "none"
    if then == "relu":
        product = torch.relu(product)
    elif then == "sigmoid":
        product = torch.sigmoid(product)
    return product if bound is None else product.clamp_(-bound, bound)


def add_product(gates: torch.Tensor, linear: PreparedMap, x: torch.Tensor) -> torch.Tensor:
    """`gates + x W^T`, `(rows, out)`."""
    if linear.scales is not None:
        product, scale = _multiply_levels(linear, x)
        return product.mul_(scale).add_(gates)  # addcmul takes three times as long
    row_weight = linear.row_weight
    if row_weight is not None and x.size(0) == 1:
        return torch.addmm(gates, x, row_weight)
    if linear.kind == "plain":
        return torch.addmm(gates, x, linear.weight.t())
    if _is_scripting():
        return torch.ops.mkldnn._linear_pointwise(x, gates, linear.weight, None, "add")
    # TorchScript does not know the overload by its name, which saves Python the search for it.
    return torch.ops.mkldnn._linear_pointwise.binary(x, gates, linear.weight, None, "add")


def _multiply_levels(linear: PreparedMap, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The product with 8 bits, and each row's scale `(rows, 1)` still to apply.

    oneDNN's product knows one scale for all rows, which would make a row's values depend on its
    neighbours'. So each row is scaled to [-1, 1] before it and scaled back after it. The sums are
    whole numbers, so that a row gives the same bits whatever is multiplied beside it.
    """
    scale = torch.amax(torch.abs(x), 1, True).to(torch.float32).clamp_min_(1e-30)
    # Half a unit above 128, the zero point, so that cutting off rounds to the nearest.
    levels = (x * (127.0 / scale)).add_(128.5).to(torch.uint8)
    scales, zeros = linear.scales, linear.zeros
    assert scales is not None
    if zeros is None:
        return F.linear(levels.to(torch.float32).sub_(128.0), linear.weight).mul_(scales), scale
    zero = 128
    if linear.kind == "split int8":
        # level - 128 = 2 (a - 64) + (b - 64), and two products with a or b fit into 16 bits.
        levels, zero = torch.cat([levels >> 1, (levels & 1).add_(64)]), 64
    weight = linear.weight
    nothing: list[int | float | complex | None] = []
    # One scale of the product is 1: two would be multiplied in an order that varies.
    product = torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, zero, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", nothing, ""
    )
    if linear.kind == "split int8":
        halves = product.chunk(2)
        product = halves[0].mul_(2.0).add_(halves[1])
    return product, scale


# --- What this torch and this CPU have ---


def find_operators(dtype: torch.dtype) -> Operators:
    """`"onednn"` where its products of this type can be had, else `"plain"`."""
    return "plain" if _find_obstacle(dtype) else "onednn"


def find_int8_kind() -> Kind:
    """
    The kind of 8-bit products: oneDNN's where they are exact, else `"plain int8"`.

    CPUs without VNNI (Intel's before Ice Lake and Cascade Lake, AMD's before Zen 4) add two
    products of 8 bits in 16, which do not hold the largest sums. `"split int8"` gives the same
    values there, by twice as many products.
    """
    return "plain int8" if _find_obstacle("int8") else _try_int8()[0]


def operators_info() -> str:
    """What multiplies on the CPU, and what runs the loop over words, with the reasons."""
    types: tuple[_Type, ...] = (torch.float32, torch.bfloat16, "int8")
    obstacles = {str(type).removeprefix("torch."): _find_obstacle(type) for type in types}
    parts = [
        f"{name} products: " + ("oneDNN" if why is None else f"plain PyTorch ({why})")
        for name, why in obstacles.items()
    ]
    if find_int8_kind() == "split int8":
        parts[-1] += " in two halves (without VNNI this CPU adds products of 8 bits in 16)"
    obstacle = _find_script_obstacle()
    loop = "TorchScript" if obstacle is None else f"Python ({obstacle})"
    return "; ".join([*parts, f"loops: {loop}"])


def _find_obstacle(dtype: _Type) -> str | None:
    """Why oneDNN's products are not used; None if they are."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "torch.backends.mkldnn is off"
    if dtype == "int8":
        return _try_int8()[1]
    return _try_products(dtype) if dtype in TOLERANCE else f"{dtype} is not supported"


@functools.cache
def _try_products(dtype: torch.dtype) -> str | None:
    """Why oneDNN's products of this type are not used; None if they give `F.linear`'s values."""

    def disagree() -> str | None:
        weight = (torch.arange(-32.0, 32.0, device="cpu") / 32).reshape(16, 4).to(dtype)
        x, gates = torch.eye(4, device="cpu")[:3].to(dtype), weight[:, :1].t().repeat(3, 1)
        trial = prepare_map("onednn", weight, gates[0], 0.5)
        expected = F.linear(x, weight, gates[0])
        pairs = [(add_product(gates, trial, x), expected)]
        for then, function in (("none", torch.clone), ("relu", torch.relu)):
            pairs.append((multiply(trial, x, then), function(expected).clamp(-0.5, 0.5)))
        pairs.append((multiply(trial, x, "sigmoid"), expected.sigmoid().clamp(-0.5, 0.5)))
        agree = all(torch.allclose(a, b, atol=TOLERANCE[dtype]) for a, b in pairs)
        return None if agree else "its values were wrong in a trial"

    return _explain(disagree)


@functools.cache
def _try_int8() -> tuple[Kind, str | None]:
    """The fastest kind of exact 8-bit products, and why it is not oneDNN's."""

    def is_exact(kind: Kind) -> bool:
        draw = torch.Generator().manual_seed(0)
        ones = torch.ones(1, 192, device="cpu")
        signs = ones.where(torch.arange(192, device="cpu") % 4 < 2, -1.0)
        drawn = torch.randn(29, 192, generator=draw, device="cpu")
        x = torch.cat([ones, -ones, signs, drawn])  # (32, 192)
        trial = prepare_map(kind, x)
        expected = multiply(prepare_map("plain int8", x), x)
        found = torch.cat([multiply(trial, x), *(multiply(trial, row) for row in x.split(1))])
        return torch.allclose(found, expected.repeat(2, 1), rtol=1e-5, atol=1e-3)

    def disagree() -> str | None:
        kinds: tuple[Kind, ...] = ("int8", "split int8")
        exact.extend(filter(is_exact, kinds))
        return None if exact else "its values were wrong in a trial"

    exact: list[Kind] = []
    why = _explain(disagree)
    return exact[0] if exact else "plain int8", why


def _explain(disagree: Callable[[], str | None]) -> str | None:
    """What a trial of private operators says, or how it failed."""
    try:
        # In a thread of its own no mode of the caller's (device, autocast, tracing) reaches it.
        return call_in_new_thread(torch.no_grad()(disagree))
    except (AttributeError, RuntimeError, TypeError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__


# --- TorchScript ---


def without_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    The function in TorchScript, where that can still be had, else itself.

    Between its operators no thread waits for Python's lock.
    """
    with _compiling:
        if function not in _compiled:
            _compiled[function] = _compile(function)
        return _compiled[function]


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    obstacle = _find_script_obstacle()
    if obstacle is None:
        try:
            return _script(function)
        except Exception as error:
            obstacle = f"{type(error).__name__} at {function.__name__}"
            _failures.append(obstacle)
    _log(obstacle)
    return function


@functools.cache
def _log(obstacle: str) -> None:
    logger.warning("ELMo's loops run in Python, which is slower: no TorchScript (%s)", obstacle)


def _find_script_obstacle() -> str | None:
    if sys.version_info >= (3, 14):
        return "which PyTorch does not support from Python 3.14 on"
    if not hasattr(torch.jit, "script"):
        return "which this PyTorch lacks"
    return _failures[0] if _failures else None


def _script(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return torch.jit.script(function)
    except DeprecationWarning:  # the process makes errors of warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(function)


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
_failures: list[str] = []
_compiling = threading.Lock()


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
    "find_int8_kind",
    "find_operators",
    "is_int8",
    "multiply",
    "operators_info",
    "prepare_map",
    "stored_values",
    "without_python",
]
