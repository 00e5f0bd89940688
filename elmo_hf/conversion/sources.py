"""Find a model's original files in a folder, a zip or a tar archive, by what they contain."""

import json
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..extras import require
from .alignment import is_alignment
from .bilm_checkpoint import is_checkpoint, is_part, latest
from .bilm_hdf5 import WeightsError
from .tfhub import is_module
from .torch_files import SUFFIXES, is_torch_file

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_OPTIONS_BYTES = 1 << 20
OPTIONS = {".json", ".options_file"}  # AllenNLP packs them as fta/model...options_file
UNPACKED = OPTIONS | {".txt", ".dic"} | SUFFIXES
# Weights are noise and hardly compress: what grows a hundredfold is made to fill the disk.
MAX_EXPANSION = 100


@dataclass(frozen=True)
class Original:
    """The files of one original model; `vocab` is None where there is none.

    `weights` is an HDF5 file, the index of a TensorFlow checkpoint, or a PyTorch file; only the
    latter and a TF-Hub module need no `options`. `files` are all that were found.
    """

    weights: Path
    options: Path | None
    vocab: Path | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def read_options(self) -> dict[str, Any]:
        """Return what options.json holds; raise WeightsError if that is no JSON object."""
        assert self.options is not None
        options = _parse_json(self.options)
        if not isinstance(options, dict):
            raise WeightsError(f"{self.options.name} is no JSON object of options")
        return options


@contextmanager
def open_source(
    source: Path | None,
    options: Path | None = None,
    weights: Path | None = None,
    vocab: Path | None = None,
) -> Iterator[Original]:
    """
    Give the files of an original model; what has to be unpacked is gone afterwards.

    Args:
        source: a folder, a .zip or a .tar archive, compressed or not; None if the files are named.
        options, weights, vocab: files that are named instead of looked for.

    Raises:
        WeightsError: there is no such file, the archive is damaged or unsafe, or it is not clear
            which of its files are meant.
    """
    for path in (source, options, weights, vocab):
        if path is not None and not path.exists():
            raise WeightsError(f"{path} does not exist")
    with tempfile.TemporaryDirectory(prefix="elmo-original-") as scratch:
        files = _files(source, Path(scratch)) if source else []
        weights, notes = (weights, ()) if weights else _find_weights(files)
        found = [path for path in files if _is_options(path)]
        needs_options = not (is_torch_file(weights) or is_module(weights) or is_vectors(weights))
        yield Original(
            weights=weights,
            options=options or (_one("options", found) if found or needs_options else None),
            vocab=vocab or _vocabulary(files),
            notes=notes,
            files=tuple(files),
        )


def _files(source: Path, scratch: Path) -> list[Path]:
    if source.is_dir():
        return sorted(path for path in source.rglob("*") if path.is_file())
    if is_torch_file(source):
        return [source]
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
                return _unpack(source, scratch, names, archive.open)
        if tarfile.is_tarfile(source):
            with tarfile.open(source) as archive:
                names = [member.name for member in archive.getmembers() if member.isreg()]
                return _unpack(source, scratch, names, archive.extractfile)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise WeightsError(f"{source} is a damaged archive: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
        raise WeightsError(f"{source} cannot be unpacked: {error}") from error
    raise WeightsError(
        f"{source} is neither a folder nor a zip or tar archive. For single files use "
        "--options OPTIONS.json --weights WEIGHTS.hdf5"
    )


def _unpack(source: Path, scratch: Path, names: list[str], open_member: Any) -> list[Path]:
    """Copy the members that a model can consist of, each checked before anything is written."""
    for name in names:
        if _leaves_folder(name):
            raise WeightsError(f"{source} holds {name!r}, a path outside the archive: not unpacked")
    budget = MAX_OPTIONS_BYTES + MAX_EXPANSION * source.stat().st_size
    unpacked = []
    folders: dict[PurePosixPath, int] = {}
    for name in names:
        path = PurePosixPath(name)
        with open_member(name) as member:
            start = member.read(len(HDF5_SIGNATURE))
            wanted = path.suffix in UNPACKED or is_part(path.name)
            if start != HDF5_SIGNATURE and not wanted:
                continue
            # The parts of a checkpoint stay together, in folders that are numbered: names that
            # differ by case only must not overwrite each other.
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
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0]


def _copy(member: IO[bytes], file: IO[bytes], budget: int, source: Path) -> int:
    copied = 0
    while chunk := member.read(1 << 20):
        copied += len(chunk)
        if copied > budget:
            raise WeightsError(
                f"{source} unpacks to more than {MAX_EXPANSION} times its size, which weights "
                "never do: not unpacked"
            )
        file.write(chunk)
    return copied


def _find_weights(files: list[Path]) -> tuple[Path, tuple[str, ...]]:
    """The weights among files, and notes: of several kinds the one that holds most."""
    hdf5 = [path for path in files if _is_hdf5(path)]
    torch_files = [path for path in files if is_torch_file(path) and not is_alignment(path)]
    if trained := _trained(torch_files):
        return _one("weights", trained), tuple(
            f"{path.name} is left out for {trained[0].name}, which may be trained further; "
            "name it with --weights to convert it instead"
            for path in hdf5
        )
    checkpoints = latest([path for path in files if is_checkpoint(path)])
    if checkpoints:
        return _one("weights", checkpoints), tuple(
            f"{path.name} is left out for the checkpoint, which may hold the softmax too; name it "
            f"with --weights to convert it instead"
            for path in hdf5
        )
    with_lstm = [path for path in hdf5 if _holds_lstm(path)] if len(hdf5) > 1 else []
    return _one("weights", with_lstm or hdf5 or torch_files), ()


def _trained(torch_files: list[Path]) -> list[Path]:
    """ELMoForManyLangs' file that stands for all, else AllenNLP's, the best of a training."""
    allennlp = [path for path in torch_files if path.suffix == ".th"]
    best = [path for path in allennlp if path.name in ("weights.th", "best.th")]
    return [path for path in torch_files if path.name == "token_embedder.pkl"] or best or allennlp


def _holds_lstm(path: Path) -> bool:
    h5py = require("h5py", "convert")
    try:
        with h5py.File(path, "r") as file:
            return not {"RNN_0", "RNN", "rnn"}.isdisjoint(file)
    except (OSError, RuntimeError):
        return False


def is_vectors(path: Path) -> bool:
    """Whether an HDF5 file holds vectors, of words or of sentences, and no model."""
    if not _is_hdf5(path):
        return False
    h5py = require("h5py", "convert")
    try:
        with h5py.File(path, "r") as file:
            names = set(file) - {"sentence_to_index"}
    except (OSError, RuntimeError):
        return False
    of_sentences = bool(names) and all(name.isdigit() for name in names)
    return of_sentences or names == {"embedding"}


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def _is_options(path: Path) -> bool:
    if path.suffix not in OPTIONS or path.stat().st_size > MAX_OPTIONS_BYTES:
        return False
    try:
        options = _parse_json(path)
    except WeightsError:
        return path.name.startswith("options")
    return isinstance(options, dict) and "lstm" in options


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path.name} is no readable JSON: {error}") from error


def _vocabulary(files: list[Path]) -> Path | None:
    found = [path for path in files if path.suffix == ".txt" and "vocab" in path.name.lower()]
    return found[0] if len(found) == 1 else None


def _one(kind: str, found: list[Path]) -> Path:
    if len(found) == 1:
        return found[0]
    what = {
        "weights": "HDF5 file of weights, or one TensorFlow checkpoint (.index and .data files), "
        "or one PyTorch state dict",
        "options": "options.json with an lstm section",
    }[kind]
    names = ", ".join(path.name for path in found)
    problem = f"several candidates ({names})" if found else "none"
    raise WeightsError(f"expected one {what}, found {problem}; name it with --{kind} FILE")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """
    Give a folder to fill that takes its name only when it is complete.

    Raises:
        WeightsError: the name is taken by something that is not an empty folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"{output} exists already; name a new folder, or remove it first")
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(output)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


__all__ = ["Original", "is_vectors", "new_folder", "open_source"]
