# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Tables of weights: a format's table has one row per original array.

A row holds the name and shape of the original array, the names of our tensors with its values, and
the transform between them. The same row converts in both directions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

MAX_CHARACTERS = 1000  # per word; published models have 50


class WeightsError(ValueError):
    """Error: an original file is damaged, of another kind, or contradicts its options."""


@dataclass(frozen=True)
class Transform:
    """A pair of functions that turn an original array into our tensors, and back."""

    load: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    dump: Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Row:
    """An original array, its shape, and the tensors of our state dict that hold its values."""

    original: str
    shape: tuple[int, ...]
    ours: tuple[str, ...]
    transform: Transform


# Transforms that several formats share; the modules of the formats define the others.
SAME = Transform(lambda array: (array,), lambda tensor: tensor)
# Row 0 of our tables is padding.
TABLE = Transform(
    lambda array: (torch.cat([array.new_zeros(1, array.shape[1]), array]),),
    lambda tensor: tensor[1:],
)


def abbreviated(names: Mapping[str, Any]) -> str:
    """Return the first few names, for an error message."""
    shown = sorted(names)[:6]
    return ", ".join(shown) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def check_sizes(
    file: str, counts: Mapping[str, Any], max_characters: Any, arrays: Mapping[str, Any]
) -> None:
    """
    Raise WeightsError for absurd sizes, before memory of these sizes is allocated.

    Args:
        file: the file that states the sizes, for the error message.
        counts: the numbers of layers, highways and filters, by the name of the option.
        max_characters: the maximum length of a word, which no array shows.
        arrays: the arrays of the weights.
    """
    for name, count in counts.items():
        if isinstance(count, int) and count > len(arrays):
            raise WeightsError(
                f"{file} asks for {name} {count}, but the weights have only {len(arrays)} arrays; "
                "pass the options that were published with these weights"
            )
    if isinstance(max_characters, int) and max_characters > MAX_CHARACTERS:
        raise WeightsError(
            f"{file} asks for words of {max_characters} characters; at most {MAX_CHARACTERS} are "
            "accepted, published models have 50"
        )


def check_restored(
    state_dict: Mapping[str, torch.Tensor], restored: Mapping[str, torch.Tensor]
) -> None:
    """Raise WeightsError unless a file restores the weights, NaNs and signs of zero included."""
    for name, tensor in restored.items():
        bits, expected = (
            t.float().contiguous().view(torch.int32) for t in (tensor, state_dict[name])
        )
        if not torch.equal(bits, expected):
            raise WeightsError(f"the written file does not restore {name} bit for bit")


__all__ = [
    "SAME",
    "TABLE",
    "Row",
    "Transform",
    "WeightsError",
    "abbreviated",
    "check_restored",
    "check_sizes",
    "one_line",
]
