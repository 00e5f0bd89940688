# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""What every task head stands on: the biLM, the scalar mix of its layers, a task's own biLSTM."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init

from .configuration_elmo import ElmoConfig
from .crf_elmo import ElmoCrf
from .inputs_elmo import make_mask
from .modeling_elmo import ElmoModel, ElmoPreTrainedModel, select_layers
from .rows_elmo import find_words, run_over_words
from .scalar_mix_elmo import ElmoScalarMix


class TaskVectors(NamedTuple):
    """What a head gets to see of a batch."""

    vectors: torch.Tensor  # (batch, words, width)
    mask: torch.Tensor  # bool (batch, words), False at padding
    words: torch.Tensor  # the same, False at boundary words too
    hidden_states: tuple[torch.Tensor | None, ...] | None  # those that were asked for


class ElmoTaskModel(ElmoPreTrainedModel):
    """
    The biLM, the scalar mix and, on request, a task's own biLSTM; a head adds its output layer.

    The biLM is trained along, or frozen as in the paper by `model.elmo.requires_grad_(False)`.
    A frozen biLM keeps no activations for a backward pass and gives the same vectors in training
    as in evaluation, without its own dropout.

    `scalar_mix` starts from the checkpoint's `scalar_mix.weights` and `scalar_mix.gamma` if it
    has them, else as the average of the layers.
    """

    accepts_loss_kwargs = True  # every loss divides by num_items_in_batch itself
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]
    _keys_to_ignore_on_load_missing = [r"^scalar_mix\."]

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.elmo = ElmoModel(config)
        self.scalar_mix = ElmoScalarMix(
            config.num_hidden_layers + 1, config.mix_layers, config.mix_layer_norm
        )
        self.dropout = nn.Dropout(config.mix_dropout)
        self.task_lstm: ElmoTaskLstm | None = None
        self.task_width, self.task_directions = config.hidden_size, config.num_directions
        if config.classifier_lstm_dim:
            self.task_lstm = ElmoTaskLstm(
                config.hidden_size, config.classifier_lstm_dim, config.classifier_dropout
            )
            self.task_width, self.task_directions = 2 * config.classifier_lstm_dim, 2

    def train(self, mode: bool = True) -> "ElmoTaskModel":
        """Set training or evaluation; a frozen biLM stays in evaluation."""
        super().train(mode)
        if mode and _is_frozen(self.elmo):
            self.elmo.eval()
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ElmoScalarMix):
            init.zeros_(module.weights)
            init.ones_(module.gamma)
        elif isinstance(module, ElmoCrf):
            for parameter in module.parameters():
                init.zeros_(parameter)
        else:
            super()._init_weights(module)

    def encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        word_input_ids: torch.Tensor | None,
        output_hidden_states: bool | int | list[int] | None,
    ) -> TaskVectors:
        """Give every word the vector that the head decides on; arguments as in `ElmoModel`."""
        if self.elmo.training and _is_frozen(self.elmo):
            self.elmo.eval()
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.elmo(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            word_input_ids=word_input_ids,
            output_hidden_states=True,
            return_dict=True,
        )
        layers = outputs.hidden_states
        given = (attention_mask, input_ids, word_input_ids, inputs_embeds)
        directions = self.config.num_directions
        mask = make_mask(*given, layers[0].shape[:2], directions).any(-1)
        words = find_words(self.config, mask, input_ids, word_input_ids)
        vectors = self.dropout(self.scalar_mix(layers, mask, words))
        if self.task_lstm is not None:
            vectors = self.task_lstm(vectors, mask)
        return TaskVectors(vectors, mask, words, select_layers(layers, output_hidden_states))


class ElmoTaskLstm(nn.Module):
    """
    A biLSTM of the task, trained with the head, and the dropout of its output.

    Args:
        input_size: width of the vectors that it reads.
        hidden_size: width of each direction's output.
        dropout: probability of zeroing an output while training.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, words, input_size)` to `(batch, words, 2 * hidden_size)`, zero at padding."""
        return self.dropout(run_over_words(self.lstm, vectors, mask))


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


__all__ = ["ElmoTaskLstm", "ElmoTaskModel", "TaskVectors"]
