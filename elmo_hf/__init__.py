# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo (Peters et al. 2018) for Hugging Face: importing it registers the auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer

from .configuration_elmo import ElmoConfig
from .engines_elmo import use_engine
from .modeling_elmo import (
    ElmoForPreTraining,
    ElmoForPreTrainingOutput,
    ElmoModel,
    ElmoModelOutput,
    ElmoPreTrainedModel,
)
from .tokenization_elmo import ElmoTokenizer

__version__ = "0.1.0"

AutoConfig.register("elmo", ElmoConfig, exist_ok=True)
AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer, exist_ok=True)
AutoModel.register(ElmoConfig, ElmoModel, exist_ok=True)
AutoModelForPreTraining.register(ElmoConfig, ElmoForPreTraining, exist_ok=True)
ElmoTokenizer.register_for_auto_class()  # saved tokenizers bring their code

__all__ = [
    "ElmoConfig",
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoModel",
    "ElmoModelOutput",
    "ElmoPreTrainedModel",
    "ElmoTokenizer",
    "use_engine",
]
