"""The tokenizer: rows of character ids, and everything else as any other tokenizer does it."""

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    default_data_collator,
)
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from elmo_hf.layout_elmo import LateEncodings
from elmo_hf.spelling_elmo import byte_symbols
from elmo_hf.tokenization_elmo import ElmoTokenizer
from elmo_hf.vocabulary_elmo import LmVocabulary, WordTable

GOLD = Path(__file__).parent / "gold"
TEXTS = ["The cat didn't sit, Dr. Smith.", "Hi", "", "naïve  日本 😀\tx<S>y <S> <PAD> end"]
LISTS = [["The", "New York", " "], [], ["a<S>b", "<S>", "<PAD>", "", "\ud800bad"], ["x"] * 9]
VOCABULARY = ["<S>", "</S>", "<UNK>", "the", "cat", "\u3000", "the", "<PAD>"]
# ELMoForManyLangs: original ids + 1, its <eow> begins a word.
CHARACTERS = {"a": 1, "b": 2, "今": 3, "\u3000": 9}
CHARACTERS |= {"<S>": 4, "</S>": 5, "<OOV>": 6, "<PADC>": 7, "<EOW>": 8, "<BOW>": 11}


@pytest.fixture
def tokenizer():
    return ElmoTokenizer()


@pytest.fixture
def with_vocabulary():
    return ElmoTokenizer(lm_vocab=VOCABULARY)


def row(word, width=50):
    """What numerics 2.1 says, word by word."""
    boundary = {"<S>": [257], "</S>": [258]}.get(word)
    letters = boundary or [byte + 1 for byte in word.encode("utf-8", "ignore")[: width - 2]]
    return ([259, *letters, 260] + [261] * width)[:width]


def rows(words, width=50):
    return [row(word, width) for word in words]


# --- Rows ---


def test_awkward_words_get_the_character_ids_of_allennlp(tokenizer):
    words = json.loads((GOLD / "char_words.json").read_text(encoding="utf-8"))
    expected = np.load(GOLD / "char_ids.npz")["ids"]
    batch = tokenizer(words, is_split_into_words=True, return_tensors="np")
    assert batch["input_ids"].dtype == np.int64
    assert np.array_equal(batch["input_ids"][0, 1:-1], expected)
    assert np.array_equal(tokenizer.words_to_ids(words), expected)
    plain = tokenizer(words, is_split_into_words=True, return_length=True)
    assert np.array_equal(plain["input_ids"][1:-1], expected)


def test_short_rows_cut_words_as_bilm_tf_does():
    tokenizer = ElmoTokenizer(max_characters_per_token=5)
    ids = tokenizer.words_to_ids(["th", "thhhhh", "\u0100t", "Se"])
    assert ids[0].tolist() == [259, 117, 105, 260, 261]
    assert ids[1].tolist() == [259, 117, 105, 105, 260]
    assert ids[2].tolist() == [259, 197, 129, 117, 260]


def test_boundaries_stand_around_every_sentence_and_padding_is_zero(tokenizer):
    batch = tokenizer(["a b", "c"], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 4, 50)
    assert batch["input_ids"].dtype == torch.int64
    assert batch["input_ids"].tolist() == [
        rows(["<S>", "a", "b", "</S>"]),
        [*rows(["<S>", "c", "</S>"]), [0] * 50],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_ids_and_length_agree_with_the_configuration(tokenizer):
    assert (len(tokenizer), tokenizer.vocab_size) == (262, 262)
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (0, 257, 258)
    assert tokenizer.is_fast and tokenizer.all_special_ids == [257, 258, 0]
    assert tokenizer.unk_token is None  # every word can be spelled
    assert list(tokenizer(TEXTS[0])) == ["input_ids", "attention_mask"]


def test_every_given_word_stays_one_word_whatever_the_word_splitter(tokenizer):
    words = [
        "Don't",
        "New York",
        "a\u00a0b",
        " ",
        "\t",
        "",
        "",
        "x<PAD>y",
        "q<0x41>z",
        "<0x41>",
        "日",
    ]
    for splitter in ("treebank", "whitespace"):
        tokenizer.word_splitter = splitter
        for option in ({}, {"return_offsets_mapping": True}, {"split_special_tokens": False}):
            batch = tokenizer(words, is_split_into_words=True, **option)
            assert batch["input_ids"] == rows(["<S>", *words, "</S>"])
            assert batch.word_ids() == [None, *range(len(words)), None]


def test_raw_text_is_split_as_the_training_text_was(tokenizer):
    assert tokenizer.tokenize("I don't know.") == ["I", "do", "n't", "know", "."]
    whitespace = ElmoTokenizer(word_splitter="whitespace")
    assert whitespace.tokenize(" I  don't\tknow.") == ["I", "don't", "know."]
    assert whitespace("don't")["input_ids"][1] == row("don't")


def test_texts_with_lone_surrogates_tokenize_and_keep_their_offsets(tokenizer):
    text = "ab \ud800bad \udfff end"
    batch = tokenizer(text, return_offsets_mapping=True)
    assert batch["offset_mapping"][1:-1] == [(0, 2), (3, 7), (8, 9), (10, 13)]
    assert batch["input_ids"] == rows(["<S>", "ab", "bad", "", "end", "</S>"])
    assert tokenizer(text)["input_ids"] == batch["input_ids"]
    linear_a = "".join(map(chr, range(0x10600, 0x10610)))
    assert tokenizer(f"{linear_a} \ud800")["input_ids"] == rows(["<S>", linear_a, "", "</S>"])


def test_a_long_word_takes_linear_time_and_is_cut(tokenizer):
    batch = tokenizer("x" * 200_000 + " y")
    assert batch["input_ids"] == rows(["<S>", "x" * 48, "y", "</S>"])


# --- The same as the base class, in every way ---


class Plain(TokenizersBackend):
    """The base class on the same Rust tokenizer: right in everything but `input_ids`."""

    def __init__(self, ours, whole):
        super().__init__(tokenizer_object=ours.backend_tokenizer, split_special_tokens=True)
        self.pad_token, self.bos_token, self.eos_token = "<PAD>", "<S>", "</S>"
        if whole:
            self._tokenizer.pre_tokenizer = None


def expected_ids(batch, encodings, single):
    """Rows from the words that the base class's encodings show."""
    ids = [
        [row(w) if m else [0] * 50 for w, m in zip(e.tokens, e.attention_mask, strict=True)]
        for e in encodings
    ]
    return ids[0] if single else ids


def as_lists(value):
    return value.tolist() if hasattr(value, "tolist") else value


def assert_same(ours, base, single):
    assert list(ours) == list(base)
    for key in base:
        if key != "input_ids":
            assert as_lists(ours[key]) == as_lists(base[key]), key
            assert type(ours[key]) is type(base[key]), key
            assert getattr(ours[key], "dtype", None) == getattr(base[key], "dtype", None), key
    assert type(ours["input_ids"]) is type(base["input_ids"])
    assert as_lists(ours["input_ids"]) == expected_ids(base, base.encodings, single)
    assert ours.n_sequences == base.n_sequences
    assert len(ours.encodings) == len(base.encodings)
    for mine, other in zip(ours.encodings, base.encodings, strict=True):
        for name in ("tokens", "word_ids", "sequence_ids", "offsets", "type_ids"):
            assert getattr(mine, name) == getattr(other, name), name
        assert mine.attention_mask == other.attention_mask
        assert mine.special_tokens_mask == other.special_tokens_mask
        assert [o.tokens for o in mine.overflowing] == [o.tokens for o in other.overflowing]


PADDINGS = [
    {},
    {"padding": True},
    {"padding": True, "padding_side": "left"},
    {"padding": "max_length", "max_length": 12, "truncation": True},
    {"padding": True, "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 7, "pad_to_multiple_of": 8, "padding_side": "left"},
    {"truncation": True, "max_length": 4},
    {"truncation": "only_first", "max_length": 5, "padding": True},
    {"truncation": True, "max_length": 2},
]
KEYS = [
    {},
    {"return_special_tokens_mask": True},
    {"add_special_tokens": False},
    {"return_attention_mask": False},
    {"return_token_type_ids": True, "return_length": True, "return_offsets_mapping": True},
    {"return_overflowing_tokens": True, "stride": 1},
]
INPUTS = {
    "text": (TEXTS[0], {}),
    "no text": ("", {}),
    "texts": (TEXTS, {}),
    "text and pair": (TEXTS[0], {"text_pair": TEXTS[1]}),
    "texts and pairs": (TEXTS, {"text_pair": TEXTS[::-1]}),
    "tuples": (list(itertools.pairwise(TEXTS)), {}),
    "words": (["The", "New York", "ends"], {"is_split_into_words": True}),
    "no words": ([], {"is_split_into_words": True}),
    "lists of words": ([["The", "New York"], [], ["x"] * 9], {"is_split_into_words": True}),
    "lists and pairs": (
        [["The", "New York"], ["y"]],
        {"text_pair": [["b"] * 6, ["c"]], "is_split_into_words": True},
    ),
}


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_all_options_give_what_the_base_class_gives(given, side):
    text, how = INPUTS[given]
    ours = ElmoTokenizer(truncation_side=side)
    base = Plain(ours, whole="is_split_into_words" in how)
    base.truncation_side = side
    single = isinstance(text, str) or given in ("words", "no words")
    for padding, keys, kind in itertools.product(PADDINGS, KEYS, [None, "np", "pt"]):
        options = {**how, **padding, **keys}
        if "stride" in keys and "max_length" not in padding:
            continue
        paired = "pair" in given or given == "tuples"
        if paired and options.get("truncation") == "only_first":
            continue  # cannot always be met
        if options.get("max_length") == 2 and (paired or "stride" in keys):
            continue  # less room than the boundaries take
        try:
            expected = base(text, return_tensors=kind, **options)
        except ValueError as error:
            with pytest.raises(ValueError, match="Unable to create tensor"):
                ours(text, return_tensors=kind, **options)
            assert "Unable to create tensor" in str(error)
            continue
        found = ours(text, return_tensors=kind, **options)
        if kind == "np" and isinstance(as_lists(expected["input_ids"])[0], np.ndarray):
            continue  # ragged, in an array of objects
        squeezed = single and kind is None and "stride" not in keys
        assert_same(found, expected, squeezed)


def test_a_normalizer_set_by_the_user_counts_for_given_words(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    for text, how in ((["The", "CAT"], {"is_split_into_words": True}), ("The CAT", {})):
        assert tokenizer(text, **how)["input_ids"] == rows(["<S>", "the", "cat", "</S>"])


def test_a_normalizer_that_adds_to_words_does_not_confuse_the_boundaries(tokenizer, tmp_path):
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("+")
    tokenizer.save_pretrained(tmp_path)
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert (loaded.add_bos_token, loaded.add_eos_token) == (True, True)
    ids = loaded(["a"], is_split_into_words=True)["input_ids"]
    assert ids == rows(["<S>", "+a", "</S>"])


def test_encodings_of_given_words_are_made_when_asked_for(tokenizer):
    words = [["a", ""], ["b"]]
    batch = tokenizer(words, is_split_into_words=True, padding=True, padding_side="left")
    words[0][0] = "changed"
    tokenizer.padding_side = "right"
    assert isinstance(batch.encodings, LateEncodings)
    assert batch.word_ids(1) == [None, None, 0, None]
    assert batch.tokens(0)[1] == "a"
    assert [e.tokens for e in pickle.loads(pickle.dumps(batch)).encodings][1][2] == "b"


def test_pairs_get_boundaries_around_both(tokenizer):
    batch = tokenizer("a b", "c", return_token_type_ids=True)
    assert batch["input_ids"] == rows(["<S>", "a", "b", "</S>", "<S>", "c", "</S>"])
    assert batch["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert batch.sequence_ids() == [None, 0, 0, None, None, 1, None]


def test_long_texts_come_in_overlapping_pieces(tokenizer):
    batch = tokenizer(
        "a b c d e", truncation=True, max_length=5, stride=1, return_overflowing_tokens=True
    )
    assert batch["input_ids"] == [rows(["<S>", *w, "</S>"]) for w in ("abc", "cde")]
    assert batch["overflow_to_sample_mapping"] == [0, 0]


def test_a_text_longer_than_the_model_allows_is_warned_about_once(tokenizer, caplog):
    tokenizer.model_max_length = 4
    for _ in range(2):
        tokenizer(["a", "b", "c"], is_split_into_words=True)
    assert caplog.text.count("longer than the specified maximum") <= 1
    assert tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"]


def test_boundaries_can_be_switched_off_for_good_and_stay_off(tokenizer, tmp_path):
    bare = ElmoTokenizer(add_bos_token=False)
    assert bare("a")["input_ids"] == rows(["a", "</S>"])
    bare.save_pretrained(tmp_path)
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert loaded(["a"], is_split_into_words=True)["input_ids"] == rows(["a", "</S>"])
    assert (loaded.add_bos_token, loaded.add_eos_token) == (False, True)
    tokenizer.add_eos_token = False
    assert tokenizer("a")["input_ids"] == rows(["<S>", "a"])
    assert ElmoTokenizer(bos_token=None)("a")["input_ids"] == rows(["a", "</S>"])


# --- Padding and collators ---


def test_one_example_and_batches_are_padded_from_lists_arrays_and_tensors(tokenizer):
    texts = ["a b c", "d"]
    expected = tokenizer(texts, padding=True, return_tensors="np")
    examples = [tokenizer(text) for text in texts]
    forms = {
        "lists": examples,
        "columns": {key: [e[key] for e in examples] for key in examples[0]},
        "arrays": [{k: np.array(v) for k, v in e.items()} for e in examples],
        "tensors": [{k: torch.tensor(v) for k, v in e.items()} for e in examples],
    }
    for name, form in forms.items():
        for kind in (None, "np", "pt"):
            padded = tokenizer.pad(form, return_tensors=kind)
            assert np.array_equal(padded["input_ids"], expected["input_ids"]), name
            assert np.array_equal(padded["attention_mask"], expected["attention_mask"]), name
            made = kind or {"arrays": "np", "tensors": "pt"}.get(name)
            types = {None: list, "np": np.ndarray, "pt": torch.Tensor}
            assert isinstance(padded["input_ids"], types[made]), (name, kind)
    left = tokenizer.pad(examples[1], padding="max_length", max_length=5, padding_side="left")
    assert left["input_ids"] == [[0] * 50, [0] * 50, *rows(["<S>", "d", "</S>"])]
    assert left["attention_mask"] == [0, 0, 1, 1, 1]
    one = tokenizer.pad(examples[1], return_tensors="pt")
    assert one["input_ids"].shape == (3, 50)
    assert tokenizer.pad({"input_ids": examples[0]["input_ids"]})["attention_mask"] == [1] * 5


def test_padding_of_nothing_that_fits_says_so(tokenizer):
    with pytest.raises(ValueError, match="input_ids"):
        tokenizer.pad([{"x": [1]}])
    with pytest.raises(ValueError, match="Unable to create tensor"):
        tokenizer.pad([tokenizer("a"), tokenizer("a b")], padding=False, return_tensors="pt")


def test_data_collators_pad_rows_and_labels(with_vocabulary):
    features = [dict(with_vocabulary(text)) for text in ("the cat", "cat")]
    padded = DataCollatorWithPadding(with_vocabulary)(features)
    assert padded["input_ids"].shape == (2, 4, 50)
    for feature in features:
        feature["labels"] = [7] * len(feature["input_ids"])
    batch = DataCollatorForTokenClassification(with_vocabulary)(features)
    assert batch["labels"].tolist() == [[7] * 4, [7, 7, 7, -100]]
    lm = [dict(with_vocabulary(text, return_lm_labels=True)) for text in ("the cat", "cat")]
    batch = DataCollatorWithPadding(with_vocabulary, pad_to_multiple_of=5)(lm)
    assert batch["labels"].tolist() == [[0, 6, 4, 1, -100], [0, 4, 1, -100, -100]]
    assert default_data_collator(features[:1])["input_ids"].shape == (1, 4, 50)


def test_word_ids_are_padded_by_collators():
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY, use_word_ids=True)
    features = [dict(tokenizer(text)) for text in ("the cat", "cat")]
    batch = DataCollatorWithPadding(tokenizer)(features)
    assert batch["word_input_ids"].tolist() == [[1, 7, 5, 2], [1, 5, 2, 0]]
    words_only = ElmoTokenizer(lm_vocab=VOCABULARY, use_characters=False)
    batch = DataCollatorWithPadding(words_only)([dict(words_only(t)) for t in ("the cat", "cat")])
    assert batch["input_ids"].tolist() == [[1, 7, 5, 2], [1, 5, 2, 0]]
    assert words_only.pad(words_only("cat"), return_tensors="pt")["input_ids"].tolist() == [1, 5, 2]


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


def test_word_ids_stand_beside_the_characters():
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


def test_a_vocabulary_finds_its_words_also_where_hashes_meet():
    vocabulary = LmVocabulary.from_words(["a", "b", "c", "b"])
    assert vocabulary.ids(["b", "a", "d", "c", ""]).tolist() == [3, 0, -1, 2, -1]
    vocabulary._hashes = np.zeros(4, np.int64)
    found = [vocabulary._find(word, 0, 3) for word in ("a", "c", "d")]
    assert found == [0, 2, -1]
    assert copy.deepcopy(vocabulary) is vocabulary
    assert pickle.loads(pickle.dumps(vocabulary)).words() == ["a", "b", "c", "b"]


# --- Unicode characters ---


def test_unicode_characters_are_spelled_as_in_elmoformanylangs(tmp_path):
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
        # The vocabulary is asked for the word as it was cut.
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
        ({"<eow>": 20}, "neither one character"),
        ({"a": 0}, "add 1 to each"),
        ({"a": 2}, "given twice"),
    ],
)
def test_a_character_table_that_cannot_be_meant_is_refused(change, message):
    characters = {k: v for k, v in {**CHARACTERS, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        ElmoTokenizer.from_characters(characters)


# --- Back to words ---


def test_rows_decode_to_the_words_they_were(tokenizer):
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
    assert tokenizer.convert_tokens_to_ids("</S>") == 258


def test_decoding_can_take_spaces_away_where_transformers_can(tokenizer):
    if not hasattr(tokenizer, "clean_up_tokenization"):
        pytest.skip("this transformers has no clean_up_tokenization")
    ids = tokenizer("I don't.")["input_ids"]
    assert tokenizer.decode(ids, True, clean_up_tokenization_spaces=True) == "I don't."


def test_special_rows_are_known_by_their_ids(tokenizer):
    ids = tokenizer(["<PAD>", "a"], is_split_into_words=True)["input_ids"] + [[0] * 50]
    assert tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) == [
        1,
        0,
        0,
        1,
        1,
    ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<PAD> a"


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


def test_arguments_named_at_loading_win(tmp_path):
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
    with pytest.raises(ValueError, match="symbol ids"):
        ElmoTokenizer(tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="the")


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
    tokenizer = ElmoTokenizer(lm_vocab=VOCABULARY)
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


def test_the_table_of_words_stays_bounded_and_right():
    tokenizer = ElmoTokenizer()
    tokenizer._words.limit = 5
    for start in range(0, 60, 7):
        words = [f"word{i}" for i in range(start, start + 12)]
        assert tokenizer.words_to_ids(words).tolist() == rows(words)
        assert len(tokenizer._words._numbering) <= 5 + 12


def test_a_failure_while_spelling_leaves_no_wrong_rows(monkeypatch):
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
        ([["a", "b", "c"], ["d"]], {}, "lists of words need is_split_into_words=True"),
        ([["a", "b"], ["c", "d"]], {}, "lists of words need is_split_into_words=True"),
        (["a", None], {}, "found None, a NoneType"),
        ([["a", 3]], {"is_split_into_words": True}, "found 3, a int"),
        ([["a", None]], {"is_split_into_words": True, "return_length": True}, "found None"),
        ([None, "a"], {"is_split_into_words": True}, "found None"),
        ([["a"], "b"], {"is_split_into_words": True}, "some entries are lists of words"),
        (7, {}, "text is 7, a int"),
        (None, {"is_split_into_words": True}, "specify either|text is None"),
        ([], {}, "empty batch"),
        ("a", {"return_lm_labels": True}, "needs a vocabulary"),
        (["a"], {"text_pair": ["a", "b"]}, "does not match"),
        ("a", {"sanitize_control_tokens": True}, "no control tokens"),
    ],
)
def test_input_that_cannot_be_meant_gets_one_clear_error(tokenizer, text, how, message):
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
