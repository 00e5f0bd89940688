# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Vectors in one file: AllenNLP's HDF5, Parquet, NumPy's .npz, and text."""

import io
import json
import zipfile
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..extras import require
from ..model.tokenization_checks import is_utf8
from .rows import Row

ROWS_AT_ONCE = 1024  # rows of a row group in Parquet


def write_hdf5(
    path: Path, rows: Iterable[Row], sentence_keys: bool = False, forget_sentences: bool = False
) -> None:
    """
    Write a dataset per sentence, as AllenNLP's `embed_file` does.

    The datasets are named "0", "1", .. and the dataset `sentence_to_index` holds a JSON object from
    sentences to names, in memory until the end. Several layers: `(layers, words, dimension)`.

    Args:
        sentence_keys: name each dataset by its sentence.
        forget_sentences: leave out `sentence_to_index`.

    Raises:
        ValueError: a sentence cannot be a name, for instance because it occurs twice.
    """
    h5py = require("h5py", "storage")
    names: dict[str, str] = {}
    used: set[str] = set()
    with _ForgivingFile(path, "w+") as disk, h5py.File(disk, "w") as file:
        for number, row in enumerate(rows):
            disk.check()
            name = row.text if sentence_keys else str(number)
            if sentence_keys:
                _check_key(number, name, used)
            try:
                file.create_dataset(name, data=row.vectors)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"sentence {number} cannot be a name in HDF5, where / separates groups "
                    f"({error}): {name[:60]!r}; leave out --use-sentence-keys"
                ) from error
            if not sentence_keys and not forget_sentences and not _is_misread(row):
                names[row.text] = name
        if names:
            text = file.create_dataset("sentence_to_index", (1,), h5py.string_dtype())
            text[0] = json.dumps(names)
        file.flush()
        disk.check()


def _is_misread(row: Row) -> bool:
    """Whether splitting the text at white space gives as many, but other words."""
    words = row.text.split()
    return len(words) == len(row.words) and words != row.words


def _check_key(number: int, name: str, used: set[str]) -> None:
    """Raise ValueError if a sentence cannot be the name of a dataset, else note it as used."""
    if not name or name in used:
        raise ValueError(
            f"sentence {number} is {'there twice' if name else 'empty'}: {name[:60]!r}; leave out "
            "--use-sentence-keys"
        )
    used.add(name)


class _ForgivingFile(io.FileIO):
    """A file whose failed writes are raised by `check`: HDF5 crashes if one fails under it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = error
            return size or 0

    def check(self) -> None:
        """Raise the error of a failed write."""
        if self.error is not None:
            raise self.error


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """
    Write a table with the columns `id`, `text`, `words` and `vector`.

    `vector` is a list of vectors, one per word; several layers: of lists of vectors, one per layer;
    pooled: one vector.
    """
    pa, parquet = require("pyarrow", "storage"), require("pyarrow.parquet", "storage")
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return
    schema = _arrow_schema(pa, first.vectors)
    # Floating point numbers hardly shrink, but compressing them takes longer than computing them.
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    number = 0
    remaining = chain([first], remaining)
    with parquet.ParquetWriter(path, schema, write_statistics=["id"], **options) as writer:
        while block := list(islice(remaining, ROWS_AT_ONCE)):
            columns = [
                pa.array(range(number, number + len(block)), pa.int64()),
                *_arrow_texts(pa, block, number),
                _arrow_vectors(pa, [row.vectors for row in block], schema.field("vector").type),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            number += len(block)


def _arrow_texts(pa: Any, block: list[Row], number: int) -> list[Any]:
    """Return the columns `text` and `words`; `number` is that of the first sentence."""
    for i, row in enumerate(block, number):
        if not is_utf8("".join([row.text, *row.words])):
            raise ValueError(
                f"sentence {i} has a lone surrogate, which Parquet cannot hold; remove it, or "
                "write a folder or .npz"
            )
    return [
        pa.array([row.text for row in block], pa.string()),
        pa.array([row.words for row in block], pa.list_(pa.string())),
    ]


def write_npz(path: Path, rows: Iterable[Row]) -> None:
    """
    Write an archive for `numpy.load`: an array per sentence, named "0", "1", ..

    The array `words` holds UTF-8 bytes: per sentence a line with its words as a JSON list.
    """
    lines = []
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for number, row in enumerate(rows):
            _add_array(archive, str(number), row.vectors)
            lines.append(json.dumps(row.words, ensure_ascii=False))
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        _add_array(archive, "words", np.frombuffer(text, np.uint8))


def write_text(path: Path, rows: Iterable[Row]) -> None:
    """Write `write_text_lines` to a file."""
    with open(path, "wb") as file:
        write_text_lines(file, rows)


def write_text_lines(file: BinaryIO, rows: Iterable[Row]) -> None:
    """
    Write a line per word: the word and its numbers, separated by blanks.

    An empty line ends each sentence. Several layers are put side by side. Pooled, a line per
    sentence holds its numbers.

    Raises:
        ValueError: a word has white space in it.
    """
    for row in rows:
        vectors = row.vectors
        if vectors.ndim == 1:
            file.write((_numbers(vectors) + "\n").encode())
            continue
        if vectors.ndim == 3:
            vectors = np.concatenate(vectors, -1)
        for word in row.words:
            if word.split() != [word]:
                raise ValueError(f"the word {word!r} has white space; write another format")
        lines = [f"{w} {_numbers(vector)}\n" for w, vector in zip(row.words, vectors, strict=True)]
        file.write("".join([*lines, "\n"]).encode())


def _arrow_schema(pa: Any, vectors: np.ndarray) -> Any:
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[-1])
    if vectors.ndim == 3:
        kind = pa.list_(kind, len(vectors))
    if vectors.ndim > 1:
        kind = pa.list_(kind)
    words = pa.list_(pa.string())
    columns = [("id", pa.int64()), ("text", pa.string()), ("words", words), ("vector", kind)]
    return pa.schema(columns)


def _arrow_vectors(pa: Any, vectors: list[np.ndarray], kind: Any) -> Any:
    """Return the Arrow array of some sentences' vectors."""
    by_word = [one.swapaxes(0, 1) if one.ndim == 3 else np.atleast_2d(one) for one in vectors]
    joined = np.concatenate(by_word)
    found = pa.array(joined.reshape(-1))
    for size in joined.shape[:0:-1]:  # the dimension, then the layers
        found = pa.FixedSizeListArray.from_arrays(found, size)
    if pa.types.is_fixed_size_list(kind):
        return found
    ends = np.cumsum([0, *map(len, by_word)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), found)


def _add_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _numbers(vector: np.ndarray) -> str:
    return " ".join(map("{:.6g}".format, vector.tolist()))


WRITERS: dict[str, Callable[..., None]] = {
    "hdf5": write_hdf5,
    "parquet": write_parquet,
    "npz": write_npz,
    "text": write_text,
}

__all__ = ["WRITERS", "write_hdf5", "write_text_lines"]
