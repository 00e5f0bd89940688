"""Tests of the tokenizer: character ids, and all options of other tokenizers."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.spelled import TEXTS, VOCABULARY, row, rows
from tokenizers import normalizers
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    default_data_collator,
)
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from elmo_hf.model.tokenization_backend import LateEncodings
from elmo_hf.model.tokenization_elmo import ElmoTokenizer

GOLD = Path(__file__).parents[1] / "gold"


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


def test_every_sentence_has_boundaries_and_padding_is_zero(tokenizer):
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
    assert tokenizer.unk_token is None  # every word can be encoded
    assert list(tokenizer(TEXTS[0])) == ["input_ids", "attention_mask"]


def test_words_of_a_list_stay_whole_with_any_word_splitter(tokenizer):
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
    """The base class with the same Rust tokenizer: all outputs are right except `input_ids`."""

    def __init__(self, ours, whole):
        super().__init__(tokenizer_object=ours.backend_tokenizer, split_special_tokens=True)
        self.pad_token, self.bos_token, self.eos_token = "<PAD>", "<S>", "</S>"
        if whole:
            self._tokenizer.pre_tokenizer = None


def expected_ids(batch, encodings, single):
    """Character ids of the words in the base class's encodings."""
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
def test_all_options_equal_the_base_class(given, side):
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


def test_a_normalizer_set_by_the_user_applies_to_word_lists(tokenizer):
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


def test_encodings_of_word_lists_are_made_when_first_read(tokenizer):
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


def test_padding_invalid_input_raises_a_clear_error(tokenizer):
    with pytest.raises(ValueError, match="input_ids"):
        tokenizer.pad([{"x": [1]}])
    with pytest.raises(ValueError, match="Unable to create tensor"):
        tokenizer.pad([tokenizer("a"), tokenizer("a b")], padding=False, return_tensors="pt")


def test_labels_of_a_whole_sentence_are_not_padded(tokenizer):
    for labels in ([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], [[1, 0, 1], [0, 0, 1]]):
        rows = [
            {**tokenizer(text), "labels": one}
            for text, one in zip(("one", "two words here"), labels, strict=True)
        ]
        batch = DataCollatorWithPadding(tokenizer)(rows)
        assert batch["labels"].tolist() == labels


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
