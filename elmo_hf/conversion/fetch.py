"""Downloads a published checkpoint, converts it to a folder, and verifies it."""

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from .. import __version__
from .checksums import checksum_file, keep_checksum, known_checksum
from .convert import convert
from .originals import describe
from .outputs import check_absent
from .records import write_record
from .registry import Checkpoint, SourceFile
from .tables import WeightsError

TIMEOUT_SECONDS = 60
MAX_BYTES = 8_000_000_000  # more than any known file; the limit if no size is registered
REGISTERED, SAME, FIRST = "registered", "same as the first download", "first download"


@dataclass(frozen=True)
class Download:
    """
    A downloaded file.

    Args:
        address, size, sha256: its address, its number of bytes, and their checksum.
        trust: how the checksum was checked: against the registry ("registered"), against the
            first download on this machine ("same as the first download"), or not at all, because
            this is the first ("first download").
    """

    address: str
    size: int
    sha256: str
    trust: str


def fetch(checkpoint: Checkpoint, output: Path, keep: bool = False) -> dict[str, Any]:
    """
    Download a checkpoint's files to OUTPUT-original, convert them, and verify the result.

    If a later file or the conversion fails, complete files are kept, so that the next call need not
    download them again.

    Args:
        checkpoint: an entry of the registry.
        output: folder to write; on failure it is not created.
        keep: keep the folder OUTPUT-original.

    Returns:
        The content of conversion.json: the conversion's record, the checkpoint's name, and the
        address, size, sha256 and trust of each downloaded file.

    Raises:
        WeightsError: no addresses are known, a download fails, its size or sha256 differs from
            the registry or from its first download, or the conversion fails.
    """
    if not checkpoint.files:
        raise WeightsError(
            f"the addresses of {checkpoint.name}'s files are unknown; get the files from "
            f"{checkpoint.page}, then type: elmo-hf convert FOLDER_OR_ARCHIVE {output}"
        )
    check_absent(output)
    originals = output.with_name(f"{output.name}-original")
    before = _check_originals(originals, checkpoint, output)
    originals.mkdir(parents=True, exist_ok=True)
    try:
        downloads = [download(file, originals) for file in checkpoint.files]
    except BaseException:
        with contextlib.suppress(OSError):
            originals.rmdir()  # only if nothing has arrived
        raise
    source = originals / checkpoint.files[0].name if len(downloads) == 1 else originals
    try:
        record = convert(source, output, word_splitter=checkpoint.word_splitter)
    except WeightsError as error:
        raise WeightsError(f"{error} (the downloaded files are kept in {originals})") from error
    record["notes"] += [note for each in downloads for note in _keep(each)]
    record |= {"checkpoint": checkpoint.name, "downloads": [asdict(each) for each in downloads]}
    record = write_record(output, record)
    if not keep:
        for name in {file.name for file in checkpoint.files} - before:
            (originals / name).unlink()
        with contextlib.suppress(OSError):
            originals.rmdir()  # files that were there before stay
    return record


def _check_originals(folder: Path, checkpoint: Checkpoint, output: Path) -> set[str]:
    """Return the names of the files in the folder; refuse a folder with files of something else."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names = {file.name for file in checkpoint.files}
    parts = {_validator_of(folder / f"{name}.part").name for name in names}
    if foreign := sorted(found - names - parts - {f"{name}.part" for name in names}):
        raise WeightsError(
            f"{folder}, the folder for the downloads of {output.name}, holds {foreign[0]!r}, which "
            f"is no file of {checkpoint.name}; move that folder away, or name another OUTPUT"
        )
    return found & names


def download(file: SourceFile, folder: Path) -> Download:
    """
    Download a file, unless it is in the folder already, and check it.

    The next call resumes an interrupted download, if the server can tell that its file has not
    changed.

    Raises:
        WeightsError: the download is incomplete, or the file differs from the registry or from the
            first download.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    is_new = not target.exists()
    if is_new:
        try:
            _receive(file, part)
        except urllib.error.HTTPError as error:
            raise WeightsError(f"{file.address} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            message = f"{file.address} was not downloaded: {error}; {_next_time(part)}"
            raise WeightsError(message) from error
        part.replace(target)
        _validator_of(part).unlink(missing_ok=True)
    return _check(file, target, is_new)


def _check(file: SourceFile, target: Path, is_new: bool) -> Download:
    """Compare a file with the registry or its first download; remove it if it is new and wrong."""
    size, sha256 = target.stat().st_size, describe(target)["sha256"]
    first = None if file.sha256 else known_checksum(file.address)
    if file.size not in (None, size):
        problem = f"has size {size}, but {file.size} is registered"
    elif file.sha256 not in (None, sha256):
        problem = f"has sha256 {sha256}, but {file.sha256} is registered"
    elif first not in (None, sha256):
        kept = checksum_file(file.address)
        problem = (
            f"has sha256 {sha256}, but its first download on this machine had {first}; if the "
            f"publisher announced a new file, delete {kept} and fetch again"
        )
    else:
        trust = REGISTERED if file.sha256 else SAME if first else FIRST
        return Download(file.address, size, sha256, trust)
    if not is_new:
        raise WeightsError(
            f"{target}, which was there before, {problem}; delete it, and fetch again"
        )
    target.unlink()
    raise WeightsError(
        f"{file.address} {problem}. The download was removed: somebody changed the file, or it was "
        "damaged in transfer"
    )


def _keep(file: Download) -> list[str]:
    """Store the checksum of a first download; return notes for the record."""
    notes = []
    if urlsplit(file.address).scheme == "http":
        notes.append(f"{file.address} is not encrypted: the file may have been changed in transfer")
    if file.trust == FIRST:
        try:
            keep_checksum(file.address, file.sha256)
        except OSError as error:
            notes.append(f"the checksum of {file.address} could not be stored: {error}")
    return notes


# --- One request ---


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Class that follows redirects to the same scheme or to https, and no others."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in (old, "https"):
            raise WeightsError(f"{req.full_url} redirects from {old} to {newurl}: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(file: SourceFile, part: Path) -> None:
    """Download the rest of a file; start again if the server's file has changed."""
    validator = _validator_of(part)
    start = part.stat().st_size if part.exists() and validator.exists() else 0
    headers = {"User-Agent": f"elmo_hf/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator.read_text()}
    request = urllib.request.Request(file.address, headers=headers)
    try:
        opener = urllib.request.build_opener(_SafeRedirects)
        response = opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: the server has no bytes after `start`
            raise
        validator.unlink()
        return _receive(file, part)
    with response:
        if response.status != 206:
            start = 0
        total = _total_size(response.headers, start)
        _check_size(file, total)
        _remember(response.headers, validator)
        _copy(response, part, start, total, file.size or total or MAX_BYTES)
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size} of {total} bytes arrived")


def _check_size(file: SourceFile, announced: int | None) -> None:
    """Raise WeightsError if the server announces a wrong or absurd size."""
    if announced is None:
        return
    if file.size not in (None, announced):
        raise WeightsError(
            f"{file.address} has {announced} bytes, but {file.size} are registered: not downloaded"
        )
    if announced > MAX_BYTES:
        raise WeightsError(f"{file.address} has {announced} bytes, more than any known weights")


def _validator_of(part: Path) -> Path:
    """Return the path of the ETag or date that tells the server whether its file has changed."""
    return part.with_name(f"{part.name}.validator")


def _next_time(part: Path) -> str:
    """Say what the next call does with a partial file; remove it if it cannot be resumed."""
    if part.exists() and _validator_of(part).exists():
        return "this part is kept, and the same command resumes from there"
    part.unlink(missing_ok=True)
    return "the same command starts this file again"


def _remember(headers: Mapping[str, str], validator: Path) -> None:
    etag = headers.get("ETag", "")
    sign = etag if etag.startswith('"') else headers.get("Last-Modified")
    if sign:
        validator.write_text(sign)
    else:
        validator.unlink(missing_ok=True)


def _total_size(headers: Mapping[str, str], start: int) -> int | None:
    """Return the size of the whole file, if stated; OSError if the response starts elsewhere."""
    if not start:
        length = headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(start):
        raise OSError(f"requested the bytes from {start}, the server sends {span or 'no range'}")
    return int(total) if total.isdigit() else None


def _copy(response: IO[bytes], part: Path, start: int, total: int | None, limit: int) -> None:
    """Append a response to a partial file; beyond the limit, remove it and raise WeightsError."""
    name, size = part.name.removesuffix(".part"), start
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True) as progress,
    ):
        while size <= limit and (chunk := response.read(min(1 << 18, limit + 1 - size))):
            file.write(chunk)
            progress.update(len(chunk))
            size += len(chunk)
    if size > limit:
        part.unlink()
        _validator_of(part).unlink(missing_ok=True)
        raise WeightsError(f"{name} has more than the {limit} bytes expected: stopped and removed")


__all__ = ["Download", "download", "fetch"]
