"""Replaces transformers' tests of pipelines: the documented results, checked on two texts."""

import pytest
from transformers import pipeline

EXAMPLES = ["The river bank was steep .", "My bank closed ."]


class TaskTest:
    """Makes the pipeline of a task and checks what it returns for one text and for several."""

    task = None

    def get_test_pipeline(self, model, tokenizer, dtype="float32", **processors):
        made = pipeline(self.task, model=model, tokenizer=tokenizer, dtype=dtype)
        return made, EXAMPLES

    def run_pipeline_test(self, made, examples):
        alone = [made(text) for text in examples]
        together = made(examples)
        assert len(together) == len(examples)
        for text, first, second in zip(examples, alone, together, strict=True):
            self.check(made, text, first)
            self.check(made, text, second)

    def check(self, made, text, result):
        raise NotImplementedError


class FeatureExtractionPipelineTests(TaskTest):
    task = "feature-extraction"

    def check(self, made, text, result):
        (words,) = result
        assert len(words) == len(text.split()) + 2
        assert {len(vector) for vector in words} == {made.model.config.hidden_size}


class TextClassificationPipelineTests(TaskTest):
    task = "text-classification"

    def check(self, made, text, result):
        best = result[0] if isinstance(result, list) else result
        assert best["label"] in made.model.config.label2id
        assert 1 / made.model.config.num_labels <= best["score"] <= 1


class TokenClassificationPipelineTests(TaskTest):
    task = "token-classification"

    def check(self, made, text, result):
        assert [row["word"] for row in result] == text.split()
        for row in result:
            assert text[row["start"] : row["end"]] == row["word"]
            assert row["entity"] in made.model.config.label2id
            assert 0 <= row["score"] <= 1


class ZeroShotClassificationPipelineTests(TaskTest):
    task = "zero-shot-classification"

    def get_test_pipeline(self, model, tokenizer, dtype="float32", **processors):
        model.config.label2id = {"contradiction": 0, "entailment": 1}
        made, examples = super().get_test_pipeline(model, tokenizer, dtype)
        made._preprocess_params["candidate_labels"] = ["nature", "money"]
        return made, examples

    def check(self, made, text, result):
        assert result["sequence"] == text
        assert set(result["labels"]) == {"nature", "money"}
        assert sum(result["scores"]) == pytest.approx(1, abs=1e-2)
