# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of a biLM, AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..model.modeling_elmo_pretraining import ElmoForPreTraining

TABLES = ("char_embeddings", "word_embeddings", "lm_head")  # looked up by row: not for Muon


class MuonAdamW(torch.optim.Optimizer):
    """
    Class that joins `torch.optim.Muon` and `torch.optim.AdamW`, so that Trainer sees one optimizer.

    Muon (https://kellerjordan.github.io/posts/muon/) replaces the gradient of a matrix by the
    nearest matrix with orthogonal rows or columns. It needs a larger learning rate than AdamW. A
    learning rate schedule multiplies the rates of both.

    Args:
        matrices: two-dimensional weights that multiply vectors; Muon trains them.
        others: groups of the other weights, as AdamW takes them.
        muon: further arguments of `torch.optim.Muon`, such as `lr` and `weight_decay`.
        adamw: further arguments of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: list[dict[str, Any]],
        muon: dict[str, Any],
        adamw: dict[str, Any],
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, **muon),
            torch.optim.AdamW(others, **adamw),
        ]
        super().__init__(chain.from_iterable(part.param_groups for part in self.parts), {})
        self._share_groups()

    def _share_groups(self) -> None:
        """Make the parts use the groups and the state of this optimizer."""
        begin = 0
        for part in self.parts:
            end = begin + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[begin:end], self.state
            begin = end

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all weights; `closure`, if given, computes the loss again, with gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._share_groups()


def split_parameters(model: ElmoForPreTraining) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable matrices of a model, and its other trainable weights."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    is_matrix = [
        weight.ndim == 2 and not any(table in name for table in TABLES) for name, weight in trained
    ]
    pairs = list(zip(is_matrix, (weight for _, weight in trained), strict=True))
    return [w for matrix, w in pairs if matrix], [w for matrix, w in pairs if not matrix]


__all__ = ["MuonAdamW", "split_parameters"]
