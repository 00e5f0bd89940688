"""Read a sorted table, the file format of LevelDB that TensorFlow uses for a checkpoint's index.

Blocks of entries, whose keys leave out what they share with the key before; a last block that says
where the blocks are; a footer that says where that one is. Every block has a checksum.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..extras import require
from .tables import WeightsError

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_BYTES = 48  # two places, padding, and the magic number
# Far above what the index of a language model needs.
MAX_FILE_BYTES = 1 << 24
MAX_KEY_BYTES = 1 << 12
PIECE = 1 << 24  # bytes of a mapped file that are copied into memory at a time


def is_table(path: Path) -> bool:
    """Whether a file ends as a sorted table does."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(MAGIC)))
        return size >= FOOTER_BYTES and file.read() == MAGIC


def read_table(path: Path) -> dict[bytes, bytes]:
    """
    Read a whole table.

    Raises:
        WeightsError: the file is damaged, compressed, or no table.
    """
    if not is_table(path):
        raise WeightsError(
            f"{path.name} is no complete TensorFlow index (it does not end as one): it is cut off, "
            "or of another format"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise WeightsError(f"{path.name} is an index of more than {MAX_FILE_BYTES} bytes: refused")
    file = path.read_bytes()
    try:
        return dict(_entries(file))
    except (IndexError, ValueError, struct.error) as error:
        raise WeightsError(f"{path.name} is a damaged TensorFlow index: {error}") from error


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at a place, seven bits a byte, and the place after it."""
    number = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number has too many bytes")


def masked_crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C of bytes as TensorFlow stores it: rotated, and a constant added."""
    google_crc32c = require("google_crc32c", "convert")
    checksum = 0
    for start in range(0, len(data), PIECE):
        checksum = google_crc32c.extend(checksum, data[start : start + PIECE].tobytes())
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _entries(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a file; ValueError unless the keys rise."""
    footer = file[-FOOTER_BYTES:]
    _, at = _place(footer, 0)  # of a block of extensions, which TensorFlow does not use
    blocks, _ = _place(footer, at)
    last = None
    for _, place in _block_entries(_block(file, blocks)):
        for key, value in _block_entries(_block(file, _place(place, 0)[0])):
            if last is not None and key <= last:
                raise ValueError(f"key {key!r} does not come after {last!r}")
            yield key, value
            last = key


def _place(data: bytes, at: int) -> tuple[slice, int]:
    """Where a block is in the file, and where in the data the next number starts."""
    start, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return slice(start, start + size), at


def _block(file: bytes, place: slice) -> bytes:
    """The checked content of a block; after it stand its compression and its checksum."""
    if place.stop + 5 > len(file) - FOOTER_BYTES:
        raise ValueError("a block reaches past the end")
    compression, checksum = struct.unpack_from("<BI", file, place.stop)
    checked = np.frombuffer(file, np.uint8)[place.start : place.stop + 1]
    if masked_crc32c(checked) != checksum:
        raise ValueError("a block's checksum differs; copy or download the file again")
    if compression:
        raise ValueError("it is compressed (Snappy), which TensorFlow's own checkpoints never are")
    return file[place]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; at its end stand restart points, for searching, and how many."""
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
