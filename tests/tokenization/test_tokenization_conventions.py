"""Tests of tokenizer conventions: added and renamed tokens, tokens to ids and back, arrays."""

import inspect
import json
import pickle

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from helpers.spelled import CHARACTERS, VOCABULARY, row, rows
from tokenizers import AddedToken, Tokenizer, models, normalizers

from elmo_hf.model import tokenization_characters
from elmo_hf.model.tokenization_characters import byte_symbols, unigram
from elmo_hf.model.tokenization_elmo import ElmoTokenizer

WORDS = {"is_split_into_words": True}
ZEROS = [0] * 50

# --- Tokens to ids and back ---


def test_tokens_convert_to_the_character_ids_of_the_text(tokenizer):
    text = "I don't [x] café."
    ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("café") == row("café")
    tokens = ["<S>", "a", "</S>", "<PAD>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [*rows(tokens[:3]), ZEROS]
    assert tokenizer.convert_tokens_to_ids([]) == []


def test_character_ids_in_lists_arrays_and_tensors_convert_to_tokens(tokenizer):
    tokens = ["<S>", "don't", "x", "</S>", "<PAD>"]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    for given in (ids, np.array(ids), torch.tensor(ids)):
        assert tokenizer.convert_ids_to_tokens(given) == tokens
        assert tokenizer.convert_ids_to_tokens(given[1]) == "don't"
        assert tokenizer.convert_ids_to_tokens(given[4]) == "<PAD>"
        assert tokenizer.convert_ids_to_tokens(given, skip_special_tokens=True) == tokens[1:3]
    assert tokenizer.convert_ids_to_tokens(torch.tensor([ids, ids])) == [tokens, tokens]
    assert tokenizer.decode(ids[1]) == "don't"
    words_only = ElmoTokenizer(lm_vocab=VOCABULARY, use_characters=False)
    assert words_only.convert_tokens_to_ids("the") == 7
    assert words_only.convert_ids_to_tokens([[7, 2], [0]]) == [["the", "</S>"], ["<PAD>"]]


def test_ids_of_special_tokens_are_symbols_of_the_model(tokenizer):
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert (*ids, tokenizer.cls_token_id) == (0, 257, 258, None)
    tokenizer.cls_token = "<S>"
    assert tokenizer.cls_token_id == 257
    tokenizer.pad_token_id = None
    assert tokenizer.pad_token is None
    tokenizer.pad_token_id = 0
    assert tokenizer.pad_token == "<PAD>"


# --- Added and renamed tokens ---


def test_added_tokens_stay_whole_in_raw_text_and_are_encoded_as_characters(tokenizer, tmp_path):
    assert tokenizer.add_tokens(["[X]"]) == 1
    markers = {"additional_special_tokens": ["[E1]", "[/E1]"], "cls_token": "[CLS]"}
    assert tokenizer.add_special_tokens(markers) == 3
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, ElmoTokenizer.from_pretrained(tmp_path)):
        text = "[CLS] a [E1] b [/E1] c[X]d"
        tokens = ["[CLS]", "a", "[E1]", "b", "[/E1]", "c", "[X]", "d"]
        assert each.tokenize(text) == tokens
        for option in ({}, {"return_offsets_mapping": True}, {"truncation": True, "max_length": 9}):
            ids = each(text, **option, padding=True)["input_ids"]
            assert ids[1:8] == rows(tokens[:7])
        assert each.tokenize("a [E1]", split_special_tokens=True) == ["a", "[", "E1", "]"]
        assert each(["[E1]x"], **WORDS)["input_ids"] == rows(["<S>", "[E1]x", "</S>"])
        assert each.cls_token == "[CLS]" and each.extra_special_tokens == ["[E1]", "[/E1]"]
        whitespace = ElmoTokenizer(word_splitter="whitespace", cls_token="[CLS]")
        assert whitespace.tokenize("a<S>b x[CLS]") == ["a<S>b", "x", "[CLS]"]


def test_flags_of_added_tokens_are_respected(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    spaced = AddedToken("<m>", lstrip=True, rstrip=True)
    tokenizer.add_tokens([spaced, AddedToken("AI", single_word=True, normalized=True)])
    batch = tokenizer("A <m> b said AI")
    assert batch.tokens() == ["<S>", "a", "<m>", "b", "said", "AI", "</S>"]
    assert batch["input_ids"] == rows(batch.tokens())


def test_special_tokens_can_be_renamed_and_keep_their_ids(tmp_path):
    names = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": AddedToken("[SEP]")}
    by_attribute, by_method = ElmoTokenizer(), ElmoTokenizer()
    for key, value in names.items():
        setattr(by_attribute, key, value)
    by_method.add_special_tokens(names)
    ElmoTokenizer().save_pretrained(tmp_path / "old")
    loaded = ElmoTokenizer.from_pretrained(tmp_path / "old", **names)
    by_attribute.save_pretrained(tmp_path / "new")
    again = ElmoTokenizer.from_pretrained(tmp_path / "new")
    expected = ElmoTokenizer()(["a", "b c"], padding=True)
    for each in (ElmoTokenizer(**names), by_attribute, by_method, loaded, again):
        assert len(each) == 262
        assert (each.pad_token_id, each.bos_token_id, each.eos_token_id) == (0, 257, 258)
        batch = each(["a", "b c"], padding=True)
        assert dict(batch) == dict(expected)
        assert batch.tokens(0) == ["[CLS]", "a", "[SEP]", "[PAD]"]
        assert each.tokenize("<S> </S>") == ["<", "S", ">", "<", "/", "S", ">"]
        assert each.decode(batch["input_ids"][0]) == "[CLS] a [SEP] [PAD]"


def test_a_new_name_must_be_a_word_of_the_vocabulary(with_vocabulary):
    with pytest.raises(ValueError, match=r"lacks \['\[CLS\]'\]"):
        with_vocabulary.bos_token = "[CLS]"
    assert with_vocabulary.bos_token == "<S>"
    with_vocabulary.pad_token = "[PAD]"
    assert with_vocabulary.pad_token_id == 0


def test_boundaries_of_a_saved_character_table_keep_their_names(tmp_path):
    ElmoTokenizer.from_characters(CHARACTERS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use the names in tokenizer"):
        ElmoTokenizer.from_pretrained(tmp_path, bos_token="[CLS]")
    loaded = ElmoTokenizer.from_pretrained(tmp_path, pad_token="[PAD]")
    loaded.bos_token = "[CLS]"
    assert (loaded.pad_token_id, loaded.bos_token_id) == (0, 4)
    assert loaded.decode(loaded("ab")["input_ids"]) == "[CLS] ab </S>"


def test_every_argument_is_kept_but_the_words_are_saved_in_vocab_txt_alone(tmp_path):
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY)
    arguments = set(inspect.signature(ElmoTokenizer.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(tokenizer.init_kwargs)
    tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert not {"lm_vocab", "lm_vocab_file"} & saved.keys()
    assert ElmoTokenizer.from_pretrained(tmp_path).lm_vocab == VOCABULARY


# --- Forms of input ---


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        lambda words: np.array(words, object),
        pandas.Series,
        pyarrow.array,
        lambda words: pyarrow.chunked_array([words]),
    ],
)
def test_arrays_of_words_and_texts_are_read_as_lists(tokenizer, form):
    words = ["a", "b'c"]
    expected = tokenizer([words], **WORDS)["input_ids"]
    assert tokenizer([form(words)], **WORDS)["input_ids"] == expected
    assert tokenizer(form(words), **WORDS)["input_ids"] == expected[0]
    assert tokenizer(form(words))["input_ids"] == tokenizer(words)["input_ids"]
    pair = tokenizer(form(words), form(words), **WORDS)["input_ids"]
    assert pair == tokenizer(words, words, **WORDS)["input_ids"]
    for option in ({}, {"return_length": True}):
        with pytest.raises(ValueError, match=r"(?s)a text or word is .*, a \w+; expected"):
            tokenizer(["a", form(words)], **WORDS, **option)
    with pytest.raises(ValueError, match="a text or word is 1, a int"):
        tokenizer([form([1, 2])], **WORDS)


def test_tokens_are_shown_without_stand_ins(tokenizer):
    batch = tokenizer([["a", "", "\ud800b"]], **WORDS, padding="max_length", max_length=6)
    assert batch.tokens(0) == ["<S>", "a", "", "b", "</S>", "<PAD>"]
    assert tokenizer.tokenize("a \ud800b") == ["a", "b"]
    batch = tokenizer("\ud800b", padding="max_length", max_length=4)
    assert batch.tokens() == ["<S>", "b", "</S>", "<PAD>"]
    assert pickle.loads(pickle.dumps(batch)).tokens() == batch.tokens()
    assert batch.char_to_token(1) == 1


@pytest.mark.parametrize("given", [("a b", {}), (["a", "b"], WORDS)])
def test_a_limit_without_room_for_the_boundaries_is_refused(tokenizer, given):
    text, how = given
    for limit in (0, 1):
        with pytest.raises(ValueError, match=f"max_length is {limit}, but .* pass 3 or more"):
            tokenizer(text, truncation=True, max_length=limit, **how)
        bare = tokenizer(text, truncation=True, max_length=limit, add_special_tokens=False, **how)
        assert bare["input_ids"] == rows(["a"])[:limit]
    with pytest.raises(ValueError, match="the 4 boundaries alone"):
        tokenizer([text], [text], truncation=True, max_length=3, **how)
    one = tokenizer(("a", "b"), **WORDS, truncation=True, max_length=3)
    assert one["input_ids"] == rows(["<S>", "a", "</S>"])


@pytest.mark.parametrize("given", [("a b c d", {}), (["a", "b", "c", "d"], WORDS)])
def test_a_stride_without_room_for_new_words_is_refused(tokenizer, given):
    text, how = given
    parts = {"return_overflowing_tokens": True, "truncation": True, **how}
    assert len(tokenizer(text, max_length=4, stride=1, **parts)["input_ids"]) == 3
    complaint = "stride is 2, .* but with max_length=4 a part has no room for more words"
    with pytest.raises(ValueError, match=complaint):
        tokenizer(text, max_length=4, stride=2, **parts)
    with pytest.raises(ValueError, match="stride is 2, "):
        tokenizer(text, max_length=2, stride=2, **parts, add_special_tokens=False)
    parts["truncation"] = "only_second"  # the first text leaves room for two words of the second
    with pytest.raises(ValueError, match=r"stride is 2, .* max_length=10"):
        tokenizer(text, text, max_length=10, stride=2, **parts)


def test_lists_of_symbols_are_padded_as_by_other_tokenizers(tokenizer):
    padded = tokenizer.pad({"input_ids": [[5, 6, 7], [5]], "attention_mask": [[1, 1, 1], [1]]})
    assert padded["input_ids"] == [[5, 6, 7], [5, 0, 0]]
    assert padded["attention_mask"] == [[1, 1, 1], [1, 0, 0]]
    one = tokenizer.pad({"input_ids": [5, 6]}, padding="max_length", max_length=3)
    assert one["input_ids"] == [5, 6, 0]
    assert tokenizer.pad({"input_ids": []})["input_ids"] == []


# --- How a word stays one token of the Rust model ---


def test_words_stay_whole_by_the_penalty_for_unknown_characters():
    names = byte_symbols("<PAD>", "<S>", "</S>")
    word = "x<S><0x41></S>" * 20
    assert unigram(names, "<BOW>").encode([word], is_pretokenized=True).tokens == [word]
    for score, whole in ((21.0, True), (19.0, False)):  # 10 less for each unknown character
        model = models.Unigram([("ab", score), ("<unk>", score)], unk_id=1)
        tokens = Tokenizer(model).encode(["xaby"], is_pretokenized=True).tokens
        assert (tokens == ["xaby"]) == whole
    assert tokenization_characters.SCORE > 20
