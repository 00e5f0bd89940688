"""Reads a sorted table, the file format of LevelDB that TensorFlow uses for a checkpoint's index.

The file consists of blocks of entries, whose keys omit the prefix that they share with the previous
key; an index block with the locations of the blocks; and a footer with the location of the index
block. Every block has a checksum.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..extras import require
from .tables import WeightsError

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_BYTES = 48  # two block locations, padding, and the magic number
# Far larger than the index of a language model.
MAX_FILE_BYTES = 1 << 24
MAX_KEY_BYTES = 1 << 12
PIECE = 1 << 24  # bytes of a mapped file that are copied into memory at once


def is_table(path: Path) -> bool:
    """Whether a file ends with the magic number of a sorted table."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(MAGIC)))
        return size >= FOOTER_BYTES and file.read() == MAGIC


def read_table(path: Path) -> dict[bytes, bytes]:
    """
    Read a whole table.

    Raises:
        WeightsError: the file is damaged, compressed, or not a table.
    """
    if not is_table(path):
        raise WeightsError(
            f"{path.name} is not a complete TensorFlow index: it is truncated, or in another "
            "format; copy or download the file again"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise WeightsError(f"{path.name} is an index of more than {MAX_FILE_BYTES} bytes: refused")
    file = path.read_bytes()
    try:
        return dict(_entries(file))
    except (IndexError, ValueError, struct.error) as error:
        raise WeightsError(f"{path.name} is a damaged TensorFlow index: {error}") from error


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at position `at`, seven bits per byte, and the position after it."""
    number = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number has too many bytes")


def masked_crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C of bytes as TensorFlow stores it: rotated, plus a constant."""
    google_crc32c = require("google_crc32c", "convert")
    checksum = 0
    for start in range(0, len(data), PIECE):
        checksum = google_crc32c.extend(checksum, data[start : start + PIECE].tobytes())
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _entries(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys and values of a file; ValueError unless the keys are in rising order."""
    footer = file[-FOOTER_BYTES:]
    _, at = _location(footer, 0)  # of the metaindex block, which TensorFlow does not use
    index, _ = _location(footer, at)
    last = None
    for _, location in _block_entries(_block(file, index)):
        for key, value in _block_entries(_block(file, _location(location, 0)[0])):
            if last is not None and key <= last:
                raise ValueError(f"key {key!r} does not come after {last!r}")
            yield key, value
            last = key


def _location(data: bytes, at: int) -> tuple[slice, int]:
    """Read a block's location in the file at position `at`; also return the next position."""
    start, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return slice(start, start + size), at


def _block(file: bytes, location: slice) -> bytes:
    """Return a block's content, checked by the compression type and checksum after it."""
    if location.stop + 5 > len(file) - FOOTER_BYTES:
        raise ValueError("a block reaches past the end")
    compression, checksum = struct.unpack_from("<BI", file, location.stop)
    checked = np.frombuffer(file, np.uint8)[location.start : location.stop + 1]
    if masked_crc32c(checked) != checksum:
        raise ValueError("a block's checksum differs; copy or download the file again")
    if compression:
        raise ValueError("it is compressed (Snappy), which TensorFlow's own checkpoints never are")
    return file[location]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block, which ends with restart points and their number."""
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    at, end, key = 0, len(block) - 4 * (restarts + 1), b""
    while at < end:
        shared, at = read_varint(block, at)
        added, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or shared + added > MAX_KEY_BYTES or at + added + size > end:
            raise ValueError("an entry reaches past its block")
        key = key[:shared] + block[at : at + added]
        at += added
        yield key, block[at : at + size]
        at += size


__all__ = ["is_table", "masked_crc32c", "read_table", "read_varint"]
