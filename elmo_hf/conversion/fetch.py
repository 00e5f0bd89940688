"""Download a published checkpoint that the user names, convert it to a folder, and verify it."""

import contextlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from .. import __version__
from .checksums import checksum_file, keep_checksum, known_checksum
from .convert import convert
from .originals import describe
from .records import write_record
from .registry import Checkpoint, SourceFile
from .tables import WeightsError

TIMEOUT_SECONDS = 60
MAX_BYTES = 8_000_000_000  # more than any known file; the limit where none is registered
REGISTERED, SAME, FIRST = "registered", "same as the first download", "first download"

bar = partial(tqdm, unit="B", unit_scale=True, unit_divisor=1000)


@dataclass(frozen=True)
class Download:
    """
    A file that has arrived.

    Args:
        address, size, sha256: where it came from, its bytes, their checksum.
        trust: what the checksum was compared with: the registry's ("registered"), that of the
            first download on this machine ("same as the first download"), or nothing, this being
            the first ("first download").
    """

    address: str
    size: int
    sha256: str
    trust: str


def fetch(checkpoint: Checkpoint, output: Path, keep: bool = False) -> dict[str, Any]:
    """
    Download a checkpoint's files beside the output, convert them, and verify the result.

    Files that have arrived are kept if a later file or the conversion fails, so that the next
    call needs not fetch them again.

    Args:
        checkpoint: an entry of the registry.
        output: folder to write; it appears complete or not at all.
        keep: leave the original files in the folder OUTPUT-original.

    Returns:
        What is stored as conversion.json: the conversion's record, the checkpoint's name, and
        each downloaded file's address, size, sha256 and trust.

    Raises:
        WeightsError: a file has no known address, does not arrive, has another size or sha256
            than the registry or its first download, or does not convert.
    """
    if not checkpoint.files:
        raise WeightsError(
            f"no address of {checkpoint.name}'s files is known; get them from {checkpoint.page}, "
            f"then: elmo-hf convert FOLDER_OR_ARCHIVE {output}"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"{output} exists already; name a new folder, or remove it first")
    originals = output.with_name(f"{output.name}-original")
    originals.mkdir(parents=True, exist_ok=True)
    try:
        downloads = [download(file, originals) for file in checkpoint.files]
    except BaseException:
        with contextlib.suppress(OSError):
            originals.rmdir()  # only if nothing has arrived
        raise
    single = len(checkpoint.files) == 1
    try:
        record = convert(originals / checkpoint.files[0].name if single else originals, output)
    except WeightsError as error:
        raise WeightsError(f"{error} (what was downloaded is kept in {originals})") from error
    record["notes"] += [note for each in downloads for note in _keep(each)]
    record |= {"checkpoint": checkpoint.name, "downloads": [asdict(each) for each in downloads]}
    record = write_record(output, record)
    if not keep:
        shutil.rmtree(originals)
    return record


def download(file: SourceFile, folder: Path) -> Download:
    """
    Get a file, unless it is there already, and check it.

    An interrupted download goes on at the next call where it stopped, if the server can tell that
    its file is still the same.

    Raises:
        WeightsError: it does not arrive complete, or is not what the registry says or what the
            address gave the first time.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if not target.exists():
        try:
            _receive(file, part)
        except urllib.error.HTTPError as error:
            raise WeightsError(f"{file.address} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            message = f"{file.address} did not arrive: {error}; {_next_time(part)}"
            raise WeightsError(message) from error
        part.replace(target)
        _validator_of(part).unlink(missing_ok=True)
    return _check(file, target)


def _check(file: SourceFile, target: Path) -> Download:
    """Compare a file with the registry, or with its first download; remove it if it differs."""
    size, sha256 = target.stat().st_size, describe(target)["sha256"]
    first = None if file.sha256 else known_checksum(file.address)
    if file.size not in (None, size):
        problem = f"has size {size}, but {file.size} is registered"
    elif file.sha256 not in (None, sha256):
        problem = f"has sha256 {sha256}, but {file.sha256} is registered"
    elif first not in (None, sha256):
        kept = checksum_file(file.address)
        problem = (
            f"has sha256 {sha256}, but its first download on this machine had {first}; if its "
            f"publisher announced another file, delete {kept} and fetch again"
        )
    else:
        trust = REGISTERED if file.sha256 else SAME if first else FIRST
        return Download(file.address, size, sha256, trust)
    target.unlink()
    raise WeightsError(
        f"{file.address} {problem}. It was removed: somebody has changed the file, or it was "
        "damaged on its way"
    )


def _keep(file: Download) -> list[str]:
    """Keep a first download's checksum; return notes for the record."""
    notes = []
    if urlsplit(file.address).scheme == "http":
        notes.append(f"{file.address} came without encryption: it may have been changed on its way")
    if file.trust == FIRST:
        try:
            keep_checksum(file.address, file.sha256)
        except OSError as error:
            notes.append(f"the checksum of {file.address} could not be kept here: {error}")
    return notes


# --- One request ---


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the same scheme, or to https, and no others."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in (old, "https"):
            raise WeightsError(f"{req.full_url} redirects from {old} to {newurl}: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(file: SourceFile, part: Path) -> None:
    """Append what is missing of a file; begin again where the server's file is another one."""
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
        if error.code != 416 or not start:  # 416: there is nothing behind what has arrived
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
        raise OSError(f"{part.stat().st_size} of {total} bytes are here")


def _check_size(file: SourceFile, announced: int | None) -> None:
    """Raise WeightsError where a server announces another size, or an absurd one."""
    if announced is None:
        return
    if file.size not in (None, announced):
        raise WeightsError(
            f"{file.address} has {announced} bytes, but {file.size} are registered: not fetched"
        )
    if announced > MAX_BYTES:
        raise WeightsError(f"{file.address} has {announced} bytes, more than any known weights")


def _validator_of(part: Path) -> Path:
    """Holds the ETag or date by which the server knows whether its file is still the same."""
    return part.with_name(f"{part.name}.validator")


def _next_time(part: Path) -> str:
    """What the next call will do with a part; one that cannot be continued is removed."""
    if part.exists() and _validator_of(part).exists():
        return "what has arrived is kept: the same command goes on from there"
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
    """The whole file's bytes as the server states them; OSError if its part starts elsewhere."""
    if not start:
        length = headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(start):
        raise OSError(f"asked for the bytes from {start}, the server sends {span or 'no range'}")
    return int(total) if total.isdigit() else None


def _copy(response: IO[bytes], part: Path, start: int, total: int | None, limit: int) -> None:
    """Append a response to a part; WeightsError, without the part, at a byte beyond the limit."""
    name, size = part.name.removesuffix(".part"), start
    with (
        part.open("ab" if start else "wb") as file,
        bar(desc=name, initial=start, total=total) as progress,
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
