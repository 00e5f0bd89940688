"""Reads TensorFlow's V2 checkpoints ("tensor bundles") without TensorFlow.

PREFIX.index lists the type, shape and location of each variable; PREFIX.data-0000k-of-0000n hold
the raw values. All contents are checked before use: sizes against shapes and files, values against
their CRC-32C.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .tables import WeightsError
from .tf_sorted_table import masked_crc32c, read_table, read_varint

# NumPy's types by their numbers in TensorFlow's types.proto.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
MAX_DIMENSIONS = 8  # TensorFlow's own bound is 254, NumPy's 32 or 64


@dataclass(frozen=True)
class Variable:
    """The index entry of a variable (TensorFlow's BundleEntryProto)."""

    type_number: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    is_sliced: bool


class Bundle:
    """
    Class that reads the variables of a checkpoint.

    Args:
        index: the file PREFIX.index; the data files must be in the same folder.

    Attributes:
        variables: the index entries of the variables, by name.

    Raises:
        WeightsError: the index is damaged or in another format.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        table = read_table(index)
        try:
            header = _parse(table.pop(b"", b""))  # BundleHeaderProto
            self._num_shards = _integer(header, 1)
            # Only the slices of a sliced variable have names that are not text.
            self.variables = {
                key.decode(errors="backslashreplace"): _variable(entry)
                for key, entry in table.items()
            }
        except (IndexError, TypeError, ValueError) as error:
            raise WeightsError(f"{index.name} is no TensorFlow V2 checkpoint: {error}") from error
        if _integer(header, 2):
            raise WeightsError(f"{index.name} is big-endian, which is not supported")
        self._mapped: dict[Path, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        """
        Map a variable's values into memory: the system loads and frees them as needed.

        Writing to the array does not change the file.

        Raises:
            WeightsError: the values are missing, truncated, damaged, sliced, or not numbers.
        """
        variable = self.variables[name]
        dtype = self._dtype(name, variable)
        stored = self._stored(name, variable)
        if masked_crc32c(stored) != variable.checksum:
            raise WeightsError(
                f"{self._shard(variable).name} is damaged: the checksum of variable {name} "
                "differs; copy or download the file again"
            )
        return np.require(stored.view(dtype).reshape(variable.shape), requirements="A")

    def shards(self) -> list[Path]:
        """Return the data files that hold the variables."""
        return sorted({self._shard(variable) for variable in self.variables.values()})

    def _dtype(self, name: str, variable: Variable) -> np.dtype:
        """Return the type of a variable; WeightsError if it cannot be read."""
        problem = None
        dtype = np.dtype(DTYPES.get(variable.type_number, "V1"))
        if variable.is_sliced:
            problem = "is stored in slices; save the checkpoint without a partitioner"
        elif variable.type_number not in DTYPES:
            problem = f"has TensorFlow's type {variable.type_number}, which NumPy does not have"
        elif variable.size != math.prod(variable.shape) * dtype.itemsize:
            problem = f"claims shape {variable.shape} in {variable.size} bytes of {dtype}"
        if problem:
            raise WeightsError(f"{self.index.name}: variable {name} {problem}")
        return dtype

    def _stored(self, name: str, variable: Variable) -> np.ndarray:
        """Return the bytes of a variable."""
        path, end = self._shard(variable), variable.offset + variable.size
        if not path.is_file():
            raise WeightsError(f"{path.name} is missing; put it beside {self.index.name}")
        if end > path.stat().st_size:
            raise WeightsError(
                f"{path.name} is cut off: it has {path.stat().st_size} bytes, but variable {name} "
                f"ends at {end}"
            )
        if not variable.size:
            return np.empty(0, np.uint8)
        if path not in self._mapped:
            # "c" is copy-on-write: changes stay in memory
            self._mapped[path] = np.asarray(np.memmap(path, np.uint8, "c"))
        return self._mapped[path][variable.offset : end]

    def _shard(self, variable: Variable) -> Path:
        prefix = self.index.name.removesuffix(".index")
        number = f"{variable.shard:05d}-of-{self._num_shards:05d}"
        return self.index.with_name(f"{prefix}.data-{number}")


def _variable(entry: bytes) -> Variable:
    fields = _parse(entry)
    shape = _parse(b"".join(fields.get(2, [])))  # TensorShapeProto
    dimensions = shape.get(2, [])
    if len(dimensions) > MAX_DIMENSIONS:
        raise ValueError(f"a variable has {len(dimensions)} dimensions")
    return Variable(
        type_number=_integer(fields, 1),
        shape=tuple(_integer(_parse(dimension), 1) for dimension in dimensions),
        shard=_integer(fields, 3),
        offset=_integer(fields, 4),
        size=_integer(fields, 5),
        checksum=_integer(fields, 6),
        is_sliced=7 in fields,
    )


def _parse(message: bytes) -> dict[int, list[Any]]:
    """Parse a protocol buffer: the values of each field, integers or bytes, by field number."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        size = {1: 8, 5: 4}.get(wire_type, 0)
        value: int | bytes
        if wire_type == 0:
            value, at = read_varint(message, at)
        elif wire_type == 2:
            size, at = read_varint(message, at)
            value = message[at : at + size]
        elif size:
            value = int.from_bytes(message[at : at + size], "little")
        else:
            raise ValueError(f"a field of unknown kind {wire_type}")
        at += size
        fields.setdefault(number, []).append(value)
    if at > len(message):
        raise ValueError("a field reaches past its message")
    return fields


def _integer(fields: Mapping[int, list[Any]], number: int) -> int:
    """Return the last value of a field; a missing field is 0."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not an integer")
    return value


__all__ = ["Bundle", "Variable"]
