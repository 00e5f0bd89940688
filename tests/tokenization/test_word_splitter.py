"""Tests of the word splitters: contractions, punctuation, alphabets, and a treebank."""

import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from elmo_hf.model.tokenization_splitter import word_splitter

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from word_boundaries import agreement, read_sentences

EWT_TEST = Path(__file__).resolve().parents[3] / "shared/data/ud_en_ewt/en_ewt-ud-test.conllu.xz"
TREEBANK = word_splitter("treebank")
BILLION_WORDS = word_splitter("billion-words")
WHITESPACE = word_splitter("whitespace")
SPLITTERS = (TREEBANK, BILLION_WORDS, WHITESPACE)
# Unicode's White_Space; str.isspace() counts four control characters too.
SPACES = {chr(code) for code in range(0x3001) if chr(code).isspace()} - set("\x1c\x1d\x1e\x1f")


def words(text: str, splitter: pre_tokenizers.PreTokenizer = TREEBANK) -> str:
    return " ".join(word for word, _ in splitter.pre_tokenize_str(text))


def assert_splits(table: dict[str, str], splitter: pre_tokenizers.PreTokenizer = TREEBANK) -> None:
    assert {text: words(text, splitter) for text in table} == table


def test_contractions_come_apart():
    assert_splits(
        {
            "I don't": "I do n't",
            "CAN'T won’t": "CA N'T wo n’t",
            "she's he'd I'm we've they'll you're": "she 's he 'd I 'm we 've they 'll you 're",
            "I'd've": "I 'd 've",
            "it’s “that’s”": "it ’s “ that ’s ”",
            "cannot Cannot": "can not Can not",
            "gonna wanna gotta lemme gimme": "gon na wan na got ta lem me gim me",
            "didnt couldnt": "did nt could nt",
            "I'ma": "I 'm a",
        }
    )


def test_words_that_look_like_contractions_stay_whole():
    assert_splits(
        {
            "its ill well were shed": "its ill well were shed",
            "L'homme dont je parle": "L'homme dont je parle",
            "Shi'ite O'Connell ma'am o'clock": "Shi'ite O'Connell ma'am o'clock",
            "went government nation name": "went government nation name",
        }
    )


def test_possessives_come_apart():
    assert_splits(
        {
            "Bush's U.S.'s": "Bush 's U.S. 's",
            "the dogs' tails": "the dogs ' tails",
            "Kerry’s.": "Kerry ’s .",
            "the 1590's": "the 1590's",
        }
    )


def test_split_text_stays_as_it_is():
    text = "I ca n't say it 's the dogs ' , he 'll `` know '' -- U.S. Mr. Smith did ..."
    assert words(text) == text


def test_quotes_and_brackets_come_apart():
    assert_splits(
        {
            '"Yes," (she) said.': '" Yes , " ( she ) said .',
            "'normal' ‘and’ «so» „on“": "' normal ' ‘ and ’ « so » „ on “",
            "''We'' ``are``": "'' We '' `` are ``",
            "[a] {b} <c>": "[ a ] { b } < c >",
            "account(s)": "account ( s )",
            "in the '90s and '02, 'em": "in the '90s and '02 , 'em",
        }
    )


def test_abbreviations_keep_their_period():
    assert_splits(
        {
            "Mr. Smith of U.S. Inc. and": "Mr. Smith of U.S. Inc. and",
            "at 5 p.m. or e.g. now": "at 5 p.m. or e.g. now",
            "J. R. R. Tolkien, Ph.D., St. Mary's": "J. R. R. Tolkien , Ph.D. , St. Mary 's",
            "No. 5 said no. Well": "No. 5 said no . Well",
            "Jan. 5 vs. Dec. 6": "Jan. 5 vs. Dec. 6",
            "etc...": "etc ...",
        }
    )


def test_the_last_period_of_a_text_is_a_word():
    assert_splits(
        {
            "The end.": "The end .",
            'He left at 5 p.m." ': 'He left at 5 p.m . "',
            "In the U.S.": "In the U.S .",
            "cats, dogs, etc.": "cats , dogs , etc .",
            "One. Two.": "One . Two .",
            "J.": "J .",
        }
    )


def test_numbers_stay_whole_and_units_come_apart():
    assert_splits(
        {
            "$1,000.50 US$5": "$ 1,000.50 US$ 5",
            "€10 50% .5": "€ 10 50 % .5",
            "5:30pm 10km 20minutes": "5:30 pm 10 km 20 minutes",
            "3rd 1980s 21st 330i": "3rd 1980s 21st 330i",
            "9/11/2001 11-20-2000 2001-09-11 5/18": "9/11/2001 11-20-2000 2001-09-11 5/18",
            "1/2 5-10": "1 / 2 5 - 10",
            "713-853-3989 +44": "713-853-3989 +44",
            "192.168.0.1 v2.0.1": "192.168.0.1 v2.0.1",
            "#1": "# 1",
        }
    )


def test_addresses_stay_whole():
    assert_splits(
        {
            "(http://a.org/b_(c)?d=1).": "( http://a.org/b_(c)?d=1 ) .",
            "See www.x.com, or x.co.uk/y.": "See www.x.com , or x.co.uk/y .",
            "<joe.doe@mail.example.org>": "< joe.doe@mail.example.org >",
            "mailto:a@b.com": "mailto:a@b.com",
            "report-2.final.DOC": "report-2.final.DOC",
            "comp.sources.unix": "comp.sources.unix",
            "@user #tag": "@user #tag",
            "good.Then bad": "good . Then bad",
        }
    )


def test_hyphens_and_slashes_come_apart_but_prefixes_stay():
    assert_splits(
        {
            "long-term state-of-the-art": "long - term state - of - the - art",
            "non-profit e-mail anti-war": "non-profit e-mail anti-war",
            "and/or w/o": "and / or w/o",
            "yes--no yes—no 3–4": "yes -- no yes — no 3 – 4",
            "AT&T R&D this&that": "AT&T R&D this & that",
        }
    )


def test_repeated_signs_and_emoticons_are_one_word():
    assert_splits(
        {
            "well...then.. no!!! what?!": "well ... then .. no !!! what ?!",
            ":-) ;) :( :D <3 ^_^": ":-) ;) :( :D <3 ^_^",
            "thanks:)": "thanks :)",
            "------- *** ====": "------- *** ====",
            "a->b <<c>>": "a -> b << c >>",
            "_so_ snake_case": "_ so _ snake_case",
        }
    )


def test_words_of_other_alphabets_and_emoji_stay_whole():
    assert_splits(
        {
            "नमस्ते दुनिया।": "नमस्ते दुनिया ।",
            "می‌خواهم، بله؟": "می‌خواهم ، بله ؟",
            "今天很好。走吧！": "今天很好 。 走吧 ！",
            "Straße, İstanbul; Ελλάδα.": "Straße , İstanbul ; Ελλάδα .",
            unicodedata.normalize("NFD", "Élan café."): unicodedata.normalize("NFD", "Élan café ."),
            "👩‍👩‍👧‍👦🇩🇪🇫🇷👍🏽!": "👩‍👩‍👧‍👦 🇩🇪 🇫🇷 👍🏽 !",
        }
    )


def test_every_unicode_space_separates_words():
    for splitter in SPLITTERS:
        for space in SPACES:
            assert words(f"{space}one{space}{space}two{space}", splitter) == "one two"


def test_text_without_words_has_none():
    assert [words(text) for text in ("", " ", "\n\t ")] == ["", "", ""]


def test_whitespace_splits_at_white_space_only():
    assert words("I don't, e.g. (that)!\nYes.", WHITESPACE) == "I don't, e.g. (that)! Yes."


def test_billion_words_are_those_of_the_benchmark():
    assert_splits(
        {
            "Don't! I can't; she's O'Brien's.": "Don 't ! I can 't ; she 's O 'Brien 's .",
            "a long-term, state-of-the-art plan": "a long-term , state-of-the-art plan",
            "the dogs' home 'til the '90s": "the dogs ' home ' til the ' 90s",
            "they'd've rock'n'roll 1990's 5'a": "they 'd've rock 'n'roll 1990 's 5'a",
            "a 6-3, 6-7 (5/7) win at 5:30": "a 6-3 , 6-7 ( 5 / 7 ) win at 5 : 30",
            "AT&T paid $1,000.50 or 3.5%.": "AT & T paid $ 1,000.50 or 3.5 % .",
            "well...then.. no!! --": "well ... then .. no ! ! --",
            '"Yes," he said.': '" Yes , " he said .',
            "``Yes'' “no” ‘it’s’": "`` Yes '' “ no ” ‘ it ’s ’",
            "naïve nai\u0308ve 日本, e.g.": "naïve nai\u0308ve 日本 , e.g.",
        },
        BILLION_WORDS,
    )


def test_billion_words_keep_the_periods_of_abbreviations():
    assert_splits(
        {
            "He left the U.S. at 5 p.m.": "He left the U.S. at 5 p.m.",
            "Mr. J. Smith met Sen. Roe.": "Mr. J. Smith met Sen. Roe .",
            "Foo Inc. and Bar Inc. The end.": "Foo Inc. and Bar Inc . The end .",
            "No. 5 said no. Well, No. Not": "No. 5 said no . Well , No . Not",
            "etc. and, etc., 3.5. Then": "etc. and , etc . , 3.5 . Then",
            "example.com. And (U.K.)": "example.com. And ( U.K. )",
        },
        BILLION_WORDS,
    )


SNIPPETS = st.sampled_from(
    (
        *("'", "’", "n't", "'s", "`", ".", "..", ",", "-", "--", "_", "@", "#", "$", "&", "/", ":"),
        *("http://", "www.", ".com", "a.com", "can", "not", "gonna", "dont", "I", "U.S.", "Mr."),
        *("p.m", "etc.", "5", "5pm", "3.5", "1/2", "e-", "é", "\u0301", "\u200d", "😀", "🇩🇪", "漢"),
        *("a", "A", "b*", "*", "(", ")", ":)", "<", ">", "=", "?", "!", "…", " ", "\n"),
    )
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(SNIPPETS, max_size=30).map("".join))


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_nothing_but_white_space_is_lost(text):
    for splitter in SPLITTERS:
        found = splitter.pre_tokenize_str(text)
        assert "".join(word for word, _ in found) == "".join(c for c in text if c not in SPACES)
        assert all(text[start:end] == word for word, (start, end) in found)


PATHOLOGICAL = (
    *(
        "a.",
        "aa.",
        "a-",
        "a@",
        "a'",
        "'",
        "(",
        "_",
        "_a",
        ".",
        "!",
        "1.",
        "1,",
        "1/",
        "Mr.",
        "U.S.",
    ),
    *(
        "http://",
        "www.",
        "a.com",
        "n't",
        "don't",
        "etc.)))))",
        "cannot",
        "I dont ",
        "😀\u200d",
        "a",
    ),
    *(".-", "1,", "1'a", "A.", "a.b ", "-", "1.", "a'b'"),
    *("a%", "#a", "a*", "漢", "\u0301", "x.", "pre-", "'s", "=-", ":-", "<", "...a", "No.", "A&"),
)


def seconds(text: str, splitter: pre_tokenizers.PreTokenizer) -> float:
    start = time.thread_time()  # of this thread alone, however busy the machine is
    splitter.pre_tokenize_str(text)
    return time.thread_time() - start


@pytest.mark.slow
def test_time_grows_with_the_length_of_the_text_only():
    # Quadratic time would exceed this for all texts, and take minutes for some.
    for unit in PATHOLOGICAL:
        text = (unit * 100_000)[:100_000]
        for splitter in (TREEBANK, BILLION_WORDS):
            assert seconds(text, splitter) < 2.0, f"100 KB of {unit!r} take too long"


def test_splitter_survives_tokenizer_json(tmp_path):
    text = "Mr. O'Neil can't pay $5.00 (really) at www.x.com..."
    for splitter in SPLITTERS:
        tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        tokenizer.pre_tokenizer = splitter
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert loaded.to_str() == tokenizer.to_str()
        assert words(text, loaded.pre_tokenizer) == words(text, splitter)
        assert loaded.encode(text).offsets == [s for _, s in splitter.pre_tokenize_str(text)]


def test_an_unknown_name_says_which_names_there_are():
    with pytest.raises(ValueError, match=r"'penn'.*'treebank', 'billion-words' or 'whitespace'"):
        word_splitter("penn")


@pytest.mark.skipif(not EWT_TEST.exists(), reason=f"UD English EWT is not at {EWT_TEST.parent}")
def test_words_agree_with_the_english_web_treebank():
    def spans(text):
        return [span for _, span in TREEBANK.pre_tokenize_str(text)]

    assert agreement(spans, read_sentences(EWT_TEST))["f1"] > 0.992
