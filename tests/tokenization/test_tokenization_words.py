"""Tests of vocabulary ids, of character tables, and of decoding."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.spelled import CHARACTERS, TEXTS, VOCABULARY, rows

from elmo_hf.model.tokenization_elmo import ElmoTokenizer
from elmo_hf.model.tokenization_vocabulary import LmVocabulary

# --- Word ids and labels ---


def test_labels_are_the_vocabulary_ids_of_the_words_themselves(with_vocabulary):
    for side, expected in (
        ("right", [[0, 6, 2, 1], [0, 4, 1, -100]]),
        ("left", [[0, 6, 2, 1], [-100, 0, 4, 1]]),
    ):
        batch = with_vocabulary(
            [["the", "dog"], ["cat"]],
            is_split_into_words=True,
            padding=True,
            padding_side=side,
            return_tensors="pt",
            return_lm_labels=True,
        )
        assert batch["labels"].tolist() == expected
    assert "labels" not in with_vocabulary("the")
    single = with_vocabulary("the \u3000x", return_lm_labels=True, return_offsets_mapping=True)
    assert single["labels"] == [0, 6, 2, 1]
    for option in ({}, {"return_length": True}):
        padded = with_vocabulary(
            [["<PAD>"]],
            is_split_into_words=True,
            padding="max_length",
            max_length=4,
            return_lm_labels=True,
            **option,
        )
        assert padded["labels"] == [[0, 7, 1, -100]]  # a word that looks like padding is none


def test_word_ids_are_added_to_the_characters():
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY, use_word_ids=True)
    batch = tokenizer(["the zebra", "cat"], padding=True, return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask", "word_input_ids"]
    assert batch["input_ids"].shape == (2, 4, 50)
    assert batch["word_input_ids"].tolist() == [[1, 7, 3, 2], [1, 5, 2, 0]]


def test_a_model_that_reads_words_gets_word_ids_alone(tmp_path):
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY, use_characters=False)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    batch = tokenizer(
        ["the zebra", "cat"], padding=True, return_tensors="pt", return_lm_labels=True
    )
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert batch["input_ids"].tolist() == [[1, 7, 3, 2], [1, 5, 2, 0]]
    assert batch["labels"].tolist() == [[0, 6, 2, 1], [0, 4, 1, -100]]
    assert tokenizer.decode(batch["input_ids"]) == ["<S> the <UNK> </S>", "<S> cat </S> <PAD>"]
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "the <UNK>"
    assert tokenizer.convert_ids_to_tokens([7, 0, 99]) == ["the", "<PAD>", None]
    assert tokenizer.convert_tokens_to_ids(["the", "zebra", "<S>", "<PAD>"]) == [7, 3, 1, 0]
    tokenizer.save_pretrained(tmp_path)
    assert ElmoTokenizer.from_pretrained(tmp_path)("the")["input_ids"] == [1, 7, 2]
    late = ElmoTokenizer(
        lm_vocab=["a", "b", "c", "</s>", "<s>", "<oov>"],
        use_characters=False,
        bos_token="<s>",
        eos_token="</s>",
        word_unk_token="<oov>",
    )
    ids = late(["a", "d", "<s>"], is_split_into_words=True)["input_ids"]
    assert ids == [5, 1, 6, 5, 4]
    assert (late.bos_token_id, late.eos_token_id) == (5, 4)


def test_the_vocabulary_is_read_line_by_line_with_nothing_stripped(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes("<S>\n</S>\n<UNK>\n\u3000\n a \n\u0085\nlast".encode())
    tokenizer = ElmoTokenizer(lm_vocab_file=str(file))
    assert tokenizer.lm_vocab == ["<S>", "</S>", "<UNK>", "\u3000", " a ", "\u0085", "last"]
    assert tokenizer.lm_vocab_size == 7
    words = ["\u3000", " a ", "\u0085", "last", "a"]
    batch = tokenizer(words, is_split_into_words=True, return_lm_labels=True)
    assert batch["labels"] == [0, 3, 4, 5, 6, 2, 1]
    (saved,) = tokenizer.save_vocabulary(str(tmp_path))
    assert Path(saved).name == "vocab.txt"
    assert Path(saved).read_bytes() == file.read_bytes() + b"\n"
    assert ElmoTokenizer().lm_vocab is None and ElmoTokenizer().save_vocabulary(str(tmp_path)) == ()


def test_a_vocabulary_finds_words_with_colliding_hashes():
    vocabulary = LmVocabulary.from_words(["a", "b", "c", "b"])
    assert vocabulary.ids(["b", "a", "d", "c", ""]).tolist() == [3, 0, -1, 2, -1]
    vocabulary._hashes = np.zeros(4, np.int64)
    found = [vocabulary._find(word, 0, 3) for word in ("a", "c", "d")]
    assert found == [0, 2, -1]
    assert copy.deepcopy(vocabulary) is vocabulary
    assert pickle.loads(pickle.dumps(vocabulary)).words() == ["a", "b", "c", "b"]


# --- Unicode characters ---


def test_unicode_characters_are_encoded_as_in_elmoformanylangs(tmp_path):
    tokenizer = ElmoTokenizer.from_characters(
        CHARACTERS,
        max_characters_per_token=5,
        lm_vocab=["<S>", "</S>", "<UNK>", "今天a", "ab"],
        use_word_ids=True,
    )
    assert len(tokenizer) == 12
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 4, 5)
    words = ["ab", "今天ab", "\u3000", "", "\ud800"]
    for option in ({}, {"return_length": True}):
        batch = tokenizer(words, is_split_into_words=True, **option)
        assert batch["input_ids"] == [
            [11, 4, 8, 7, 7],
            [11, 1, 2, 8, 7],
            [11, 3, 6, 1, 8],
            [11, 9, 8, 7, 7],
            [11, 8, 7, 7, 7],
            [11, 8, 7, 7, 7],
            [11, 5, 8, 7, 7],
        ]
        # The cut word is looked up in the vocabulary.
        assert batch["word_input_ids"] == [1, 5, 4, 3, 3, 3, 2]
    assert tokenizer.decode(tokenizer("ab 今天")["input_ids"]) == "<S> ab 今\ufffd </S>"
    tokenizer.save_pretrained(tmp_path)
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.get_vocab()["<U+4ECA>"] == 3
    assert dict(loaded(TEXTS)) == dict(tokenizer(TEXTS))


def test_boundaries_of_a_character_table_can_have_other_names():
    characters = {key: i for key, i in CHARACTERS.items() if key not in ("<S>", "</S>")}
    tokenizer = ElmoTokenizer.from_characters(
        characters | {"<bos>": 4, "<eos>": 5}, bos_token="<bos>", eos_token="<eos>"
    )
    assert [ids[:4] for ids in tokenizer(["<bos>"], is_split_into_words=True)["input_ids"]] == [
        [11, 4, 8, 7],
        [11, 4, 8, 7],
        [11, 5, 8, 7],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"<OOV>": None}, r"lacks the markers \['<OOV>'\]"),
        ({"<eow>": 20}, "expected single characters"),
        ({"a": 0}, "expected distinct ids from 1"),
        ({"a": 2}, "are repeated"),
    ],
)
def test_an_invalid_character_table_is_refused(change, message):
    characters = {k: v for k, v in {**CHARACTERS, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        ElmoTokenizer.from_characters(characters)


# --- Back to words ---


def test_character_ids_decode_to_their_words(tokenizer):
    words = ["naïve", "😀", "<0x41>", "\x00", "x" * 48]
    batch = tokenizer([words, ["a"]], is_split_into_words=True, padding=True, return_tensors="pt")
    shown = [" ".join(words), "a"]
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == shown
    assert tokenizer.decode(batch["input_ids"][1]) == "<S> a </S>" + " <PAD>" * 4
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[1:-1] == words
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist(), True) == words
    assert tokenizer.decode(tokenizer("é" * 30)["input_ids"][1:-1]) == "é" * 24
    assert (
        tokenizer.decode(tokenizer("x" + "é" * 30)["input_ids"][1:-1]) == "x" + "é" * 23 + "\ufffd"
    )
    assert tokenizer.decode(batch) == tokenizer.decode(batch["input_ids"])
    assert tokenizer.encode("a") == rows(["<S>", "a", "</S>"])
    assert tokenizer.decode([]) == "" and tokenizer.decode(257) == "<S>"
    assert tokenizer.convert_ids_to_tokens([0, 98, 258]) == ["<PAD>", "<0x61>", "</S>"]


def test_decoding_can_remove_added_spaces(tokenizer):
    ids = tokenizer("I don't.")["input_ids"]
    assert tokenizer.decode(ids, True, clean_up_tokenization_spaces=True) == "I don't."


def test_special_tokens_are_recognized_by_their_ids(tokenizer):
    ids = tokenizer(["<PAD>", "a"], is_split_into_words=True)["input_ids"] + [[0] * 50]
    assert tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) == [
        1,
        0,
        0,
        1,
        1,
    ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<PAD> a"
