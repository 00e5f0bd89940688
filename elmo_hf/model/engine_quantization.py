# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Weights that torchao has quantized to 8 bits, as `TorchAoConfig` does at loading."""

import torch


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


__all__ = ["dequantize", "is_int8", "stored_values"]
