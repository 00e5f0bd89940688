"""The CRC-32C checksum, which TensorFlow's files carry and Python's library lacks, in NumPy.

A remainder is linear over bits, so data fold: a row of words, moved past the next row, is added
(exclusive or) to that row, until one row is left. Moving is two look-ups a word.
"""

from functools import lru_cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
ROWS = 1 << 16, 1 << 9  # bytes of a row: for large data, and for what that leaves
PIECE = 1 << 24  # bytes that are looked at together: how much of a mapped file is in memory


def crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C of an array of bytes (uint8, one axis); a GB takes about a second."""
    state = 0xFFFFFFFF
    for start in range(0, len(data), PIECE):
        state = _advance(state, data[start : start + PIECE])
    return state ^ 0xFFFFFFFF


def masked_crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C as TensorFlow and LevelDB store it: rotated, and a constant added."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _advance(state: int, data: np.ndarray) -> int:
    """The register after some more bytes."""
    for row in ROWS:
        if len(data) >= 2 * row:
            data, state = _fold(state, data, row), 0
    table = _byte_table()
    for byte in data.tolist():
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state


def _fold(state: int, data: np.ndarray, row: int) -> np.ndarray:
    """Fewer than two rows of bytes that have, after a register of 0, the same remainder."""
    whole = len(data) // row * row
    rows = data[:whole].view("<u4").reshape(-1, row // 4)
    low, high = _shift_tables(row)
    folded = rows[0].copy()
    folded[0] ^= state
    for following in rows[1:]:
        folded = low[folded & 0xFFFF] ^ high[folded >> 16] ^ following
    return np.concatenate([folded.view(np.uint8), data[whole:]])


@lru_cache
def _shift_tables(distance: int) -> tuple[np.ndarray, np.ndarray]:
    """The register `distance` zero bytes (a power of 2) later, by its low and its high half."""
    table = _byte_table()
    images = [1 << bit for bit in range(32)]  # of each bit of the register
    images = [table[image & 0xFF] ^ image >> 8 for image in images]  # one zero byte later
    while distance > 1:
        images = [_apply(images, image) for image in images]
        distance //= 2
    halves = images[:16], images[16:]
    tables = []
    for half in halves:
        entries = np.zeros(1, np.uint32)
        for image in half:
            entries = np.concatenate([entries, entries ^ np.uint32(image)])
        tables.append(entries)
    return tables[0], tables[1]


def _apply(images: list[int], register: int) -> int:
    result = 0
    for bit, image in enumerate(images):
        if register >> bit & 1:
            result ^= image
    return result


@lru_cache
def _byte_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [entry >> 1 ^ POLYNOMIAL * (entry & 1) for entry in table]
    return table


__all__ = ["crc32c", "masked_crc32c"]
