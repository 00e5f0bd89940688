# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo's language model: the softmax of both directions and its loss (Peters et al. 2018)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_elmo import ElmoConfig
from .engine_checks import readable, runs_as_written
from .engine_copies import is_own
from .engine_weights import States
from .loss_softmax import full_softmax_loss, sampled_softmax_loss
from .modeling_elmo import ElmoModel, ElmoPreTrainedModel
from .modeling_inputs import check_labels, make_mask


@dataclass
class ElmoForPreTrainingOutput(ModelOutput):
    """
    What `ElmoForPreTraining` returns.

    Args:
        loss: mean of the directions' losses; with labels.
        forward_logits: `(batch, words, lm_vocab_size)`; row t scores the word at t + 1.
        backward_logits: `(batch, words, lm_vocab_size)`; row t scores the word at t - 1. None
            without a backward stack.
        hidden_states: as in `ElmoModelOutput`.
        states: as in `ElmoModelOutput`.
        forward_loss: mean cross entropy of the words that the forward stack predicts, in nats;
            with labels.
        backward_loss: the same of the backward stack, or None without one.
        attentions: None, as ELMo has no attention.
    """

    loss: torch.Tensor | None = None
    forward_logits: torch.Tensor | None = None
    backward_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    states: States | None = None
    forward_loss: torch.Tensor | None = None
    backward_loss: torch.Tensor | None = None
    attentions: None = None


@readable
class ElmoTiedHead(nn.Module):
    """
    Output layer with tied weights: the word table is its weight, only the bias is its own.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.lm_vocab_size))


class ElmoForPreTraining(ElmoPreTrainedModel):
    """
    The biLM with its softmax: scores of each next and each previous word.

    One softmax serves both directions (Peters et al. 2018, section 3.1). With
    `config.tie_word_embeddings` its weight is the word table without the row of padding. While
    training with `config.num_sampled_words` the loss is bilm-tf's sampled softmax, unless
    `lm_head` was replaced or hooked.

    Args:
        config: the model's configuration, with `lm_vocab_size`.

    Raises:
        ValueError: `lm_vocab_size` is 0.
    """

    # Trainer counts all labels, but boundary words predict in one direction only. So it must not
    # pass that number; it then averages the losses of the batches.
    accepts_loss_kwargs = False

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        if not config.lm_vocab_size:
            raise ValueError(
                "lm_vocab_size is 0, so there are no words to predict; give "
                "ElmoConfig(lm_vocab_size=...), or use ElmoModel for vectors alone"
            )
        self.elmo = ElmoModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head: nn.Linear | ElmoTiedHead
        if config.tie_word_embeddings:
            self.lm_head = ElmoTiedHead(config)
        else:
            self.lm_head = nn.Linear(config.projection_dim, config.lm_vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw one leaf's weights as bilm-tf's training does."""
        if isinstance(module, ElmoTiedHead):
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def get_output_embeddings(self) -> None:
        """None: the softmax is over words and stays when the input embeddings are resized."""
        return None

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
        states: States | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_logits: bool | None = None,
    ) -> ElmoForPreTrainingOutput:
        """
        Score words in both directions; arguments as in `ElmoModel.forward`, and:

        Args:
            labels: LM vocabulary ids `(batch, words)` of the words themselves, boundaries
                included, as `tokenizer(..., return_lm_labels=True)` returns them; -100 is
                ignored. A word that a direction skips predicts nothing in that direction, but is
                predicted, unless its label is -100 or the mask `(batch, words)` is 0 there.
            output_logits: whether to return the logits. Default: True, except in training mode
                with labels, where the loss is computed without them.

        Raises:
            ValueError: an argument has the wrong shape or range.
        """
        outputs = self.elmo(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            word_input_ids=word_input_ids,
            states=states,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        directions = self.config.num_directions
        halves = self.dropout(outputs.last_hidden_state).chunk(directions, -1)
        if output_logits is None:
            output_logits = labels is None or not self.training
        logits: list[torch.Tensor | None] = [None] * directions
        if output_logits:
            logits = [self._score(half) for half in halves]
        loss, losses = None, []
        if labels is not None:
            check_labels(self.config, labels, halves[0].shape[:2])
            given = (attention_mask, input_ids, word_input_ids, inputs_embeds)
            mask = make_mask(*given, labels.shape, directions)
            if attention_mask is None or attention_mask.ndim == 2:
                labels = labels.masked_fill(~mask[..., 0], -100)
            losses = [
                self._loss(*direction)
                for direction in zip(halves, logits, _predictions(labels, mask), strict=True)
            ]
            loss = torch.stack(losses).mean()
        return ElmoForPreTrainingOutput(
            loss=loss,
            forward_logits=logits[0],
            backward_logits=logits[1] if self.config.bidirectional else None,
            hidden_states=outputs.hidden_states,
            states=outputs.states,
            forward_loss=losses[0] if losses else None,
            backward_loss=losses[1] if len(losses) == 2 else None,
        )

    def _score(self, top: torch.Tensor) -> torch.Tensor:
        """`(..., projection_dim)` to `(..., lm_vocab_size)`."""
        if isinstance(self.lm_head, ElmoTiedHead):
            return F.linear(top, *self._softmax())
        return self.lm_head(top)

    def _softmax(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(lm_vocab_size, projection_dim)` and bias."""
        if isinstance(self.lm_head, ElmoTiedHead):
            return self.elmo.embeddings.word_embeddings.weight[1:], self.lm_head.bias
        return self.lm_head.weight, self.lm_head.bias

    def _loss(
        self, top: torch.Tensor, logits: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """
        One direction's mean cross entropy.

        Args:
            top: `(batch, words, projection_dim)`.
            logits: `(batch, words, lm_vocab_size)`, if they are there.
            targets: LM vocabulary id that each word predicts, `(batch, words)`; -100: none.
        """
        num_sampled = self.config.num_sampled_words if self.training else 0
        readable = runs_as_written([self.lm_head]) and all(map(is_own, self.lm_head.parameters()))
        if not readable and logits is None:
            logits = self._score(top)
        targets = targets.flatten()
        if logits is None or (num_sampled and readable):
            places = (targets != -100).nonzero()[:, 0]
            rows = top.flatten(0, 1).index_select(0, places)
            given = (rows, targets[places], *self._softmax())
            if num_sampled:
                total = sampled_softmax_loss(*given, num_sampled)
            else:
                total = full_softmax_loss(*given)
        else:
            scores = logits.flatten(0, 1)
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            total = F.cross_entropy(scores, targets, ignore_index=-100, reduction="sum")
        return total / (targets != -100).sum().clamp(min=1)


def _predictions(labels: torch.Tensor, mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the ids that each word predicts, `(batch, words)`, per direction; -100: none."""
    nothing = labels.new_full((len(labels), 1), -100)
    following = torch.cat([labels[:, 1:], nothing], 1)
    preceding = torch.cat([nothing, labels[:, :-1]], 1)
    for targets, read in zip((following, preceding), mask.unbind(-1), strict=False):
        yield targets.masked_fill(~read, -100)


__all__ = ["ElmoForPreTraining", "ElmoForPreTrainingOutput", "ElmoTiedHead"]
