# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""What every format's table of weights consists of: one row per original array.

A row names the original array, its shape, our tensors that hold its values, and how the values are
rearranged. The same row converts in both directions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

MAX_CHARACTERS = 1000  # per word; published models have 50


class WeightsError(ValueError):
    """An original file is damaged, of another kind, or contradicts its options."""


@dataclass(frozen=True)
class Transform:
    """How a dataset becomes tensors, and back."""

    load: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    dump: Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Row:
    """A dataset, its shape, and the tensors of the state dict that it holds."""

    original: str
    shape: tuple[int, ...]
    ours: tuple[str, ...]
    transform: Transform


# The two transforms that several formats share; the others stand beside the format that needs them.
SAME = Transform(lambda array: (array,), lambda tensor: tensor)
# Row 0 of our tables is padding.
TABLE = Transform(
    lambda array: (torch.cat([array.new_zeros(1, array.shape[1]), array]),),
    lambda tensor: tensor[1:],
)


def abbreviated(names: Mapping[str, Any]) -> str:
    """The first few names, for an error message."""
    shown = sorted(names)[:6]
    return ", ".join(shown) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def one_line(error: Exception) -> str:
    """An error's message without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def check_sizes(
    file: str, counts: Mapping[str, Any], max_characters: Any, arrays: Mapping[str, Any]
) -> None:
    """
    Refuse absurd sizes before anything is made that is as large as they are.

    Args:
        file: the file that states the sizes, for the error message.
        counts: how many layers, highways and filters there are, by the option's name.
        max_characters: the length of a word, which no array shows.
        arrays: the arrays that the weights have.
    """
    for name, count in counts.items():
        if isinstance(count, int) and count > len(arrays):
            raise WeightsError(
                f"{file} asks for {name} {count}, but the weights have only {len(arrays)} arrays; "
                "give the options that were published with these weights"
            )
    if isinstance(max_characters, int) and max_characters > MAX_CHARACTERS:
        raise WeightsError(
            f"{file} asks for words of {max_characters} characters; at most {MAX_CHARACTERS} are "
            "accepted, published models have 50"
        )


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality that also tells NaNs and signs of zero apart."""
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


__all__ = [
    "SAME",
    "TABLE",
    "Row",
    "Transform",
    "WeightsError",
    "abbreviated",
    "check_sizes",
    "one_line",
    "same_bits",
]
