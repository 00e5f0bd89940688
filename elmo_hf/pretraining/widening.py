# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Widen the LSTM cells of a trained biLM without changing what it computes."""

import torch

from ..model.configuration_elmo import ElmoConfig
from ..model.layer_lstm import ElmoLstm
from ..model.modeling_elmo_pretraining import ElmoForPreTraining


@torch.no_grad()
def widen_cells(model: ElmoForPreTraining, cell_dim: int) -> ElmoForPreTraining:
    """
    Return a copy of a language model with more LSTM cells and the same predictions.

    The new cells have random weights, but the projection of the LSTM ignores them at first: its
    columns for them are zero. Training changes that. A wider model that begins like this keeps what
    the smaller one has learned (as in Net2Net, Chen et al. 2016).

    Raises:
        ValueError: the cells would become fewer, or the LSTM has no projection to hide them.
    """
    old = model.config
    if cell_dim < old.cell_dim or old.cell_dim == old.projection_dim:
        raise ValueError(
            f"a model with cell_dim {old.cell_dim} and projection_dim {old.projection_dim} cannot "
            f"get cell_dim {cell_dim}; expected more cells, and an LSTM with a projection"
        )
    config = ElmoConfig.from_dict(old.to_dict() | {"cell_dim": cell_dim})
    wide = ElmoForPreTraining(config)
    weights = wide.state_dict()
    for name, weight in model.state_dict().items():
        if weights[name].shape == weight.shape:
            weights[name].copy_(weight)
    for source, target in zip(model.modules(), wide.modules(), strict=True):
        if isinstance(source, ElmoLstm) and isinstance(target, ElmoLstm):
            _widen(source, target)
    return wide


def _widen(source: ElmoLstm, target: ElmoLstm) -> None:
    cells, wide = (len(lstm.input_map.bias) // 4 for lstm in (source, target))
    for name in ("input_map.weight", "input_map.bias", "recurrent_map.weight"):
        old, new = source.get_parameter(name), target.get_parameter(name)
        # (4 gates * cells, ..) -> (4 gates, cells, ..)
        new.unflatten(0, (4, wide))[:, :cells] = old.unflatten(0, (4, cells))
    output = target.get_parameter("output_map.weight")  # (projection_dim, cells)
    output.zero_()
    output[:, :cells] = source.get_parameter("output_map.weight")


__all__ = ["widen_cells"]
