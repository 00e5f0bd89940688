"""transformers' common tests of pipelines, run on small ELMo models."""

import json
import os
import tempfile
import unittest
from pathlib import Path

import torch
from check_models import ElmoModelTester
from harness import WholeTests

import elmo_hf

TASKS = {
    "feature-extraction": elmo_hf.ElmoModel,
    "text-classification": elmo_hf.ElmoForSequenceClassification,
    "token-classification": elmo_hf.ElmoForTokenClassification,
    "zero-shot": elmo_hf.ElmoForSequenceClassification,
}


def save_models(folder: Path) -> None:
    """Save a model of each class where the common tests look for it, and their summary of them."""
    torch.manual_seed(0)
    width = ElmoModelTester.settings["max_characters_per_token"]
    summary = {}
    for model_class in set(TASKS.values()):
        name = model_class.__name__
        model_class(ElmoModelTester(None).get_config()).save_pretrained(folder / "elmo" / name)
        tokenizer = elmo_hf.ElmoTokenizer(max_characters_per_token=width)
        tokenizer.save_pretrained(folder / "elmo" / name)
        summary[name] = {"tokenizer_classes": ["ElmoTokenizer"], "processor_classes": []}
    (folder / "reports").mkdir()
    (folder / "reports/tiny_model_summary.json").write_text(json.dumps(summary))


MODELS = tempfile.TemporaryDirectory()
save_models(Path(MODELS.name))
os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = MODELS.name  # read at import
from tests import test_pipeline_mixin  # noqa: E402

test_pipeline_mixin.transformers_module.ElmoTokenizer = elmo_hf.ElmoTokenizer


class PipelineTest(WholeTests, test_pipeline_mixin.PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = TASKS
