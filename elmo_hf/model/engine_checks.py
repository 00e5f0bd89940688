# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Check whether a fast engine may replace calls of the modules; all engines use these checks."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

Kind = TypeVar("Kind", bound=type[nn.Module])

# The classes whose weights engines may read, with their original `forward`.
_FORWARDS: dict[type[nn.Module], Any] = {
    kind: kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Embedding)
}

# PyTorch's dictionaries of hooks that run at each call of any module.
_GLOBAL_HOOKS = [
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
]


def readable(kind: Kind) -> Kind:
    """Declare that engines may read this class's weights instead of calling it (a decorator)."""
    _FORWARDS[kind] = kind.forward
    return kind


def is_readable(module: object) -> bool:
    """Whether the module's class (not a superclass) is declared and has its original `forward`."""
    kind: Any = type(module)
    return kind in _FORWARDS and kind.forward is _FORWARDS[kind]


def runs_as_written(modules: Iterable[nn.Module]) -> bool:
    """
    Return whether an engine that reads the modules' weights computes what their calls compute.

    False if a module has a hook (its own or a global one, from PyTorch, accelerate or the user),
    if its `forward` was replaced, or if it is an instance of a subclass, as LoRA, parametrized and
    quantized layers are.

    Args:
        modules: checked without their children.
    """
    return not _has_global_hook() and all(map(_runs_as_written, modules))


def find_interception() -> str | None:
    """Return what records or transforms PyTorch's operators at the moment; None if nothing does."""
    if torch.compiler.is_compiling():
        return "the model is being compiled or exported"
    if _is_tracing():
        return "torch.jit.trace is recording the model"
    if is_transformed():
        return "a transform of torch.func or forward-mode differentiation is active"
    if _count_dispatch_modes():
        return "a TorchDispatchMode is active"
    return None


def is_transformed() -> bool:
    """Whether derivatives are computed that a hand-written backward pass does not support."""
    return _has_transforms() or getattr(forward_ad, "_current_level", 0) >= 0


def is_concrete(tensor: torch.Tensor) -> bool:
    """Whether control flow may depend on the tensor's values: not while operators are recorded."""
    if find_interception() is not None or type(tensor) is not torch.Tensor or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Return True for plain tensors and parameters; subclasses may override operators."""
    return type(tensor) in (torch.Tensor, nn.Parameter)


def wants_gradients(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether autograd must record what is computed from the tensors."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype of products with this tensor: autocast's, or its own."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def second_derivative_error(what: str) -> RuntimeError:
    """Return the error for derivatives of the gradients of a hand-written backward pass."""
    return RuntimeError(
        f"second derivatives were requested (create_graph=True), but {what} has first derivatives "
        'only; run the model inside `with use_engine("reference"):`, the reference engine, which '
        "is differentiable any number of times"
    )


def differentiable_once(
    gradients: Sequence[torch.Tensor | None],
) -> list[torch.Tensor | None]:
    """Make second derivatives of an LSTM's hand-written gradients an error (create_graph=True)."""
    if not torch.is_grad_enabled():
        return [*gradients]
    return [None if one is None else _OnlyOnce.apply(one.requires_grad_()) for one in gradients]


class _OnlyOnce(torch.autograd.Function):
    """Identity for a gradient that raises an error in its own backward pass."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> None:
        raise second_derivative_error("the training engine of the LSTM")


def _runs_as_written(module: nn.Module) -> bool:
    if not is_readable(module) or module._forward_hooks or module._forward_pre_hooks:
        return False
    if module._backward_hooks or module._backward_pre_hooks or "forward" in vars(module):
        return False
    return not (isinstance(module, nn.Embedding) and module.max_norm is not None)


def _has_global_hook() -> bool:
    return any(getattr(nn_module, name, True) for name in _GLOBAL_HOOKS)


def _private(owner: Any, name: str) -> Any:
    """Return a private function of PyTorch, or, if it is missing, one that returns True (safe)."""
    return getattr(owner, name, lambda: True)


_is_tracing = _private(torch._C, "_is_tracing")
_has_transforms = _private(torch._C, "_are_functorch_transforms_active")
_count_dispatch_modes = _private(torch._C, "_len_torch_dispatch_stack")


__all__ = [
    "differentiable_once",
    "find_interception",
    "is_concrete",
    "is_ordinary",
    "is_readable",
    "is_transformed",
    "product_dtype",
    "readable",
    "runs_as_written",
    "second_derivative_error",
    "wants_gradients",
]
