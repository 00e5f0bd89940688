# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo for classifying sentences and words, answering questions and choosing answers."""

import torch
from torch import nn
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

# Remote code of early transformers 5 brings along what this file imports, and no more.
from .character_engine_elmo import is_plain  # noqa: F401
from .configuration_elmo import ElmoConfig
from .crf_elmo import Constraints, ElmoCrf, make_constraints
from .crf_engine_elmo import log_partition  # noqa: F401
from .embeddings_elmo import ElmoEmbeddings  # noqa: F401
from .engines_elmo import forced_engine  # noqa: F401
from .gpu_elmo import GpuRunner  # noqa: F401
from .inference_elmo import PreparedLstm  # noqa: F401
from .inputs_elmo import make_mask  # noqa: F401
from .kernels_elmo import find_kernels  # noqa: F401
from .losses_elmo import (
    NumItems,
    chain_loss,
    check_label_ids,
    label_loss,
    sequence_loss,
    span_loss,
)
from .lstm_elmo import ElmoLstm  # noqa: F401
from .mixed_lstm_elmo import ElmoMixedLayer  # noqa: F401
from .modeling_elmo import ElmoModel  # noqa: F401
from .packing_elmo import Packing  # noqa: F401
from .quantization_elmo import is_int8  # noqa: F401
from .rows_elmo import find_context, pool_words
from .scalar_mix_elmo import ElmoScalarMix  # noqa: F401
from .task_elmo import ElmoTaskModel
from .threads_elmo import run_side_by_side  # noqa: F401
from .training_elmo import clipped_lstm  # noqa: F401

HiddenStates = bool | int | list[int] | None


class ElmoForSequenceClassification(ElmoTaskModel):
    """
    ELMo with a linear layer over a vector of the whole sentence, or pair of sentences.

    `config.classifier_pooling` makes the one vector of the words' mixed vectors; boundary words
    count with `config.pool_boundaries` only. `config.problem_type`, or else the labels, decide
    between classes, several labels at once and a regression.

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
        Score the labels `(batch, num_labels)`; words as in `ElmoModel.forward`, and:

        Args:
            labels: class ids `(batch,)`; for a regression numbers `(batch,)` or `(batch,
                num_labels)`; for several labels at once 0 or 1 `(batch, num_labels)`.
            num_items_in_batch: what the summed loss is divided by; Trainer gives the number of
                labels of the whole step. Default: those of this batch.

        Raises:
            ValueError: an argument has the wrong shape, type or range.
        """
        task = self.encode(
            input_ids, attention_mask, inputs_embeds, word_input_ids, output_hidden_states
        )
        logits = self.classifier(_pool(self, task.vectors, task.mask, task.words))
        loss = None
        if labels is not None:
            problem_type = self.config.problem_type
            loss = sequence_loss(logits, labels, problem_type, num_items_in_batch)
        return SequenceClassifierOutput(loss, logits, task.hidden_states)


class ElmoForTokenClassification(ElmoTaskModel):
    """
    ELMo with a linear layer over every word, and with `config.use_crf` a CRF over the sentence.

    With a CRF the loss is the tagging's negative log-likelihood per word. In evaluation the logits
    are then what each tag would cost the whole sentence, 0 for the best: their largest entries are
    the best tagging, so that an argmax, as in Trainer's metrics and in the pipeline, is Viterbi
    decoding. `config.tagging_scheme` rules out taggings that are no spans. In training the logits
    are the linear layer's; Trainer's label smoothing sees these alone, so it does not go with a
    CRF.

    Args:
        config: the model's configuration, with the labels' names in `id2label`.

    Raises:
        ValueError: a label's name does not belong to the tagging scheme.
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
    ) -> TokenClassifierOutput:
        """
        Score the labels of every word `(batch, words, num_labels)`; words as in `ElmoModel`, and:

        Args:
            labels: ids `(batch, words)`, -100 at words that have none: boundaries and padding. A
                CRF sums over the tags of an inner word without a label.
            num_items_in_batch: what the summed loss is divided by; Trainer gives the number of
                labels of the whole step. Default: those of this batch.

        Raises:
            ValueError: an argument has the wrong shape, type or range.
        """
        task = self.encode(
            input_ids, attention_mask, inputs_embeds, word_input_ids, output_hidden_states
        )
        logits = self.classifier(task.vectors)
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, task.words, num_items_in_batch)
        if self.crf is not None and not self.training:
            logits = self.crf.max_marginals(logits, task.words, self._constraints())
        return TokenClassifierOutput(loss, logits, task.hidden_states)

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

        With a CRF it is the best tagging, also where two tags of a word come out equal.
        """
        task = self.encode(input_ids, attention_mask, inputs_embeds, word_input_ids, False)
        logits = self.classifier(task.vectors)
        if self.crf is None:
            return logits.argmax(-1).masked_fill(~task.words, -100)
        return self.crf.decode(logits, task.words, self._constraints())

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
    ELMo that marks the span of the context which answers a question.

    The tokenizer's pair `tokenizer(question, context)` is read as one sentence. Ends of the span
    are looked for in the context and at the first row, which stands for "no answer"; everything
    else, the question included, has the lowest number as its logit. The question is seen through
    the LSTMs alone, so `config.classifier_lstm_dim` helps a frozen biLM.

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
        Score the rows as start and as end `(batch, words)`; words as in `ElmoModel`, and:

        Args:
            start_positions, end_positions: rows of the answer's first and last word `(batch,)`,
                of the first row if there is none. Those outside of the context are ignored.
            num_items_in_batch: what the summed loss is divided by. Default: the answers given.

        Raises:
            ValueError: an argument has the wrong shape or type, or an end stands alone.
        """
        task = self.encode(
            input_ids, attention_mask, inputs_embeds, word_input_ids, output_hidden_states
        )
        allowed = find_context(self.config, task.mask, input_ids, word_input_ids)
        logits = self.qa_outputs(task.vectors)
        logits = logits.masked_fill(~allowed[..., None], torch.finfo(logits.dtype).min)
        start, end = (scores.contiguous() for scores in logits.unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            positions = (start_positions, end_positions)
            loss = span_loss((start, end), positions, allowed, num_items_in_batch)
        elif start_positions is not None or end_positions is not None:
            raise ValueError(
                "got one of start_positions and end_positions; expected both, or neither to "
                "score without a loss"
            )
        return QuestionAnsweringModelOutput(loss, start, end, task.hidden_states)


class ElmoForMultipleChoice(ElmoTaskModel):
    """
    ELMo that chooses between several sentences, each scored from a vector of its own.

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
        Score the choices `(batch, choices)`; words as in `ElmoModel` with `choices` after `batch`.

        Args:
            input_ids: `(batch, choices, words, max_characters_per_token)`, or with words and
                characters in one dimension, as `DataCollatorForMultipleChoice` leaves them; for
                a token-input model `(batch, choices, words)`.
            labels: the right choice `(batch,)`.
            num_items_in_batch: what the summed loss is divided by; Trainer gives the number of
                labels of the whole step. Default: those of this batch.

        Returns:
            Loss and logits; hidden states `(batch * choices, words, hidden_size)` on request.

        Raises:
            ValueError: an argument has the wrong shape, type or range.
        """
        given = [input_ids, attention_mask, inputs_embeds, word_input_ids]
        if self.config.uses_characters and input_ids is not None:
            given[0] = _split_characters(input_ids, self.config.max_characters_per_token)
        choices = next((one.shape[1] for one in given if one is not None and one.ndim > 1), 1)
        input_ids, attention_mask, inputs_embeds, word_input_ids = (
            None if one is None else one.flatten(0, 1) for one in given
        )
        task = self.encode(
            input_ids, attention_mask, inputs_embeds, word_input_ids, output_hidden_states
        )
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
    """`(batch, choices, words, width)`, given so or with its last two dimensions as one."""
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
]
