"""Tests of saving, loading and copying a tokenizer, of its word cache, and of its errors."""

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
from helpers.spelled import LISTS, TEXTS, VOCABULARY, row, rows
from tokenizers import pre_tokenizers

from elmo_hf.model.tokenization_characters import byte_symbols
from elmo_hf.model.tokenization_elmo import ElmoTokenizer
from elmo_hf.model.tokenization_vocabulary import WordTable

# --- Saving, loading, copying ---


def assert_equal_tokenizers(one, other):
    for given, how in ((TEXTS, {}), (LISTS, {"is_split_into_words": True})):
        assert dict(one(given, **how)) == dict(other(given, **how))
    assert one.lm_vocab == other.lm_vocab
    assert one.word_splitter == other.word_splitter
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_a_saved_tokenizer_loads_equal(tmp_path):
    tokenizer = ElmoTokenizer(
        lm_vocab=VOCABULARY,
        max_characters_per_token=20,
        word_splitter="whitespace",
        padding_side="left",
    )
    tokenizer(TEXTS, padding=True, truncation=True, max_length=3, padding_side="right")
    tokenizer.save_pretrained(tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json", "vocab.txt"} <= set(os.listdir(tmp_path))
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert_equal_tokenizers(tokenizer, loaded)
    assert (loaded.padding_side, loaded.max_characters_per_token) == ("left", 20)
    assert "lm_vocab_file" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    for name in ("tokenizer.json", "vocab.txt"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_arguments_at_loading_override_saved_ones(tmp_path):
    ElmoTokenizer(lm_vocab=[*VOCABULARY, "<rare>"]).save_pretrained(tmp_path)
    tokenizer = ElmoTokenizer.from_pretrained(
        tmp_path,
        max_characters_per_token=6,
        word_splitter="whitespace",
        use_word_ids=True,
        word_unk_token="<rare>",
    )
    batch = tokenizer("don't")
    assert batch["input_ids"][1] == row("don't", 6)
    assert batch["word_input_ids"] == [1, 9, 2]
    assert ElmoTokenizer.from_pretrained(tmp_path, use_characters=False)("cat")["input_ids"] == [
        1,
        5,
        2,
    ]


@pytest.mark.parametrize("name", ["treebank", "billion-words", "whitespace"])
def test_a_word_splitter_survives_saving(name, tmp_path):
    tokenizer = ElmoTokenizer()
    tokenizer.word_splitter = name
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["word_splitter"] == name
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert loaded.word_splitter == name
    expected = {
        "treebank": "a - b ca n't",
        "billion-words": "a-b can 't",
        "whitespace": "a-b can't",
    }
    assert " ".join(loaded.tokenize("a-b can't")) == expected[name]


def test_a_pre_tokenizer_of_the_users_own_survives(tokenizer, tmp_path):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert tokenizer.word_splitter is None
    tokenizer.save_pretrained(tmp_path)
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert loaded.tokenize("don't") == ["don", "'", "t"]
    assert_equal_tokenizers(tokenizer, loaded)
    named = ElmoTokenizer.from_pretrained(tmp_path, word_splitter="treebank")
    assert named.tokenize("don't") == ["do", "n't"]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_are_equal_and_independent(with_vocabulary, again):
    other = again(with_vocabulary)
    assert other.backend_tokenizer.encode_special_tokens  # or the first call would change it
    assert_equal_tokenizers(with_vocabulary, other)
    other.max_characters_per_token = 10
    other.word_splitter = "whitespace"
    assert len(other("a")["input_ids"][0]) == 10
    assert len(with_vocabulary("a")["input_ids"][0]) == 50
    assert with_vocabulary.word_splitter == "treebank"


def test_a_folder_without_tokenizer_json_gives_the_byte_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"max_characters_per_token": 7}')
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("don't")["input_ids"] == rows(["<S>", "do", "n't", "</S>"], 7)


@pytest.mark.slow
def test_a_saved_folder_works_as_remote_code_where_elmo_hf_is_not_installed(tmp_path):
    ElmoTokenizer.register_for_auto_class("AutoTokenizer")
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY, word_splitter="billion-words")
    tokenizer.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder/config.json").write_text('{"model_type": "unheard of"}')
    script = """
import json, sys
sys.modules["elmo_hf"] = None
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("folder", trust_remote_code=True)
batch = tokenizer(["I don't.", "cat"], padding=True, return_lm_labels=True)
tokenizer.save_pretrained("again")
print(json.dumps([type(tokenizer).__module__, dict(batch), batch.tokens(1)]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    module, batch, tokens = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("transformers_modules")
    expected = tokenizer(["I don't.", "cat"], padding=True, return_lm_labels=True)
    assert batch == dict(expected) and tokens == expected.tokens(1)
    code = {path.name for path in (tmp_path / "folder").glob("*.py")}
    assert code == {path.name for path in (tmp_path / "again").glob("*.py")}
    assert_equal_tokenizers(tokenizer, ElmoTokenizer.from_pretrained(tmp_path / "again"))


# --- The words met ---


def test_the_word_cache_stays_bounded_and_correct():
    tokenizer = ElmoTokenizer()
    tokenizer._words.limit = 5
    for start in range(0, 60, 7):
        words = [f"word{i}" for i in range(start, start + 12)]
        assert tokenizer.words_to_ids(words).tolist() == rows(words)
        assert len(tokenizer._words._numbering) <= 5 + 12


def test_a_failed_encoding_leaves_no_wrong_ids_in_the_cache(monkeypatch):
    tokenizer = ElmoTokenizer()
    table: WordTable = tokenizer._words

    def fail(words, width):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(table.spelling, "rows", fail)
        with pytest.raises(MemoryError):
            tokenizer.words_to_ids(["a", "b"])
    assert tokenizer.words_to_ids(["b", "c", "a"]).tolist() == rows(["b", "c", "a"])


# --- Errors ---


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        ("a b", {"is_split_into_words": True}, r"pass text\.split\(\)"),
        ([["a", "b", "c"], ["d"]], {}, "for lists of words add is_split_into_words=True"),
        ([["a", "b"], ["c", "d"]], {}, "for lists of words add is_split_into_words=True"),
        (["a", None], {}, "a text or word is None, a NoneType"),
        ([["a", 3]], {"is_split_into_words": True}, "a text or word is 3, a int"),
        ([["a", None]], {"is_split_into_words": True, "return_length": True}, "or word is None"),
        ([None, "a"], {"is_split_into_words": True}, "a text or word is None"),
        ([["a"], "b"], {"is_split_into_words": True}, "some entries are lists of words"),
        (7, {}, "text is 7, a int"),
        (None, {"is_split_into_words": True}, "specify either|text is None"),
        ([], {}, "empty batch"),
        ("a", {"return_lm_labels": True}, "needs a vocabulary"),
        (["a"], {"text_pair": ["a", "b"]}, "does not match"),
        ("a", {"sanitize_control_tokens": True}, "no control tokens"),
    ],
)
def test_invalid_input_raises_one_clear_error(tokenizer, text, how, message):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        tokenizer(text, **how)
    assert tokenizer("a")["input_ids"] == rows(["<S>", "a", "</S>"])  # nothing is left behind
    assert tokenizer.word_splitter == "treebank"


def test_lists_of_two_texts_are_pairs_as_zero_shot_pipelines_give_them(tokenizer):
    batch = tokenizer([["a b", "It is c."], ["d", "It is e."]])
    assert batch.sequence_ids(0).count(1) == 4
    assert tokenizer([("a", "b")]).sequence_ids(0) == [None, 0, None, None, 1, None]
    assert tokenizer([["今天", "这是天"]]).sequence_ids(0).count(1) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_characters_per_token": 2}, "expected 3 or more"),
        ({"lm_vocab": ["<S>", "</S>", "a"]}, r"lacks \['<UNK>'\]"),
        ({"lm_vocab": ["<S>\r", "</S>\r", "<UNK>\r"]}, r"first: \['<S>\\r'"),
        ({"lm_vocab": []}, "vocabulary of 0 words"),
        ({"lm_vocab": ["a\nb"]}, "entry 0"),
        ({"lm_vocab": ["a", None]}, "entry 1"),
        ({"lm_vocab": ["\ud800"]}, "lone surrogates"),
        ({"use_word_ids": True}, "need a vocabulary"),
        ({"use_characters": False}, "need a vocabulary"),
        ({"bos_token": "^"}, "two characters or more"),
        ({"bos_token": "</S>"}, "different names"),
        ({"word_splitter": "spaces"}, "word_splitter is 'spaces'"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ElmoTokenizer(**arguments)


def test_a_vocabulary_file_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("<S>\n</S>\n<UNK>\ncafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        ElmoTokenizer(lm_vocab_file=str(file))


def test_training_a_tokenizer_says_why_there_is_nothing_to_train(tokenizer):
    with pytest.raises(NotImplementedError, match="lm_vocab_file"):
        tokenizer.train_new_from_iterator([], 10)


def test_no_symbol_is_one_character_long():
    assert min(map(len, byte_symbols("<PAD>", "<S>", "</S>"))) > 1
