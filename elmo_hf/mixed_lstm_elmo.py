# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The encoder of ELMoForManyLangs that is no biLM: LSTMs that read both directions."""

import torch
from torch import nn

from .configuration_elmo import ElmoConfig
from .rows_elmo import run_over_words

States = tuple[torch.Tensor, torch.Tensor]


class ElmoMixedLayer(nn.Module):
    """
    A stack of bidirectional LSTMs, the second reading both halves of the first, as one layer.

    One linear map brings each half to `projection_dim`. Nothing is clipped, and no memory is
    carried: a word's vector depends on the whole sentence (ELMoForManyLangs `LstmbiLM`).

    Args:
        config: the model's configuration, with `num_mixed_lstms`.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            config.projection_dim,
            config.cell_dim,
            config.num_mixed_lstms,
            batch_first=True,
            dropout=config.dropout if config.num_mixed_lstms > 1 else 0.0,
            bidirectional=True,
        )
        self.projection = nn.Linear(config.cell_dim, config.projection_dim)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor, states: States, distinct: object
    ) -> tuple[torch.Tensor, States]:
        """
        `(batch, words, hidden_size)`, twice layer 0, to the same; arguments are `ElmoLayer`'s.

        Raises:
            ValueError: the mask lets the directions read different words.
        """
        if not mask.eq(mask[..., :1]).all():
            raise ValueError(
                "attention_mask differs between the directions, which this model's layers mix; "
                "give one mask (batch, words)"
            )
        outputs = run_over_words(self.lstm, hidden_states.chunk(2, -1)[0], mask[..., 0])
        halves = [self.projection(half) for half in outputs.chunk(2, -1)]
        return torch.cat(halves, -1).masked_fill(~mask[..., :1], 0), states


__all__ = ["ElmoMixedLayer"]
