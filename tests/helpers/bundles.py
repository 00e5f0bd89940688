"""Write TensorFlow checkpoints, sound ones and hostile ones."""

import json
import struct
from itertools import takewhile
from pathlib import Path

import numpy as np

from elmo_hf.conversion.bilm_checkpoint import RENAMED
from elmo_hf.conversion.tf_bundle import DTYPES
from elmo_hf.conversion.tf_sorted_table import MAGIC, masked_crc32c
from helpers.originals import WORDS


def checkpoint_name(name: str) -> str:
    """A variable's name, from that of the HDF5 format: the table of names, backwards."""
    name = "lm/" + name
    for theirs, ours in reversed(RENAMED):
        name = name.replace(ours, theirs)
    return name


def write_checkpoint(
    folder: Path, made_of: dict, arrays: dict[str, np.ndarray], vocab: bool = False, step: int = 7
) -> Path:
    """What bilm-tf's training leaves behind: weights, accumulators and counters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(made_of))
    prefix = folder / f"model.ckpt-{step}"
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "/data/run 1/{prefix.name}"\n')
    prefix.with_name(prefix.name + ".meta").write_bytes(b"\x0a\x00graph")
    weights = {checkpoint_name(name): array for name, array in arrays.items()}
    slots = {f"{name}/Adagrad": np.ones_like(array) for name, array in weights.items()}
    counters = {"global_step": np.float32(0), "train_perplexity": np.float32(9)}
    write_bundle(prefix, weights | slots | counters)
    if vocab:
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def write_bundle(
    prefix: Path, variables: dict[str, np.ndarray], claims: dict | None = None, shards: int = 2
) -> Path:
    """Write index and data; `claims` are fields (by number) said of every variable instead."""
    table, data = {b"": field(1, shards)}, [b""] * shards
    for number, name in enumerate(sorted(variables)):
        array, shard = np.asarray(variables[name]), number % shards
        content = array.tobytes()
        entry = {
            1: next(n for n, dtype in DTYPES.items() if array.dtype == dtype),
            2: b"".join(field(2, field(1, size)) for size in array.shape),
            3: shard,
            4: len(data[shard]),
            5: len(content),
            6: struct.pack("<I", masked_crc32c(np.frombuffer(content, np.uint8))),
        } | (claims or {})
        table[name.encode()] = b"".join(field(n, value) for n, value in entry.items())
        data[shard] += content
    for shard, content in enumerate(data):
        name = f"{prefix.name}.data-{shard:05d}-of-{shards:05d}"
        prefix.with_name(name).write_bytes(content)
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(sorted_table(table))
    return index


def field(number: int, value: int | bytes) -> bytes:
    """A protocol buffer's field; number 6 of an entry, its checksum, has four bytes always."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if number == 6:
        return varint(number << 3 | 5) + value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def sorted_table(table: dict[bytes, bytes], compression: int = 0, entries: int = 5) -> bytes:
    """A file of the table's entries in the order given, a few in each block."""
    file, index = b"", {}
    items = list(table.items())
    for start in range(0, len(items), entries):
        group = dict(items[start : start + entries])
        file, index[list(group)[-1]] = add_block(file, block(group), compression)
    file, extensions = add_block(file, block({}))
    file, blocks = add_block(file, block(index))
    return file + (extensions + blocks).ljust(40, b"\0") + MAGIC


def block(entries: dict[bytes, bytes]) -> bytes:
    content, before = b"", b""
    for key, value in entries.items():
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, key))))  # noqa: B905
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        before = key
    return content + struct.pack("<II", 0, 1)


def add_block(file: bytes, content: bytes, compression: int = 0) -> tuple[bytes, bytes]:
    """The file with a block more, and the block's place."""
    place = varint(len(file)) + varint(len(content))
    checked = content + bytes([compression])
    checksum = masked_crc32c(np.frombuffer(checked, np.uint8))
    return file + checked + struct.pack("<I", checksum), place
