# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo (Peters et al. 2018) for Hugging Face: importing it registers the auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from .model.configuration_elmo import ElmoConfig
from .model.engine_choice import use_engine
from .model.layer_scalar_mix import ElmoScalarMix
from .model.modeling_elmo import ElmoModel, ElmoModelOutput, ElmoPreTrainedModel
from .model.modeling_elmo_heads import (
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
)
from .model.modeling_elmo_pretraining import ElmoForPreTraining, ElmoForPreTrainingOutput
from .model.pipeline_elmo import ElmoTokenClassificationPipeline
from .model.tokenization_elmo import ElmoTokenizer

__version__ = "0.1.0"

AutoConfig.register("elmo", ElmoConfig, exist_ok=True)
AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer, exist_ok=True)
AutoModel.register(ElmoConfig, ElmoModel, exist_ok=True)
AutoModelForPreTraining.register(ElmoConfig, ElmoForPreTraining, exist_ok=True)
AutoModelForSequenceClassification.register(
    ElmoConfig, ElmoForSequenceClassification, exist_ok=True
)
AutoModelForTokenClassification.register(ElmoConfig, ElmoForTokenClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(ElmoConfig, ElmoForQuestionAnswering, exist_ok=True)
AutoModelForMultipleChoice.register(ElmoConfig, ElmoForMultipleChoice, exist_ok=True)
ElmoTokenizer.register_for_auto_class()  # saved tokenizers bring their code

__all__ = [
    "ElmoConfig",
    "ElmoForMultipleChoice",
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoForQuestionAnswering",
    "ElmoForSequenceClassification",
    "ElmoForTokenClassification",
    "ElmoModel",
    "ElmoModelOutput",
    "ElmoPreTrainedModel",
    "ElmoScalarMix",
    "ElmoTokenClassificationPipeline",
    "ElmoTokenizer",
    "use_engine",
]
