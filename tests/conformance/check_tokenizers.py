"""transformers' common tests of tokenizers, run on ElmoTokenizer."""

import unittest
from operator import itemgetter
from unittest.mock import patch

from harness import WholeTests
from tests.test_tokenization_common import TokenizerTesterMixin
from tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

from elmo_hf import ElmoTokenizer

SENTENCE = "this is a small test of the words"


class ElmoTokenizerTests(WholeTests, TokenizerTesterMixin, TokenizersBackendTesterMixin):
    """What the common tests need to know of ElmoTokenizer; `options` are its arguments."""

    tokenizer_class = ElmoTokenizer
    options = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        ElmoTokenizer(**cls.options).save_pretrained(cls.tmpdirname)
        cls.from_pretrained_id = [cls.tmpdirname]
        cls.tokenizers_list = [(ElmoTokenizer, cls.tmpdirname, {})]

    def get_clean_sequence(self, tokenizer, with_prefix_space=False, max_length=20, min_length=5):
        # The original joins entries of get_vocab(), which are symbols of characters here.
        text = " " * with_prefix_space + " ".join(SENTENCE.split()[:max_length])
        return text, tokenizer.encode(text, add_special_tokens=False)

    def test_tokenizers_common_ids_setters(self):
        # The original gives each special token the first id of get_vocab(), whose order is random,
        # but ELMo's padding is always 0.
        get_vocab = ElmoTokenizer.get_vocab

        def sorted_vocab(tokenizer):
            return dict(sorted(get_vocab(tokenizer).items(), key=itemgetter(1)))

        with patch.object(ElmoTokenizer, "get_vocab", sorted_vocab):
            super().test_tokenizers_common_ids_setters()


class CharacterTokenizerTest(ElmoTokenizerTests, unittest.TestCase):
    """The original model's: a word is a row of character ids."""


class TokenInputTokenizerTest(ElmoTokenizerTests, unittest.TestCase):
    """For a model with token input: a word is one id."""

    # The tests rename boundaries; a boundary of this model is a word of the vocabulary.
    words = ("<S>", "</S>", "<UNK>", "<BOS>", "[NEW_EOS]", *SENTENCE.split())
    options = {"use_characters": False, "lm_vocab": words}
