"""Properties of the tokenizer for arbitrary words and texts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from elmo_hf.model.tokenization_elmo import ElmoTokenizer

TOKENIZER = ElmoTokenizer()
WORDS_ONLY = ElmoTokenizer(lm_vocab=["<S>", "</S>", "<UNK>", "a"], use_characters=False)
# Arbitrary code points, including lone surrogates, and strings that look like symbols.
CHARACTERS = st.characters(codec=None, categories=None)
WORD = st.one_of(
    st.text(CHARACTERS, max_size=60),
    st.sampled_from(["", "<S>", "</S>", "<PAD>", "<BOW>", "<0x41>", "a<S>b", " ", "\u3000", "\n"]),
)
SENTENCE = st.lists(WORD, max_size=8)
any_time = settings(deadline=None, max_examples=100)


def fitting(word):
    """The word, if its character ids hold all of it and nothing else."""
    return word if len(word.encode("utf-8", "ignore")) <= 48 else None


def is_utf8(word):
    return word == word.encode("utf-8", "ignore").decode()


@any_time
@given(SENTENCE)
def test_every_word_of_a_list_is_one_token_in_order(words):
    ids = TOKENIZER(words, is_split_into_words=True)["input_ids"]
    assert len(ids) == len(words) + 2
    assert ids[1:-1] == TOKENIZER.words_to_ids(words).tolist()
    plain = TOKENIZER(words, is_split_into_words=True, return_offsets_mapping=True)
    assert plain["input_ids"] == ids
    assert plain.word_ids() == [None, *range(len(words)), None]


@any_time
@given(st.lists(SENTENCE, min_size=1, max_size=5), st.sampled_from(["left", "right"]))
def test_a_sentence_gets_the_same_ids_in_any_batch_padded_on_any_side(batch, side):
    padded = TOKENIZER(
        batch, is_split_into_words=True, padding=True, padding_side=side, return_tensors="np"
    )
    for words, ids, mask in zip(batch, padded["input_ids"], padded["attention_mask"], strict=True):
        alone = TOKENIZER(words, is_split_into_words=True)["input_ids"]
        assert ids[mask == 1].tolist() == alone
        assert not ids[mask == 0].any()
        ends = np.flatnonzero(mask)[[0, -1]].tolist()
        full = len(mask)
        assert ends == ([0, len(alone) - 1] if side == "right" else [full - len(alone), full - 1])


@any_time
@given(SENTENCE)
def test_words_that_fit_decode_to_themselves(words):
    words = [word for word in words if is_utf8(word) and fitting(word) is not None]
    ids = TOKENIZER(words, is_split_into_words=True)["input_ids"]
    assert TOKENIZER.convert_ids_to_tokens(ids) == ["<S>", *words, "</S>"]


@any_time
@given(st.lists(st.text(CHARACTERS), min_size=1, max_size=3))
def test_any_text_tokenizes_and_its_words_are_where_the_offsets_say(texts):
    batch = TOKENIZER(texts, return_offsets_mapping=True)
    for i, text in enumerate(texts):
        spans = batch["offset_mapping"][i][1:-1]
        words = [text[start:end] for start, end in spans]
        assert batch["input_ids"][i][1:-1] == TOKENIZER.words_to_ids(words).tolist()
        left = "".join(text.split()), "".join("".join(words).split())
        assert left[0].encode("utf-8", "ignore") == left[1].encode("utf-8", "ignore")
    assert TOKENIZER(texts)["input_ids"] == batch["input_ids"]


@any_time
@given(SENTENCE)
def test_every_word_of_a_list_has_one_id_without_characters(words):
    ids = WORDS_ONLY(words, is_split_into_words=True)["input_ids"]
    known = {"<S>": 1, "</S>": 2, "<UNK>": 3, "a": 4}
    clean = [word.encode("utf-8", "ignore").decode() for word in words]
    assert ids == [1, *(known.get(word, 3) for word in clean), 2]
