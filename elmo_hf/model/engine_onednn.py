# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
Linear maps by oneDNN, in floating point or 8 bits, and loops in TorchScript.

PyTorch's oneDNN operators are private, and TorchScript is deprecated. So only this file uses them,
for all engines. It tests each operator on values once per process. If one is missing, has another
signature, or returns wrong values, PyTorch's public operators are used instead.
`operators_info` returns what is in use.
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

# Up to this size BLAS multiplies a single row faster than oneDNN, whose call takes 15 us.
ROW_WEIGHT_BYTES = 4 << 20
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # in trials, for sums near 1

# TorchScript replaces the call by True, and does not compile code after a return.
_is_scripting = getattr(torch.jit, "is_scripting", lambda: False)

logger = logging.getLogger(__name__)


class PreparedMap(NamedTuple):
    """
    A linear map in the layout of one kind of product.

    Args:
        kind: `"onednn"` or `"plain"` in floating point; `"int8"`, `"split int8"` or `"plain int8"`
            in 8 bits.
        weight: `(out, in)`, in oneDNN's blocked layout unless plain; 8-bit integers if int8.
        bias: `(out)`.
        bound: the product is clipped to `[-bound, bound]`; None: not clipped.
        row_weight: `(in, out)`, for products of a single row.
        scales: `(out)`, converts integer products to floating point, for a row whose largest
            magnitude is 1.
        zeros: `(out)`, zero points of the weight, all 0.
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
    Convert a weight to the layout of one kind of product.

    Args:
        kind: from `find_operators` or `find_int8_kind`.
        weight: `(out, in)`, float32 or bfloat16.
        bias: `(out)`.
        bound: clip the product to `[-bound, bound]`; None: do not clip.
        rows: expected number of rows per product; a hint only.
        single_rows: also store a layout for products of a single row.
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
    levels = (weight / level[:, None]).round()  # (out, in), integers from -127 to 127
    scales = level / 127
    if kind == "plain int8":
        return PreparedMap(kind, levels, bias, bound, None, scales)
    blocked = torch.ops.onednn.qlinear_prepack(levels.to(torch.int8), None)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device="cpu")
    return PreparedMap(kind, blocked, bias, bound, None, scales, zeros)


# TorchScript must support every line of the next three functions.


def multiply(linear: PreparedMap, x: torch.Tensor, then: str = "none") -> torch.Tensor:
    """
    Compute `x W^T + b`, clipped to the map's bound; float32 for an 8-bit map, else W's dtype.

    Args:
        linear: the map.
        x: `(rows, in)`.
        then: activation before the clip: `"relu"`, `"sigmoid"` or `"none"`.
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
    """Compute `gates + x W^T`, `(rows, out)`."""
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
    # Naming the overload saves Python the search for it; TorchScript does not support the name.
    return torch.ops.mkldnn._linear_pointwise.binary(x, gates, linear.weight, None, "add")


def _multiply_levels(linear: PreparedMap, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Compute the 8-bit product, and return each row's scale `(rows, 1)`, not yet applied.

    oneDNN's product has one scale for all rows, so a row's result would depend on the other rows.
    Therefore each row is scaled to [-1, 1] before the product and back after it. The sums are
    integers and thus exact, so a row has the same bits in every batch.
    """
    scale = torch.amax(torch.abs(x), 1, True).to(torch.float32).clamp_min_(1e-30)
    # 128 is the zero point; with 0.5 more, truncation rounds to the nearest integer.
    levels = (x * (127.0 / scale)).add_(128.5).to(torch.uint8)
    scales, zeros = linear.scales, linear.zeros
    assert scales is not None
    if zeros is None:
        return F.linear(levels.to(torch.float32).sub_(128.0), linear.weight).mul_(scales), scale
    zero = 128
    if linear.kind == "split int8":
        # level - 128 = 2 (a - 64) + (b - 64); sums of two products with a or b fit into 16 bits.
        levels, zero = torch.cat([levels >> 1, (levels & 1).add_(64)]), 64
    weight = linear.weight
    nothing: list[int | float | complex | None] = []
    # The input's scale is 1, because oneDNN multiplies two scales in varying order.
    product = torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, zero, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", nothing, ""
    )
    if linear.kind == "split int8":
        halves = product.chunk(2)
        product = halves[0].mul_(2.0).add_(halves[1])
    return product, scale


# --- Operators that work with this PyTorch on this CPU ---


def find_operators(dtype: torch.dtype) -> Operators:
    """Return `"onednn"` if its products of this dtype work here, else `"plain"`."""
    return "plain" if _find_obstacle(dtype) else "onednn"


def find_int8_kind() -> Kind:
    """
    Return the kind of 8-bit products: oneDNN's if they are exact, else `"plain int8"`.

    CPUs without VNNI (Intel's before Ice Lake and Cascade Lake, AMD's before Zen 4) add two 8-bit
    products in 16 bits, where large sums overflow. `"split int8"` computes the exact values there
    with twice as many products.
    """
    return "plain int8" if _find_obstacle("int8") else _try_int8()[0]


def operators_info() -> str:
    """Return which products and loops the CPU engines use, with the reasons."""
    types: tuple[_Type, ...] = (torch.float32, torch.bfloat16, "int8")
    obstacles = {str(type).removeprefix("torch."): _find_obstacle(type) for type in types}
    parts = [
        f"{name} products: " + ("oneDNN" if why is None else f"plain PyTorch ({why})")
        for name, why in obstacles.items()
    ]
    if find_int8_kind() == "split int8":
        parts[-1] += " in two halves (this CPU has no VNNI and adds 8-bit products in 16 bits)"
    obstacle = _find_script_obstacle()
    loop = "TorchScript" if obstacle is None else f"Python ({obstacle})"
    return "; ".join([*parts, f"loops: {loop}"])


def _find_obstacle(dtype: _Type) -> str | None:
    """Return why oneDNN's products are not used; None if they are used."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "torch.backends.mkldnn is off"
    if dtype == "int8":
        return _try_int8()[1]
    return _try_products(dtype) if dtype in TOLERANCE else f"{dtype} is not supported"


@functools.cache
def _try_products(dtype: torch.dtype) -> str | None:
    """Return why oneDNN's products of this dtype fail; None if they have `F.linear`'s values."""

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
    """Return the fastest kind of exact 8-bit products, and why it is not oneDNN's, or None."""

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
    """Return the result of a trial of private operators, or its error message."""
    try:
        # A new thread has none of the caller's modes (device, autocast, tracing).
        return call_in_new_thread(torch.no_grad()(disagree))
    except (AttributeError, RuntimeError, TypeError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__


# --- TorchScript ---


def without_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return the function compiled by TorchScript; where that fails, the function itself.

    Compiled code does not need Python's global lock, so threads can run in parallel.
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
    except DeprecationWarning:  # the process turns warnings into errors
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(function)


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
_failures: list[str] = []
_compiling = threading.Lock()


# --- Weights quantized to 8 bits by torchao, as with `TorchAoConfig` at loading ---


def is_int8(weight: torch.Tensor | None) -> bool:
    """Whether torchao quantizes both this weight and its activations to 8 bits."""
    # Compared by name, so that torchao need not be installed.
    return (
        type(weight).__name__ == "Int8Tensor"
        and getattr(weight, "act_quant_kwargs", None) is not None
    )


def dequantize(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight in floating point, dequantized if it has 8 bits."""
    return weight.dequantize() if is_int8(weight) else weight


def stored_values(weight: torch.Tensor) -> torch.Tensor:
    """Return the tensor that stores the weight: itself, or its 8-bit integers."""
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
