"""transformers' common tests of configurations and models, run on ElmoConfig and ElmoModel."""

import unittest

import torch
from harness import WholeTests
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, ids_tensor
from tests.test_training_mixin import TrainingTesterMixin

import elmo_hf
from elmo_hf import ElmoConfig


class ElmoModelTester:
    """Small models and inputs, under the names that the common tests look for."""

    sequence_classification_class = elmo_hf.ElmoForSequenceClassification
    is_training = True
    batch_size, seq_length = 3, 7
    num_hidden_layers = 2
    hidden_size = 16
    num_choices = 2
    settings = {
        "vocab_size": 262,
        "max_characters_per_token": 12,
        "char_embedding_dim": 4,
        "filters": [[1, 4], [2, 8]],
        "num_highway_layers": 1,
        "projection_dim": 8,
        "cell_dim": 16,
        "lm_vocab_size": 30,
        "dropout": 0.0,
        "mix_dropout": 0.0,
        "classifier_dropout": 0.0,
    }

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return ElmoConfig(**self.settings)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        shape = [self.batch_size, self.seq_length]
        if config.uses_characters:
            shape.append(config.max_characters_per_token)
        size = config.vocab_size if config.uses_characters else config.word_vocab_size
        input_ids = ids_tensor(shape, size - 1) + 1
        return config, {"input_ids": input_ids, "attention_mask": torch.ones(shape[:2]).long()}


class ElmoModelTests(WholeTests, ModelTesterMixin, TrainingTesterMixin):
    """What the common tests need to know of ELMo."""

    has_attentions = False
    training_overfit_seq_length = 8  # the loss falls as far with short sentences
    model_tester_class = ElmoModelTester
    all_model_classes = (
        elmo_hf.ElmoModel,
        elmo_hf.ElmoForPreTraining,
        elmo_hf.ElmoForSequenceClassification,
        elmo_hf.ElmoForTokenClassification,
        elmo_hf.ElmoForQuestionAnswering,
        elmo_hf.ElmoForMultipleChoice,
    )
    model_tester = None

    def setUp(self):
        torch.manual_seed(0)
        self.model_tester = self.model_tester_class(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if model_class is elmo_hf.ElmoForMultipleChoice:
            inputs = {
                name: repeat_choices(value, self.model_tester.num_choices)
                for name, value in inputs.items()
            }
            if return_labels:
                inputs["labels"] = torch.ones(self.model_tester.batch_size, dtype=torch.long)
        if model_class is elmo_hf.ElmoForPreTraining and return_labels:
            inputs["labels"] = torch.zeros(inputs["attention_mask"].shape, dtype=torch.long)
        return inputs

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        self.model_tester.batch_size, self.model_tester.seq_length = batch_size, seq_length
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return {**inputs, "labels": torch.arange(batch_size)}

    def test_config(self):
        ConfigTester(
            self,
            config_class=ElmoConfig,
            common_properties=["hidden_size", "num_hidden_layers"],
            **self.model_tester.settings,
        ).run_common_tests()


def repeat_choices(value, choices):
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    return value[:, None].expand(-1, choices, *value.shape[1:]).contiguous()


class CharacterModelTest(ElmoModelTests, unittest.TestCase):
    """The original model: words are rows of character ids."""


class TokenInputModelTester(ElmoModelTester):
    settings = {
        **ElmoModelTester.settings,
        "filters": [],
        "word_vocab_size": 262,
        "word_embedding_dim": 8,
        "lm_vocab_size": 261,
    }


class TokenInputModelTest(ElmoModelTests, unittest.TestCase):
    """bilm-tf's token input: words are single ids."""

    model_tester_class = TokenInputModelTester
