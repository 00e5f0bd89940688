"""Read TensorFlow's V2 checkpoints ("tensor bundles") without TensorFlow.

PREFIX.index says of each variable by name what it is and where; PREFIX.data-0000k-of-0000n hold the
raw values. Nothing is believed before it is checked: sizes against shapes and files, values against
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

# The numbers of TensorFlow's types.proto that NumPy has.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
MAX_DIMENSIONS = 8  # TensorFlow's own bound is 254, NumPy's 32 or 64


@dataclass(frozen=True)
class Variable:
    """What the index says of a variable (TensorFlow's BundleEntryProto)."""

    type_number: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    is_sliced: bool


class Bundle:
    """
    An open checkpoint.

    Args:
        index: the file PREFIX.index; the data files are looked for beside it.

    Attributes:
        variables: what the checkpoint holds, by name.

    Raises:
        WeightsError: the index is damaged or of another format.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        table = read_table(index)
        try:
            header = _parse(table.pop(b"", b""))  # BundleHeaderProto
            self._num_shards = _integer(header, 1)
            # Only the pieces of a sliced variable have names that are no text.
            self.variables = {
                key.decode(errors="backslashreplace"): _variable(entry)
                for key, entry in table.items()
            }
        except (IndexError, TypeError, ValueError) as error:
            raise WeightsError(f"{index.name} is no TensorFlow V2 checkpoint: {error}") from error
        if _integer(header, 2):
            raise WeightsError(f"{index.name} was written in big-endian order: not supported")
        self._mapped: dict[Path, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        """
        Give a variable's values, mapped into memory: the system loads and drops them as needed.

        Writing to them does not change the file.

        Raises:
            WeightsError: they are missing, cut off, damaged, sliced, or no numbers.
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
        """The data files that the variables are in."""
        return sorted({self._shard(variable) for variable in self.variables.values()})

    def _dtype(self, name: str, variable: Variable) -> np.dtype:
        """The type of a variable that can be read."""
        problem = None
        dtype = np.dtype(DTYPES.get(variable.type_number, "V1"))
        if variable.is_sliced:
            problem = "is stored in slices; save the checkpoint without a partitioner"
        elif variable.type_number not in DTYPES:
            problem = f"is of TensorFlow's type {variable.type_number}, which is no NumPy number"
        elif variable.size != math.prod(variable.shape) * dtype.itemsize:
            problem = f"claims shape {variable.shape} in {variable.size} bytes of {dtype}"
        if problem:
            raise WeightsError(f"{self.index.name}: variable {name} {problem}")
        return dtype

    def _stored(self, name: str, variable: Variable) -> np.ndarray:
        """A variable's bytes."""
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
            # "c": what is written to becomes a copy in memory
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
    """The values of a protocol buffer by the number of their field: integers, or bytes."""
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
    """The last value of a field; 0, which is not written, where there is none."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no integer")
    return value


__all__ = ["Bundle", "Variable"]
