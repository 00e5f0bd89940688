"""Text becomes words once, words a vocabulary and a stream; bad text fails clearly."""

import bz2
import gzip
import importlib
import json
import lzma
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from elmo_hf import ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, build_vocabulary, read_corpus, read_hub_corpus

TEXT = "I don't know.\nShe does.\n\nA new document, über alles.\n"
SENTENCES = [
    ["<S>", "I", "do", "n't", "know", ".", "</S>"],
    ["<S>", "She", "does", ".", "</S>"],
    [],
    ["<S>", "A", "new", "document", ",", "über", "alles", ".", "</S>"],
    [],
]


@pytest.fixture
def tokenizer():
    return ElmoTokenizer()


@pytest.fixture
def corpus_of(tmp_path, tokenizer):
    def read(text, name="text.txt"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_corpus([tmp_path / name], tokenizer, tmp_path / "cache")

    return read


@pytest.mark.parametrize(
    "name, compress",
    [
        ("a.txt", bytes),
        ("a.txt.gz", gzip.compress),
        ("a.txt.xz", lzma.compress),
        ("a.txt.bz2", bz2.compress),
    ],
)
def test_lines_become_sentences_of_words_whatever_the_compression(corpus_of, name, compress):
    assert corpus_of(compress(TEXT.encode()), name)["words"][:] == SENTENCES


def test_a_pattern_reads_its_files_in_order_and_each_ends_a_document(tmp_path, tokenizer):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name} .")
    corpus = read_corpus([tmp_path / "*.txt"], tokenizer, tmp_path / "cache")
    words = [["<S>", "a", ".", "</S>"], [], ["<S>", "b", ".", "</S>"], []]
    assert corpus["words"][:] == words


def test_words_are_split_once_until_the_file_or_the_splitter_changes(corpus_of, tmp_path):
    def written():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}

    path = tmp_path / "text.txt"
    corpus_of(TEXT)
    first = written()
    tokenizer = ElmoTokenizer(lm_vocab=["<S>", "</S>", "<UNK>"])
    assert read_corpus([path], tokenizer, tmp_path / "cache").data.num_rows == 5
    assert written() == first  # the vocabulary does not matter
    by_space = read_corpus([path], ElmoTokenizer(word_splitter="whitespace"), tmp_path / "cache")
    assert by_space["words"][0] == ["<S>", "I", "don't", "know.", "</S>"]
    assert corpus_of(TEXT + "More .\n")["words"][4] == ["<S>", "More", ".", "</S>"]
    assert len(written()) == 3


def test_threads_may_split_the_same_text_at_once(tmp_path, tokenizer):
    file, start = tmp_path / "text.txt", threading.Barrier(4)
    file.write_text(TEXT * 2000)

    def read(_):
        start.wait()
        return len(WordStream(read_corpus([file], tokenizer, tmp_path / "cache")))

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(read, range(4))] == [2000 * sum(map(len, SENTENCES))] * 4
    assert len([*(tmp_path / "cache").iterdir()]) == 1


def test_a_byte_order_mark_and_other_line_ends_are_no_words(corpus_of):
    assert corpus_of(b"\xef\xbb\xbfOne .\r\nTwo .\r\n")["words"][:2] == [
        ["<S>", "One", ".", "</S>"],
        ["<S>", "Two", ".", "</S>"],
    ]


def test_text_that_is_not_utf8_is_named_by_file_and_line_and_leaves_nothing(corpus_of, tmp_path):
    with pytest.raises(ValueError, match=r"text\.txt, line 2, is not UTF-8.*xfc.*iconv"):
        corpus_of("eins .\nfünf .\n".encode("latin-1"))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("text", ["", "\n\n \n"])
def test_text_without_words_fails_and_leaves_nothing(corpus_of, tmp_path, text):
    with pytest.raises(ValueError, match=r"text\.txt has no text"):
        corpus_of(text)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name, compress", [("a.xz", lzma.compress), ("a.gz", gzip.compress)])
def test_a_file_that_is_cut_off_fails(corpus_of, name, compress):
    with pytest.raises(ValueError, match=f"{name} is damaged or cut off"):
        corpus_of(compress(TEXT.encode() * 50)[:-20], name)


def test_a_pattern_without_files_fails(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read_corpus([tmp_path / "none*.txt"], tokenizer, tmp_path)


def test_a_dataset_is_streamed_entry_by_entry(tmp_path, tokenizer):
    entries = [{"text": "I don't know.\nShe does."}, {"text": "A new document, über alles."}]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, [*entries, {"text": "unread"}])))
    corpus = read_hub_corpus(str(folder), tokenizer, limit=2, cache_dir=tmp_path / "cache")
    assert corpus["words"][:] == SENTENCES
    (folder / "a.jsonl").write_text(json.dumps({"text": "Changed ."}))
    corpus = read_hub_corpus(str(folder), tokenizer, limit=2, cache_dir=tmp_path / "cache")
    assert corpus["words"][:] == [["<S>", "Changed", ".", "</S>"], []]
    with pytest.raises(ValueError, match=r"no column 'body' but \['text'\]"):
        read_hub_corpus(str(folder), tokenizer, column="body", cache_dir=tmp_path / "cache")


def test_the_stream_has_all_words_wherever_it_is_cut(corpus_of, monkeypatch):
    monkeypatch.setattr("elmo_hf.pretraining.corpora.LINES_AT_ONCE", 2)  # so that there are chunks
    stream = WordStream(corpus_of(TEXT * 3))
    everything = [word for sentence in SENTENCES[:-1] * 3 for word in sentence]
    assert len(stream) == len(everything) == stream.sentence_lengths.sum()
    for begin in range(len(stream)):
        for end in range(begin, len(stream) + 1):
            assert stream.words(begin, end) == everything[begin:end]


def test_a_vocabulary_is_sorted_by_frequency_with_specials_first(corpus_of):
    stream = WordStream(corpus_of("b a b c\nb a d"))
    assert build_vocabulary(stream) == ["<S>", "</S>", "<UNK>", "b", "a", "c", "d"]
    assert build_vocabulary(stream, size=5) == ["<S>", "</S>", "<UNK>", "b", "a"]
    assert build_vocabulary(stream, min_count=2) == ["<S>", "</S>", "<UNK>", "b", "a"]
    with pytest.raises(ValueError, match="size is 3; expected more than 3"):
        build_vocabulary(stream, size=3)
    with pytest.raises(ValueError, match="no word occurs 9 times"):
        build_vocabulary(stream, min_count=9)


def test_without_its_extra_pretraining_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("elmo_hf.pretraining")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"datasets is not installed.*\.\[train\]'$"):
        importlib.import_module("elmo_hf.pretraining.corpora")
