# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
ELMo (Peters et al. 2018), deep contextualized word vectors, as a Hugging Face model.

Importing this package registers ELMo with transformers: `AutoModel`, `AutoTokenizer` and the other
auto classes then load ELMo folders, `pipeline("token-classification", model=folder)` tags words,
and `pipeline("fill-mask", model=folder)` fills gaps.

- Model: `ElmoConfig`, `ElmoModel`, `ElmoForPreTraining` (the language model), `ElmoTokenizer`.
- Task heads: `ElmoForSequenceClassification`, `ElmoForTokenClassification`,
  `ElmoForQuestionAnswering`, `ElmoForMultipleChoice`, on an `ElmoScalarMix` of the layers.
- Vectors of words and sentences: `load` or `ElmoEmbedder`; from a model in memory: `embed_corpus`.
- Vectors on disk: `write_vectors`, `open_vectors`.
- Probabilities of words and sentences: `score_sentences`, `score_text`, `perplexity`.
- Words for the gaps of a sentence: `fill_gaps`.
- `use_engine` forces one implementation of the LSTMs, for tests and comparisons.
"""

from . import quiet_imports  # noqa: F401  (before transformers)

# isort: split
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .embedder import ElmoEmbedder, load
from .embedding import embed_corpus
from .gaps import ElmoFillMaskPipeline, fill_gaps
from .model.configuration_elmo import ElmoConfig
from .model.engine_choice import use_engine
from .model.layer_scalar_mix import ElmoScalarMix
from .model.modeling_elmo import ElmoModel, ElmoModelOutput, ElmoPreTrainedModel
from .model.modeling_elmo_heads import (
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoTokenClassifierOutput,
)
from .model.modeling_elmo_pretraining import (
    ElmoForPreTraining,
    ElmoForPreTrainingOutput,
    NoSuchLanguageModel,
)
from .model.pipeline_elmo import ElmoTokenClassificationPipeline
from .model.tokenization_elmo import ElmoTokenizer
from .scoring import Perplexity, SentenceScores, perplexity, score_sentences, score_text
from .storage import open_vectors, write_vectors

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
for auto_class in (AutoModelForMaskedLM, AutoModelForCausalLM):
    auto_class.register(ElmoConfig, NoSuchLanguageModel, exist_ok=True)
# For all other models these classes return the stock pipelines.
PIPELINE_REGISTRY.supported_tasks["token-classification"]["impl"] = ElmoTokenClassificationPipeline
PIPELINE_REGISTRY.supported_tasks["fill-mask"]["impl"] = ElmoFillMaskPipeline
PIPELINE_REGISTRY.supported_tasks["fill-mask"]["pt"] += (AutoModelForPreTraining,)
ElmoTokenizer.register_for_auto_class()  # saved folders then include the tokenizer's code

__all__ = [
    "ElmoConfig",
    "ElmoEmbedder",
    "ElmoFillMaskPipeline",
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
    "ElmoTokenClassifierOutput",
    "ElmoTokenizer",
    "Perplexity",
    "SentenceScores",
    "embed_corpus",
    "fill_gaps",
    "load",
    "open_vectors",
    "perplexity",
    "score_sentences",
    "score_text",
    "use_engine",
    "write_vectors",
]
