# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Read text for pre-training, split it into words, and count them for a vocabulary.

A corpus is split into words once and stored as an Arrow file, which `datasets` memory-maps. Each
row is a sentence that begins with `<S>` and ends with `</S>`; an empty row separates documents. The
training windows are slices of the concatenated rows.
"""

import glob
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from ..model.tokenization_elmo import ElmoTokenizer
from ..text_files import make_splitter, read_lines

LINES_AT_ONCE = 20_000
CACHE_FORMAT = 1  # increased when the stored form of the same text changes

# --- Files ---


def find_files(patterns: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """
    Return the files that match these paths and glob patterns, sorted within each pattern.

    Raises:
        FileNotFoundError: a pattern matches no file.
    """
    found: list[Path] = []
    for pattern in map(str, patterns):
        files = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
        if not files:
            raise FileNotFoundError(
                f"no file matches {pattern}; expected text files or patterns like 'text/*.txt.xz'"
            )
        found += files
    return found


def read_files(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of text files, and "" after each file; see `text_files.read_lines`."""
    for path in paths:
        yield from read_lines(path)
        yield ""


# --- Corpora ---


def read_corpus(
    files: Iterable[str | os.PathLike[str]],
    tokenizer: ElmoTokenizer,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """
    Split text files into words, or open the result of an earlier call.

    A line is a sentence. An empty line ends a document, and so does the end of a file.

    Args:
        files: paths and glob patterns; files may be compressed (.gz, .xz, .bz2, .zst).
        tokenizer: splits lines into words and names the boundaries. Its vocabulary is not used.
        cache_dir: the folder that stores the words. Default: one in the cache of `datasets`.

    Returns:
        A dataset with one column, `words`, as described at the top of this module.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not UTF-8 or cut off, or all files are empty.
    """
    paths = find_files(files)
    stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    source = ", ".join(map(str, paths[:3])) + (", .." if len(paths) > 3 else "")
    return split_once(lambda: read_files(paths), stamps, source, tokenizer, cache_dir)


def read_hub_corpus(
    name: str,
    tokenizer: ElmoTokenizer,
    config_name: str | None = None,
    split: str = "train",
    column: str = "text",
    limit: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """
    Split a Hub or local dataset into words, or open the result of an earlier call.

    The dataset is streamed: entries after `limit` are not downloaded, and only words are stored.

    Args:
        name, config_name, split: as in `datasets.load_dataset`.
        tokenizer, cache_dir: as in `read_corpus`.
        column: the column of text. Each entry is a document, each line of it a sentence.
        limit: the maximal number of entries; None: all.

    Returns:
        A dataset like that of `read_corpus`.

    Raises:
        ValueError: the column is missing, or the dataset has no text.
    """
    builder = datasets.load_dataset_builder(name, config_name)

    def lines() -> Iterator[str]:
        for entry in islice(builder.as_streaming_dataset(split), limit):
            if column not in entry:
                raise ValueError(
                    f"{name} has no column {column!r} but {list(entry)}; name the column of text"
                )
            yield from entry[column].splitlines()
            yield ""

    key = [str(builder.cache_dir), split, column, limit]  # its name differs between versions
    return split_once(lines, key, name, tokenizer, cache_dir)


def split_once(
    lines: Callable[[], Iterator[str]],
    key: Any,
    source: str,
    tokenizer: ElmoTokenizer,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """
    Split lines into words and store the corpus, or open the one stored under this key.

    Args:
        lines: returns an iterator over the lines; called only if nothing is stored.
        key: identifies the text; any JSON value.
        source: the text's name in messages.
        tokenizer, cache_dir: as in `read_corpus`.

    Raises:
        ValueError: the lines have no words.
    """
    splitter = make_splitter(tokenizer)
    names = [tokenizer.bos_token, tokenizer.eos_token]
    signed = json.dumps([CACHE_FORMAT, key, splitter.to_str(), names])
    digest = hashlib.sha256(signed.encode()).hexdigest()[:32]
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "elmo_hf")
    path = folder / f"{digest}.arrow"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{digest}.{uuid.uuid4().hex}.part"  # of this process and thread only
        try:
            if not _write(part, lines(), splitter, *names):
                raise ValueError(f"{source} has no text: expected lines with at least one word")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return datasets.Dataset.from_file(str(path))


def _write(path: Path, lines: Iterator[str], splitter: Tokenizer, bos: str, eos: str) -> int:
    """Write the sentences of these lines as an Arrow stream; return the number of words."""
    schema, words = pa.schema([("words", pa.list_(pa.string()))]), 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while block := list(islice(lines, LINES_AT_ONCE)):
            encodings = splitter.encode_batch(block, add_special_tokens=False)
            sentences = [[bos, *e.tokens, eos] if len(e) else [] for e in encodings]
            words += sum(map(len, encodings))
            ends = np.cumsum([0, *map(len, sentences)], dtype=np.int32)
            flat = pa.array(chain.from_iterable(sentences), pa.string())
            column = pa.ListArray.from_arrays(pa.array(ends), flat)
            writer.write(pa.record_batch([column], schema=schema))
    return words


class WordStream:
    """
    Class that gives access to the concatenated words of a corpus, boundaries included.

    `sentence_lengths` `(rows,)` counts words and boundaries; 0 separates documents.

    Args:
        corpus: the dataset that `read_corpus` returns.
    """

    def __init__(self, corpus: datasets.Dataset) -> None:
        self.corpus = corpus
        column = corpus.data.column("words")
        self._chunks = [chunk.flatten() for chunk in column.chunks]
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        self.sentence_lengths = np.concatenate(
            [np.asarray(chunk.value_lengths()) for chunk in column.chunks]
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> Any:
        return WordStream, (self.corpus,)

    def words(self, begin: int, end: int) -> list[str]:
        """Return the words at positions `begin` to `end - 1`."""
        words: list[str] = []
        at = int(np.searchsorted(self._starts, begin, side="right")) - 1
        while len(words) < end - begin:
            skipped = begin + len(words) - int(self._starts[at])
            words += self._chunks[at][skipped : end - int(self._starts[at])].to_pylist()
            at += 1
        return words

    def count(self) -> tuple[list[str], np.ndarray]:
        """Return the distinct words and the frequency of each."""
        counts = pa.chunked_array(self._chunks).value_counts()
        return counts.field("values").to_pylist(), np.asarray(counts.field("counts"))


# --- Vocabularies ---


def build_vocabulary(
    stream: WordStream,
    size: int | None = None,
    min_count: int = 1,
    specials: Sequence[str] = ("<S>", "</S>", "<UNK>"),
) -> list[str]:
    """
    Return the vocabulary of a language model's softmax, the most frequent words first.

    The sampled softmax needs this order because it draws words by rank (bilm-tf). Words of equal
    frequency are sorted alphabetically.

    Args:
        stream: the text.
        size: the maximal number of words, `specials` included; None for all.
        min_count: rarer words are left out.
        specials: the boundaries and the unknown word. They come first, whatever their frequency.

    Raises:
        ValueError: `size` leaves no room for a word, or no word is frequent enough.
    """
    if size is not None and size <= len(specials):
        raise ValueError(
            f"size is {size}; expected more than {len(specials)}, as {list(specials)} come first"
        )
    words, counts = stream.count()
    frequent = sorted(
        (-count, word)
        for word, count in zip(words, counts.tolist(), strict=True)
        if count >= min_count and word not in specials
    )
    if not frequent:
        raise ValueError(f"no word occurs {min_count} times among {len(stream):,}; lower min_count")
    return [*specials, *(word for _, word in frequent)][:size]


__all__ = ["WordStream", "build_vocabulary", "read_corpus", "read_hub_corpus"]
