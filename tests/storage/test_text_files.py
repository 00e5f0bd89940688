"""Files become sentences in their order, whatever their format; a damaged file is one error."""

import bz2
import gzip
import io
import json
import lzma
import sys

import pyarrow
import pytest

from elmo_hf.text_files import read_sentences

TEXT = "I don't know.\n\nShe  does .\n"
TREEBANK = (
    "# text = I don't.\n1\tI\tI\tPRON\n2-3\tdon't\t_\n2\tdo\tdo\n3\tn't\tnot\n3.1\tgo\tgo\n\n\n"
    "1\tHa Noi\t_\n"
)


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, name="text.txt", **options):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_sentences(tmp_path / name, **options))

    return write_and_read


def zstd(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    "ending, compress",
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        (".zst", zstd),
    ],
)
def test_each_line_is_a_sentence_whatever_the_compression(read, ending, compress):
    archive = compress(TEXT.encode()) + compress(b"More .")  # two archives in one file
    assert read(archive, "a.txt" + ending) == ["I don't know.", "", "She  does .", "More ."]
    if ending:
        with pytest.raises(ValueError, match=rf"a\.txt\{ending} is damaged or cut off after line"):
            read(compress(TEXT.encode() * 99)[:-9], "a.txt" + ending)
        with pytest.raises(ValueError, match="is damaged or cut off after line 0"):
            read(b"These are plain words .", "a.txt" + ending)


def test_words_stay_as_they_are(read):
    assert read(TEXT, input="words") == [["I", "don't", "know."], [], ["She", "does", "."]]


def test_treebanks_give_their_words_once(read):
    assert read(TREEBANK, input="conllu") == [["I", "do", "n't"], ["Ha Noi"]]
    assert read("# no words\n\n", input="conllu") == [[]]
    with pytest.raises(ValueError, match=r"text\.txt, line 2, is 'Two words'; expected CoNLL-U"):
        read("1\tOne\nTwo words\n", input="conllu")


def test_json_lines_hold_texts_or_words(read):
    lines = ['"I do."', '{"text": "", "id": 1}']
    assert read("\n".join(lines), input="jsonl") == ["I do.", ""]
    lines = ['["I", "do"]', '{"words": []}']
    assert read("\n".join(lines), input="jsonl") == [["I", "do"], []]
    assert read(json.dumps({"text": 0, "body": "A"}), input="jsonl", field="body") == ["A"]


@pytest.mark.parametrize("bad", ["", "{", "7", '["a", 1]', '{"a": "b"}', '["a"]'])
def test_a_bad_line_of_json_is_named(read, bad):
    with pytest.raises(ValueError, match=r"text\.txt, line 2, is .*expected on every line a str"):
        read(f'"A text ."\n{bad}\n"B"', input="jsonl")


def test_the_standard_input_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "piped").write_text(TEXT)
    with open(tmp_path / "piped") as piped:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped.buffer))
        assert len(list(read_sentences("-"))) == 3


def test_what_is_no_text_is_named_by_file_and_line(read, tmp_path):
    with pytest.raises(ValueError, match=r"text\.txt, line 2, is not UTF-8.*LATIN1"):
        read("eins\nfünf\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text\.txt, line 1, is not UTF-8.*UTF-16"):
        read("Ein Satz.".encode("utf-16"))
    with pytest.raises(ValueError, match=r"text\.txt, line 2, has a NUL character"):
        read("a\nb\0c\n")
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        read_sentences(tmp_path / "gone")
    with pytest.raises(ValueError, match="input is 'csv'; expected one of text, words"):
        read_sentences(tmp_path / "text.txt", "csv")
