# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Lists the original files of a model, in a folder or unpacked from an archive, with their kinds.

A kind is a kind of file, such as HDF5. The modules of the formats decide which model format the
files belong to.
"""

import json
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, NoReturn

from .alignment import is_alignment
from .tables import WeightsError
from .tf_sorted_table import is_table
from .torch_files import SUFFIXES, is_torch_file

# Kinds of files.
HDF5, PYTORCH, INDEX, INDEX_PART = "HDF5", "PyTorch", "TensorFlow index", "part of a checkpoint"
ALIGNMENT, OPTIONS, VOCABULARY, OTHER = "alignment", "options", "vocabulary", "other"
WEIGHTS = {HDF5, PYTORCH, INDEX, INDEX_PART}

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
DATA_FILE = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
STATE_FILE = "checkpoint"  # names the latest of a folder's TensorFlow checkpoints
MAX_JSON_BYTES = 1 << 20
JSON_SUFFIXES = {".json", ".options_file"}  # in AllenNLP archives: fta/model...options_file
UNPACKED = JSON_SUFFIXES | {".txt", ".dic"} | SUFFIXES
# Weights hardly compress, so an archive that expands a hundredfold is a decompression bomb. The
# released archives have fewer than a hundred members.
MAX_EXPANSION = 100
MAX_MEMBERS = 10_000


@dataclass(frozen=True)
class Files:
    """
    The files of a source, in which the formats search for a model.

    Attributes:
        kinds: the kind of every file. If the user passed the weights, all other files of weights
            are left out.
        options, vocab: files that the user passed; None to search in `kinds`.
        prefix: name prefix of the ELMo that the user chose in an AllenNLP model.
    """

    kinds: Mapping[Path, str]
    options: Path | None = None
    vocab: Path | None = None
    prefix: str | None = None

    def of_kind(self, kind: str) -> list[Path]:
        """Return the files of a kind, in alphabetical order."""
        return [path for path, its_kind in self.kinds.items() if its_kind == kind]

    def one(self, what: str, candidates: list[Path]) -> Path:
        """Return the only candidate for `weights` or `options`; else WeightsError."""
        if len(candidates) != 1:
            raise self.unclear(what, candidates)
        return candidates[0]

    def find_options(self, needed: bool) -> Path | None:
        """Return options.json, if any; WeightsError for several, or for none if `needed`."""
        found = self.of_kind(OPTIONS)
        return self.options or (self.one("options", found) if found or needed else None)

    def find_vocab(self) -> Path | None:
        """Return the vocabulary that the user passed, else the one found; WeightsError: several."""
        found = self.of_kind(VOCABULARY)
        return self.vocab or (self.one("vocab", found) if found else None)

    @staticmethod
    def unclear(what: str, candidates: list[Path]) -> WeightsError:
        """Make the error for no candidate or several."""
        expected = {
            "weights": "HDF5 file of weights, or one TensorFlow checkpoint (.index and .data "
            "files), or one PyTorch state dict",
            "options": "options.json with an lstm section",
            "vocab": "vocabulary, a .txt file with vocab in its name",
        }[what]
        names = ", ".join(path.name for path in candidates)
        found = f"several candidates ({names})" if candidates else "none"
        return WeightsError(f"expected one {expected}, found {found}; pass it with --{what} FILE")


@contextmanager
def open_source(
    source: Path | None,
    options: Path | None = None,
    weights: Path | None = None,
    vocab: Path | None = None,
    prefix: str | None = None,
) -> Iterator[Files]:
    """
    List the files of a model; files unpacked from an archive exist until the block ends.

    Args:
        source: a folder, a .zip or a .tar archive, compressed or not, or a PyTorch file; None if
            `weights` is set.
        options, weights, vocab: files to use instead of those in `source`.
        prefix: name prefix of one ELMo in an AllenNLP model.

    Raises:
        WeightsError: a file does not exist or cannot be read, or the archive is damaged or unsafe.
    """
    for path in (source, options, weights, vocab):
        if path is not None and not (path.is_file() or (path is source and path.is_dir())):
            problem = "is not a file" if path.exists() else "does not exist"
            raise WeightsError(f"{path} {problem}; pass an original file, a folder or an archive")
    with tempfile.TemporaryDirectory(prefix="elmo-original-") as scratch:
        try:
            kinds = {path: kind_of(path) for path in _files(source, Path(scratch))}
            if weights is not None:
                kinds = {path: kind for path, kind in kinds.items() if kind not in WEIGHTS}
                kinds[weights] = kind_of(weights)
        except OSError as error:
            raise WeightsError(f"{source or weights} cannot be read: {error}") from error
        yield Files(kinds, options, vocab, prefix)


def kind_of(path: Path) -> str:
    """Return the kind of a file, from its content if possible, else from its name."""
    with path.open("rb") as file:
        start = file.read(len(HDF5_SIGNATURE))
    if start == HDF5_SIGNATURE:
        return HDF5
    if is_torch_file(path):
        return ALIGNMENT if is_alignment(path) else PYTORCH
    if is_part(path.name):
        # A truncated index counts as an index, so that reading it raises a clear error.
        data = [m[1] for p in path.parent.iterdir() if (m := DATA_FILE.fullmatch(p.name))]
        is_index = path.suffix == ".index" and path.stem in data
        return INDEX if is_index or is_table(path) else INDEX_PART
    if path.suffix in JSON_SUFFIXES and _is_options(path):
        return OPTIONS
    if path.suffix == ".txt" and "vocab" in path.name.lower():
        return VOCABULARY
    return INDEX if is_table(path) else OTHER


def is_part(name: str) -> bool:
    """Whether a file is a part of a TensorFlow checkpoint, by its name: index, data or state."""
    return name.endswith(".index") or name == STATE_FILE or bool(DATA_FILE.fullmatch(name))


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a JSON object.

    Raises:
        WeightsError: the file is too large, not JSON, not an object, or holds Infinity or NaN,
            which JSON does not allow and no option of a model can be.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path.name} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} is a JSON list or value; expected an object of options")
    return content


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse_number(text)


def _is_options(path: Path) -> bool:
    """Whether a JSON file describes a biLM; also if it is damaged, so that this is reported."""
    try:
        return "lstm" in read_json(path)
    except WeightsError:
        return "options" in path.name


def _files(source: Path | None, scratch: Path) -> list[Path]:
    if source is None:
        return []
    if source.is_dir():
        found = (path for path in source.rglob("*") if path.is_file())
        return sorted(path for path in found if not _is_macos_extra(path))
    if is_torch_file(source):
        return [source]
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                members = [(m.filename, m.file_size) for m in archive.infolist() if not m.is_dir()]
                return sorted(_unpack(source, scratch, members, archive.open))
        if tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                regular = ((m.name, m.size) for m in tar if m.isreg())
                return sorted(_unpack(source, scratch, regular, tar.extractfile))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise WeightsError(f"{source} is a damaged archive or too large: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
        raise WeightsError(f"{source} cannot be unpacked: {error}") from error
    raise WeightsError(
        f"{source} is neither a folder nor a zip or tar archive; for single files pass "
        "--options OPTIONS.json --weights WEIGHTS.hdf5"
    )


def _is_macos_extra(path: PurePath) -> bool:
    """Whether macOS wrote the file beside another one, for attributes of that."""
    return path.name.startswith("._") or "__MACOSX" in path.parts


def _unpack(
    source: Path, scratch: Path, members: Iterable[tuple[str, int]], open_member: Any
) -> list[Path]:
    """Unpack the files that can belong to a model, after a check of all names and sizes."""
    names: list[str] = []
    budget = MAX_JSON_BYTES + MAX_EXPANSION * source.stat().st_size
    claimed = 0
    for name, size in members:
        if _is_macos_extra(PurePosixPath(name)):
            continue
        names.append(name)
        claimed += size
        if _leaves_folder(name):
            raise WeightsError(f"{source} holds {name!r}, a path outside the archive: not unpacked")
        if claimed > budget or len(names) > MAX_MEMBERS:
            raise _too_large(source)
    unpacked = []
    folders: dict[PurePosixPath, int] = {}
    for name in names:
        path = PurePosixPath(name)
        with open_member(name) as member:
            start = member.read(len(HDF5_SIGNATURE))
            wanted = path.suffix in UNPACKED or is_part(path.name)
            if start != HDF5_SIGNATURE and not wanted:
                continue
            # Each folder gets a number as its name, which keeps the parts of a checkpoint together,
            # and names that differ only by case cannot overwrite each other.
            number = folders.setdefault(path.parent, len(folders))
            target = scratch / str(number) / path.name
            target.parent.mkdir(exist_ok=True)
            with target.open("xb") as file:
                file.write(start)
                budget -= _copy(member, file, budget, source)
            unpacked.append(target)
    return unpacked


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1])


def _copy(member: IO[bytes], file: IO[bytes], budget: int, source: Path) -> int:
    copied = 0
    while chunk := member.read(1 << 20):
        copied += len(chunk)
        if copied > budget:
            raise _too_large(source)
        file.write(chunk)
    return copied


def _too_large(source: Path) -> WeightsError:
    return WeightsError(
        f"{source} unpacks to more than {MAX_EXPANSION} times its size or to more than "
        f"{MAX_MEMBERS} files, unlike any archive of weights: not unpacked"
    )


__all__ = [
    "ALIGNMENT",
    "HDF5",
    "INDEX",
    "INDEX_PART",
    "PYTORCH",
    "Files",
    "open_source",
    "read_json",
]
