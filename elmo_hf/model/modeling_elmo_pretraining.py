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
from .modeling_inputs import Inputs, check_labels, make_mask


@dataclass
class ElmoForPreTrainingOutput(ModelOutput):
    """
    Output of `ElmoForPreTraining`.

    Args:
        loss: mean of the directions' losses, only if labels are passed.
        forward_logits: `(batch, words, lm_vocab_size)`; position t predicts the word at t + 1.
        backward_logits: `(batch, words, lm_vocab_size)`; position t predicts the word at t - 1.
            None without a backward stack.
        hidden_states: as in `ElmoModelOutput`.
        states: as in `ElmoModelOutput`.
        forward_loss: mean cross entropy, in nats, of the words that the forward stack predicts;
            only if labels are passed.
        backward_loss: the same for the backward stack; None without a backward stack.
        attentions: always None, because ELMo has no attention.
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
    Output layer with tied weights: it has a bias, and the word table is its weight.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.lm_vocab_size))


class ElmoForPreTraining(ElmoPreTrainedModel):
    """
    The biLM with its softmax: predicts each next and each previous word.

    Both directions share one softmax (Peters et al. 2018, section 3.1). With
    `config.tie_word_embeddings` its weight is the word table without the padding row. With
    `config.num_sampled_words` the training loss is bilm-tf's sampled softmax, unless `lm_head` was
    replaced or has a hook.

    Args:
        config: the model's configuration, with `lm_vocab_size`.

    Raises:
        ValueError: `lm_vocab_size` is 0, or the configuration has an `output_embedding_layer`.
    """

    # Trainer's number of labels would be a wrong divisor, because a boundary is predicted in one
    # direction only. With False, Trainer averages the losses of the batches instead.
    accepts_loss_kwargs = False

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        if not config.lm_vocab_size:
            raise ValueError(
                "lm_vocab_size is 0, so there are no words to predict; pass "
                "ElmoConfig(lm_vocab_size=...), or use ElmoModel to compute vectors only"
            )
        if config.output_embedding_layer:
            raise ValueError(
                "output_embedding_layer is for ElmoModel and its task heads; the language model's "
                "own softmax already holds these vectors: leave output_embedding_layer out"
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
        """Initialize the weights of one leaf module as bilm-tf does for training."""
        if isinstance(module, ElmoTiedHead):
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

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
        Predict words in both directions; arguments as in `ElmoModel.forward`, and:

        Args:
            labels: LM vocabulary ids `(batch, words)` of the words themselves (not shifted),
                boundaries included, from `tokenizer(..., return_lm_labels=True)`; -100 is ignored.
                A word that a direction skips does not predict a word there. It is still
                predicted, unless its label is -100 or a mask `(batch, words)` is 0 there.
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
            inputs = Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids)
            mask = make_mask(inputs, labels.shape, directions)
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
        """Compute logits `(..., lm_vocab_size)` from vectors `(..., projection_dim)`."""
        if isinstance(self.lm_head, ElmoTiedHead):
            return F.linear(top, *self._softmax())
        return self.lm_head(top)

    def _softmax(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the softmax's weight `(lm_vocab_size, projection_dim)` and bias."""
        if isinstance(self.lm_head, ElmoTiedHead):
            return self.elmo.embeddings.word_embeddings.weight[1:], self.lm_head.bias
        return self.lm_head.weight, self.lm_head.bias

    def _loss(
        self, top: torch.Tensor, logits: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """
        Compute the mean cross entropy of one direction.

        Args:
            top: output of the top LSTM, `(batch, words, projection_dim)`.
            logits: `(batch, words, lm_vocab_size)`; None: not computed.
            targets: LM vocabulary id to predict at each word, `(batch, words)`; -100: none.
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


class NoSuchLanguageModel:
    """Class that explains itself to users of AutoModelForMaskedLM and AutoModelForCausalLM."""

    config_class = ElmoConfig

    @classmethod
    def from_pretrained(cls, *args: object, **kwargs: object) -> None:
        """Raise ValueError: ELMo is another kind of language model."""
        raise ValueError(
            "ELMo is neither a masked nor a causal language model: it predicts each next and each "
            "previous word. Load it with AutoModelForPreTraining; elmo_hf.fill_gaps fills gaps and "
            "elmo_hf.score_sentences scores words"
        )

    _from_config = from_pretrained


def _predictions(labels: torch.Tensor, mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the ids to predict at each word, `(batch, words)`, per direction; -100: none."""
    nothing = labels.new_full((len(labels), 1), -100)
    following = torch.cat([labels[:, 1:], nothing], 1)
    preceding = torch.cat([nothing, labels[:, :-1]], 1)
    for targets, read in zip((following, preceding), mask.unbind(-1), strict=False):
        yield targets.masked_fill(~read, -100)


__all__ = [
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoTiedHead",
    "NoSuchLanguageModel",
]
