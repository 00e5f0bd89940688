# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Embed sentences and store their vectors, in a folder of shards or in one file."""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from ..batches import Sentence, check_sentences
from ..embedder import ElmoEmbedder
from ..layers import Pooling
from .files import new_file
from .folder import NO_SENTENCES, FolderWriter, Progress
from .reading import VectorFile, open_vectors
from .rows import Dtype, Row, Vectorizer
from .single_files import WRITERS, write_text_lines

ENDINGS = {
    "": "folder",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".parquet": "parquet",
    ".npz": "npz",
    ".txt": "text",
}


def write_vectors(
    path: str | os.PathLike[str],
    embedder: ElmoEmbedder,
    sentences: Iterable[Sentence],
    *,
    dtype: Dtype = "float32",
    sentences_per_shard: int = 4096,
    resume: bool = False,
    part: tuple[int, int] = (0, 1),
    words: bool = True,
    pooling: Pooling | None = None,
    format: str | None = None,
    progress: Progress | None = None,
    **options: bool,
) -> VectorFile | None:
    """
    Embed sentences and store their vectors and words; memory does not grow with their number.

    A folder holds a safetensors file per `sentences_per_shard` sentences. Each appears when it is
    complete; `index.json` comes last. A run that was interrupted continues with `resume=True`. The
    bytes of the finished folder are the same whatever the interruptions, workers and parts, as long
    as the kind of CPU, the releases of torch and elmo_hf, and the embedder's `batch_words` and
    `window` are the same; those change vectors by rounding only.

    Args:
        path: the output. Its ending decides the format: none, a folder; .hdf5 or .h5, a file as by
            AllenNLP's `embed_file`; .parquet; .npz; .txt.
        embedder: computes the vectors; its `layers` are stored.
        sentences: texts or lists of words, read as they are needed. With `resume` and `part` they
            must be all sentences, from the first.
        dtype: "float32", or "float16" for half of the size.
        sentences_per_shard: at most the embedder's `window`, or a multiple of it.
        resume: keep complete shards of an earlier run of the same input and settings. Their number
            of workers and parts may differ.
        part: `(i, n)` writes the shards i, i + n, i + 2n, ..: n processes, also on n machines with
            a common disk, write one folder together.
        words: store the words as well.
        pooling: store one vector per sentence, pooled as by `ElmoEmbedder.encode`.
        format: "folder", "hdf5", "parquet", "npz" or "text", whatever the ending.
        progress: called with the numbers of sentences and words after each sentence; for sentences
            that are stored already, or belong to other parts, with None words.
        options: for HDF5 `sentence_keys` and `forget_sentences`, as in AllenNLP.

    Returns:
        The opened vectors; None if shards of other parts are still missing, and for text and for
        HDF5 with `sentence_keys`, which have no index.

    Raises:
        FileExistsError: the output exists and `resume` is False.
        ValueError: an argument is invalid, or the folder holds shards of other settings or inputs.
        OSError: the output cannot be written.
    """
    path = Path(path)
    kind = find_format(path, format)
    if isinstance(sentences, str):
        raise ValueError("sentences is one string; expected an iterable of sentences: pass [text]")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part is {part}; expected (i, n) with i from 0 to n - 1")
    sentences = check_sentences(sentences)
    report = progress or _ignore
    if options and kind != "hdf5":
        raise ValueError(f"{', '.join(options)} is for HDF5; end the output's name in .hdf5")
    if kind == "folder":
        size = sentences_per_shard
        vectorizer = Vectorizer(embedder, dtype, pooling, _find_window(embedder, size))
        writer = FolderWriter(path, vectorizer, size, resume, part, words, report)
        return open_vectors(path) if writer.write(sentences) else None
    if resume or part != (0, 1):
        raise ValueError(
            f"{path} is one file; resume and part need a folder, a name without ending"
        )
    if path.exists():
        raise FileExistsError(f"{path} exists already; delete it, or pass another name")
    rows = Vectorizer(embedder, dtype, pooling, embedder.window).rows(sentences)
    with new_file(path) as unfinished, closing(_report(rows, report)) as reported:
        WRITERS[kind](unfinished, reported, **options)
    return None if kind == "text" or options.get("sentence_keys") else open_vectors(path)


def print_vectors(
    file: BinaryIO,
    embedder: ElmoEmbedder,
    sentences: Iterable[Sentence],
    *,
    dtype: Dtype = "float32",
    pooling: Pooling | None = None,
    progress: Progress | None = None,
) -> None:
    """
    Embed sentences and write their words and vectors as lines of text to an open file.

    Each line holds a word and its numbers, an empty line ends each sentence, and several layers are
    put side by side. Pooled, a line per sentence holds its numbers. For the arguments see
    `write_vectors`.

    Raises:
        ValueError: an argument is invalid, or a word has white space in it.
    """
    vectorizer = Vectorizer(embedder, dtype, pooling, embedder.window)
    rows = vectorizer.rows(check_sentences(sentences))
    with closing(_report(rows, progress or _ignore)) as reported:
        write_text_lines(file, reported)


def find_format(path: Path, format: str | None = None) -> str:
    """
    Return the name of the format to write.

    Raises:
        ValueError: the format or the ending is unknown.
    """
    if format is None and path.suffix in ENDINGS:
        return ENDINGS[path.suffix]
    if format is not None and format in ENDINGS.values():
        return format
    names = ", ".join(dict.fromkeys(ENDINGS.values()))
    what = f"{path} ends in {path.suffix}" if format is None else f"format is {format!r}"
    raise ValueError(
        f"{what}; expected a name without ending (a folder), one that ends in "
        f"{', '.join(filter(None, ENDINGS))}, or one of the formats {names}"
    )


def _find_window(embedder: ElmoEmbedder, sentences_per_shard: int) -> int:
    """Return how many sentences are sorted together: windows must end where shards end."""
    window = min(embedder.window, sentences_per_shard)
    if window < 1 or sentences_per_shard % window:
        raise ValueError(
            f"sentences_per_shard is {sentences_per_shard}; expected a multiple of the embedder's "
            f"window, {embedder.window}, or from 1 to {embedder.window}"
        )
    return window


def _ignore(sentences: int, words: int | None) -> None:
    """Report nothing."""


def _report(rows: Iterator[Row], progress: Progress) -> Generator[Row]:
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
        progress(1, len(row.words))
    if is_empty:
        raise ValueError(NO_SENTENCES)


__all__ = ["ENDINGS", "find_format", "print_vectors", "write_vectors"]
