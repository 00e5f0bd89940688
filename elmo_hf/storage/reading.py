# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Read stored vectors by the index of their sentence."""

import json
import operator
import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..extras import require
from .folder import read_index
from .shards import ShardFile

OPEN_SHARDS = 64  # memory-mapped at once


class VectorFile:
    """
    Class that reads stored vectors: `vectors[17]`, `vectors.words(17)`, `len(vectors)`.

    It is a context manager. Threads may share it, and `DataLoader` workers may: its pickle holds
    its path only, and forked processes open the files anew.

    Args:
        path: a folder or file that `write_vectors` or AllenNLP's `embed_file` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._opened: tuple[int, Any] | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return self.info["sentences"]

    def __getitem__(self, index: int) -> np.ndarray:
        """
        Return the vectors of a sentence; a negative index counts from the end.

        Returns:
            `(words, dimension)`; several layers: `(layers, words, dimension)`; pooled:
            `(dimension,)`.

        Raises:
            IndexError: there is no such sentence.
        """
        return self._read(self._find(index))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def words(self, index: int) -> list[str]:
        """
        Return the words of a sentence.

        Raises:
            IndexError: there is no such sentence.
            ValueError: its words are not stored.
        """
        words = self._read_words(self._find(index))
        if words is None:
            raise ValueError(f"{self.path} has no words of sentence {index}")
        return words

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            if self._opened is not None and hasattr(self._opened[1], "close"):
                self._opened[1].close()
            self._opened, self._is_closed = None, True

    def __enter__(self) -> "VectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_vectors, (self.path,)

    def __repr__(self) -> str:
        return f"<{len(self):,} sentences of vectors in {self.path}>"

    def _find(self, index: int) -> int:
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sentence {number}: {self.path} has {len(self):,} sentences")
        return number % len(self)

    @property
    def _file(self) -> Any:
        """The open file, one per process: forked processes would share its position."""
        if self._is_closed:
            raise ValueError(f"{self.path} is closed")
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), self._open()
            return self._opened[1]

    def _open(self) -> Any:
        raise NotImplementedError

    def _read(self, index: int) -> np.ndarray:
        raise NotImplementedError

    def _read_words(self, index: int) -> list[str] | None:
        raise NotImplementedError


class FolderVectors(VectorFile):
    """Class that reads a folder of shards, which are memory-mapped when they are needed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        index = read_index(path)
        self._names = [shard["file"] for shard in index.pop("shards")]
        self.info = {"format": "folder", **index}

    def _open(self) -> Any:
        return lru_cache(OPEN_SHARDS)(lambda number: ShardFile(self.path / self._names[number]))

    def _shard(self, index: int) -> tuple[ShardFile, int]:
        number, place = divmod(index, self.info["sentences_per_shard"])
        return self._file(number), place

    def _read(self, index: int) -> np.ndarray:
        shard, place = self._shard(index)
        return shard.vectors(place)

    def _read_words(self, index: int) -> list[str] | None:
        shard, place = self._shard(index)
        return shard.words(place)


class Hdf5Vectors(VectorFile):
    """Class that reads AllenNLP's HDF5 files, whose datasets are named by sentence numbers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        names = set(self._file) - {"sentence_to_index"}
        if names != set(map(str, range(len(names)))):
            raise ValueError(
                f"{path} does not name its datasets 0, 1, .., but for instance {min(names)!r}; "
                "read it with h5py"
            )
        self._words: dict[str, str] = {}
        if "sentence_to_index" in self._file:
            sentences = json.loads(self._file["sentence_to_index"][0])
            self._words = {name: sentence for sentence, name in sentences.items()}
        self.info = {"format": "hdf5", "sentences": len(names), **_describe(self, len(names))}

    def _open(self) -> Any:
        h5py = require("h5py", "storage")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"{self.path} is damaged, cut off or not HDF5 ({error})") from error

    def _read(self, index: int) -> np.ndarray:
        return self._file[str(index)][()]

    def _read_words(self, index: int) -> list[str] | None:
        words = self._words.get(str(index), "").split()
        shape = self._file[str(index)].shape
        return words if len(shape) > 1 and len(words) == shape[-2] else None


class NpzVectors(VectorFile):
    """Class that reads the `.npz` archives of `write_vectors`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        count = len(self._file.files) - 1
        if set(self._file.files) != {"words", *map(str, range(count))}:
            raise ValueError(f"{path} was not written by elmo-hf; read it with numpy.load")
        text = self._file["words"].tobytes().decode("utf-8", "surrogatepass")
        self._words = text.split("\n")
        self.info = {"format": "npz", "sentences": count, **_describe(self, count)}

    def _open(self) -> Any:
        try:
            return np.load(self.path)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(f"{self.path} is damaged, cut off or not .npz ({error})") from error

    def _read(self, index: int) -> np.ndarray:
        with self._lock:
            return self._file[str(index)]

    def _read_words(self, index: int) -> list[str] | None:
        return json.loads(self._words[index])


class ParquetVectors(VectorFile):
    """Class that reads the Parquet files of `write_vectors`, a row group at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        metadata = self._file.metadata
        if not {"id", "words", "vector"} <= set(self._file.schema_arrow.names):
            raise ValueError(f"{path} was not written by elmo-hf; read it with pyarrow.parquet")
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *groups])
        self._group: tuple[int, Any] = (-1, None)
        count = metadata.num_rows
        self.info = {"format": "parquet", "sentences": count, **_describe(self, count)}

    def _open(self) -> Any:
        pa, parquet = require("pyarrow", "storage"), require("pyarrow.parquet", "storage")
        try:
            return parquet.ParquetFile(self.path, memory_map=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path} is damaged, cut off or not Parquet ({error})") from error

    def _value(self, index: int, column: str) -> Any:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        file = self._file
        with self._lock:
            if self._group[0] != number:
                self._group = number, file.read_row_group(number)
            return self._group[1].column(column)[index - int(self._starts[number])]

    def _read(self, index: int) -> np.ndarray:
        value = self._value(index, "vector").values
        shape, kind = [len(value)], value.type
        while hasattr(kind, "list_size"):
            shape.append(kind.list_size)
            value, kind = value.flatten(), kind.value_type
        found = value.to_numpy(zero_copy_only=False).reshape(shape)
        return found.swapaxes(0, 1) if found.ndim == 3 else found

    def _read_words(self, index: int) -> list[str] | None:
        return self._value(index, "words").as_py()


def open_vectors(path: str | os.PathLike[str]) -> VectorFile:
    """
    Open stored vectors for random access; nothing is read until it is needed.

    Args:
        path: a folder, .npz or .parquet file that `write_vectors` wrote, or an HDF5 file that it or
            AllenNLP's `embed_file` wrote.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is damaged, cut off, unfinished or of another format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected vectors that elmo-hf embed wrote")
    if path.is_dir():
        return FolderVectors(path)
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, reader in READERS.items():
        if start.startswith(magic):
            return reader(path)
    raise ValueError(
        f"{path} is neither a folder of vectors nor HDF5, .npz or Parquet; if it is the text "
        "format, read its lines: a word and its numbers"
    )


def _describe(vectors: VectorFile, sentences: int) -> dict[str, Any]:
    """Return the dimension, dtype and number of layers of the first sentence, if there is one."""
    if not sentences:
        return {}
    first = vectors._read(0)
    layers = len(first) if first.ndim == 3 else 1
    return {"dimension": first.shape[-1], "dtype": first.dtype.name, "number_of_layers": layers}


READERS: dict[bytes, type[VectorFile]] = {
    b"\x89HDF\r\n\x1a\n": Hdf5Vectors,
    b"PK\x03\x04": NpzVectors,
    b"PAR1": ParquetVectors,
}

__all__ = ["VectorFile", "open_vectors"]
