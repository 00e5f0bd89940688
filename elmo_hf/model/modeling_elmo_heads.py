# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Task heads: a scalar mix of the biLM's layers, an optional task biLSTM, an output layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from .configuration_elmo import ElmoConfig
from .layer_alignment import ElmoTaskLstm
from .layer_crf import Constraints, ElmoCrf, make_constraints
from .layer_scalar_mix import ElmoScalarMix
from .loss_heads import (
    NumItems,
    chain_loss,
    check_label_ids,
    guess_problem,
    label_loss,
    sequence_loss,
    span_loss,
)
from .modeling_elmo import ElmoModel, ElmoPreTrainedModel, select_layers
from .modeling_inputs import Inputs, make_mask
from .modeling_pooling import find_context, find_words, pool_words

# Saving a head copies the files that this file imports, so the tagger's pipeline is saved too.
from .pipeline_elmo import ElmoTokenClassificationPipeline

HiddenStates = bool | int | list[int] | None


class TaskVectors(NamedTuple):
    """Inputs of a head's output layer."""

    vectors: torch.Tensor  # (batch, words, width)
    mask: torch.Tensor  # bool (batch, words), False at padding
    words: torch.Tensor  # bool (batch, words), False at padding and at boundary words
    hidden_states: tuple[torch.Tensor | None, ...] | None  # selected by output_hidden_states


@dataclass
class ElmoTokenClassifierOutput(TokenClassifierOutput):
    """
    Output of `ElmoForTokenClassification`.

    Args:
        loss: only if labels are passed.
        logits: output of the linear layer, `(batch, words, num_labels)`; emissions of the CRF.
        hidden_states: as in `ElmoModelOutput`.
        attentions: always None, because ELMo has no attention.
        tag_scores: `(batch, words, num_labels)`, only with a CRF in evaluation mode: the score of
            the best tagging with this tag at this word, minus the score of the best tagging
            (max-marginals). So they are at most 0, and their argmax is the best tagging.
    """

    tag_scores: torch.Tensor | None = None


class ElmoTaskModel(ElmoPreTrainedModel):
    """
    Base class of the task heads: the biLM, a scalar mix and, if configured, a task biLSTM.

    Training fine-tunes the biLM. To freeze it as in the paper, call
    `model.elmo.requires_grad_(False)`. A frozen biLM stores no activations for the backward pass
    and has no dropout, so its vectors are the same in training and in evaluation mode.

    `scalar_mix` loads `scalar_mix.weights` and `scalar_mix.gamma` from the checkpoint if they are
    there; otherwise it starts as the average of the layers.
    """

    accepts_loss_kwargs = True  # every loss divides by num_items_in_batch itself
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]
    _keys_to_ignore_on_load_missing = [r"^scalar_mix\.", r"^elmo\.lm_head\.scale$"]

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.elmo = ElmoModel(config)
        self.scalar_mix = ElmoScalarMix(
            config.num_hidden_states, config.mix_layers, config.mix_layer_norm
        )
        self.dropout = nn.Dropout(config.mix_dropout)
        self.task_lstm: ElmoTaskLstm | None = None
        self.task_width = config.hidden_size * (1 + len(config.concat_layers or []))
        self.task_directions = config.num_directions
        if config.classifier_lstm_dim:
            self.task_lstm = ElmoTaskLstm(
                self.task_width, config.classifier_lstm_dim, config.classifier_dropout
            )
            self.task_width, self.task_directions = 2 * config.classifier_lstm_dim, 2

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

    def encode(self, inputs: Inputs, output_hidden_states: HiddenStates = False) -> TaskVectors:
        """Compute the output layer's inputs; arguments as in `ElmoModel.forward`."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        with _no_dropout_if_frozen(self.elmo):
            outputs = self.elmo(**inputs._asdict(), output_hidden_states=True, return_dict=True)
        layers = outputs.hidden_states
        mask, words = self._find_words(inputs, layers[0].shape[:2])
        vectors = self.scalar_mix(layers, mask, words)
        if self.config.concat_layers:
            vectors = torch.cat([vectors, *(layers[i] for i in self.config.concat_layers)], -1)
        vectors = self.dropout(vectors)
        if self.task_lstm is not None:
            vectors = self.task_lstm(vectors, mask)
        return TaskVectors(vectors, mask, words, select_layers(layers, output_hidden_states))

    def _find_words(self, inputs: Inputs, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two bool masks `(batch, words)`: of words with boundaries, and without."""
        mask = make_mask(inputs, shape, self.config.num_directions).any(-1)
        return mask, find_words(self.config, mask, inputs)


@contextmanager
def _no_dropout_if_frozen(elmo: ElmoModel) -> Iterator[None]:
    """Switch a biLM without trainable parameters to evaluation mode for one call."""
    if not elmo.training or any(parameter.requires_grad for parameter in elmo.parameters()):
        yield
        return
    modes = [(module, module.training) for module in elmo.modules()]
    elmo.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class ElmoForSequenceClassification(ElmoTaskModel):
    """
    ELMo with a linear layer over the pooled vector of a sentence or a pair of sentences.

    `config.classifier_pooling` is how the vectors of the words are pooled; `<S>` and `</S>` are
    pooled only with `config.pool_boundaries`. `config.problem_type` selects the loss (single-label,
    multi-label or regression); if it is None, the first labels set it, as in BERT.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(_pooled_width(self), config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: NumItems = None,
        output_hidden_states: HiddenStates = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput:
        """
        Compute the logits `(batch, num_labels)`; arguments as in `ElmoModel.forward`, and:

        Args:
            labels: class ids `(batch,)`; for a regression numbers `(batch,)` or `(batch,
                num_labels)`; for multi-label classification 0 or 1 `(batch, num_labels)`.
            num_items_in_batch: divisor of the summed loss; Trainer passes the number of labels of
                the whole optimizer step. Default: the number of labels of this batch.

        Raises:
            ValueError: an argument has the wrong shape, type or range.
        """
        inputs = Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids)
        task = self.encode(inputs, output_hidden_states)
        logits = self.classifier(_pool(self, task.vectors, task.mask, task.words))
        loss = None
        if labels is not None:
            if self.config.problem_type is None:
                self.config.problem_type = guess_problem(self.config.num_labels, labels)
            loss = sequence_loss(logits, labels, self.config.problem_type, num_items_in_batch)
        return SequenceClassifierOutput(loss, logits, task.hidden_states)


class ElmoForTokenClassification(ElmoTaskModel):
    """
    ELMo with a linear layer on every word, and with `config.use_crf` a CRF over the sentence.

    With a CRF the loss is the negative log-likelihood of the tagging per word, and in evaluation
    mode the output has `tag_scores` `(batch, words, num_labels)`, whose argmax is the best tagging
    (Viterbi). Trainer then returns these scores as predictions, so `compute_metrics` can take the
    argmax as for every other model. `logits` are always the linear layer's output, the CRF's
    emissions. `config.tagging_scheme` excludes taggings with invalid spans. Do not combine a CRF
    with label smoothing, which uses the logits alone.

    Args:
        config: the model's configuration, with the label names in `id2label`.

    Raises:
        ValueError: a label name does not belong to the tagging scheme.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(self.task_width, config.num_labels)
        self.crf = ElmoCrf(config.num_labels) if config.use_crf else None
        self._constraints()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: NumItems = None,
        output_hidden_states: HiddenStates = None,
        output_attentions: bool | None = None,
    ) -> ElmoTokenClassifierOutput:
        """
        Compute the logits `(batch, words, num_labels)`; arguments as in `ElmoModel.forward`, and:

        Args:
            labels: ids `(batch, words)`, -100 at boundaries, padding and words without a label. A
                CRF sums over all tags of a word without a label.
            num_items_in_batch: divisor of the summed loss; Trainer passes the number of labels of
                the whole optimizer step. Default: the number of labels of this batch.

        Raises:
            ValueError: an argument has the wrong shape, type or range.
        """
        inputs = Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids)
        task = self.encode(inputs, output_hidden_states)
        logits = self.classifier(task.vectors)
        loss, tag_scores = None, None
        if labels is not None:
            loss = self._loss(logits, labels, task.words, num_items_in_batch)
        if self.crf is not None and not self.training:
            tag_scores = self.crf.max_marginals(logits, task.words, self._constraints())
        return ElmoTokenClassifierOutput(loss, logits, task.hidden_states, tag_scores=tag_scores)

    @torch.no_grad()
    def decode(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Return the label ids of the words `(batch, words)`, -100 at boundaries and padding.

        With a CRF it is one of the best taggings; the argmax of `tag_scores` may mix equal ones.
        """
        task = self.encode(Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids))
        logits = self.classifier(task.vectors)
        if self.crf is None:
            return logits.argmax(-1).masked_fill(~task.words, -100)
        return self.crf.decode(logits, task.words, self._constraints())

    @torch.no_grad()
    def log_marginals(
        self,
        logits: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Return the log-probability of each tag of each word `(batch, words, num_labels)`.

        With a CRF it is the marginal over all taggings, without a CRF the log-softmax.

        Args:
            logits: logits from `forward`, called with the same other arguments.
        """
        if self.crf is None:
            return logits.log_softmax(-1)
        inputs = Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids)
        _, words = self._find_words(inputs, logits.shape[:2])
        return self.crf.log_marginals(logits, words, self._constraints())

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, words: torch.Tensor, num_items: NumItems
    ) -> torch.Tensor:
        if self.crf is None:
            return label_loss(logits, labels, num_items)
        check_label_ids(labels, logits.shape[:2], self.config.num_labels)
        return chain_loss(self.crf(logits, labels, words), labels, words, num_items)

    def _constraints(self) -> Constraints | None:
        if self.config.tagging_scheme is None:
            return None
        names = self.config.id2label
        labels = tuple(names[index] for index in range(self.config.num_labels))
        return make_constraints(labels, self.config.tagging_scheme)


class ElmoForQuestionAnswering(ElmoTaskModel):
    """
    ELMo for extractive question answering: finds the span of the context that is the answer.

    The model reads the pair `tokenizer(question, context)` as one sequence. An answer starts and
    ends in the context, or at the first position (`<S>`), which means "no answer"; at all other
    positions the logits are the lowest number of their dtype. Only LSTMs connect question and
    context, so a frozen biLM needs a task biLSTM (`config.classifier_lstm_dim`).

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(self.task_width, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        num_items_in_batch: NumItems = None,
        output_hidden_states: HiddenStates = None,
        output_attentions: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """
        Compute start and end logits `(batch, words)`; arguments as in `ElmoModel.forward`, and:

        Args:
            start_positions, end_positions: indices `(batch,)` of the answer's first and last word;
                both that of the first position (`<S>`) if there is no answer. Indices outside of
                the context are ignored.
            num_items_in_batch: divisor of the summed loss; Trainer passes the number of answers of
                the whole optimizer step. Default: the number of answers of this batch.

        Raises:
            ValueError: an argument has the wrong shape or type, or one of the positions is missing.
        """
        inputs = Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids)
        task = self.encode(inputs, output_hidden_states)
        allowed = find_context(self.config, task.mask, inputs)
        logits = self.qa_outputs(task.vectors)
        logits = logits.masked_fill(~allowed[..., None], torch.finfo(logits.dtype).min)
        start, end = (scores.contiguous() for scores in logits.unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            positions = (start_positions, end_positions)
            loss = span_loss((start, end), positions, allowed, num_items_in_batch)
        elif start_positions is not None or end_positions is not None:
            raise ValueError(
                "got only one of start_positions and end_positions; pass both, or neither for "
                "logits without a loss"
            )
        return QuestionAnsweringModelOutput(loss, start, end, task.hidden_states)


class ElmoForMultipleChoice(ElmoTaskModel):
    """
    ELMo for multiple choice: a linear layer scores the pooled vector of each choice.

    Args:
        config: the model's configuration; pooling as in `ElmoForSequenceClassification`.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(_pooled_width(self), 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: NumItems = None,
        output_hidden_states: HiddenStates = None,
        output_attentions: bool | None = None,
    ) -> MultipleChoiceModelOutput:
        """
        Compute the logits `(batch, choices)`; arguments as in `ElmoModel`, with `choices` second.

        Args:
            input_ids: `(batch, choices, words, max_characters_per_token)`; or with the last two
                dimensions flattened, as `DataCollatorForMultipleChoice` returns them; for a
                token-input model `(batch, choices, words)`.
            labels: index of the correct choice `(batch,)`.
            num_items_in_batch: divisor of the summed loss; Trainer passes the number of labels of
                the whole optimizer step. Default: the number of labels of this batch.

        Returns:
            Loss and logits; hidden states `(batch * choices, words, hidden_size)` if requested.

        Raises:
            ValueError: an argument has the wrong shape, type or range.
        """
        if self.config.uses_characters and input_ids is not None:
            input_ids = _split_characters(input_ids, self.config.max_characters_per_token)
        given = (input_ids, attention_mask, inputs_embeds, word_input_ids)
        choices = next((one.shape[1] for one in given if one is not None and one.ndim > 1), 1)
        inputs = Inputs(*(None if one is None else one.flatten(0, 1) for one in given))
        task = self.encode(inputs, output_hidden_states)
        scores = self.classifier(_pool(self, task.vectors, task.mask, task.words))
        logits = scores.view(-1, choices)
        loss = None
        if labels is not None:
            loss = label_loss(logits, labels, num_items_in_batch)
        return MultipleChoiceModelOutput(loss, logits, task.hidden_states)


def _pooled_width(model: ElmoTaskModel) -> int:
    return model.task_width * (2 if model.config.classifier_pooling == "mean+max" else 1)


def _pool(
    model: ElmoTaskModel, vectors: torch.Tensor, mask: torch.Tensor, words: torch.Tensor
) -> torch.Tensor:
    rows = mask if model.config.pool_boundaries else words
    return pool_words(vectors, rows, model.config.classifier_pooling, model.task_directions)


def _split_characters(input_ids: torch.Tensor, width: int) -> torch.Tensor:
    """Restore `(batch, choices, words, width)` if the last two dimensions are flattened."""
    if input_ids.ndim == 3 and input_ids.shape[-1] % width == 0:
        return input_ids.unflatten(-1, (-1, width))
    if input_ids.ndim != 4:
        raise ValueError(
            f"input_ids have shape {tuple(input_ids.shape)}; expected character ids (batch, "
            f"choices, words, {width})"
        )
    return input_ids


__all__ = [
    "ElmoForMultipleChoice",
    "ElmoForQuestionAnswering",
    "ElmoForSequenceClassification",
    "ElmoForTokenClassification",
    "ElmoTaskModel",
    "ElmoTokenClassificationPipeline",
    "ElmoTokenClassifierOutput",
    "TaskVectors",
]
