"""Download a published checkpoint that you name, convert it to a Hub folder, and verify it."""

import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import __version__
from .convert import RECORD, convert
from .originals import describe
from .outputs import write_json
from .registry import Checkpoint, SourceFile
from .tables import WeightsError

TIMEOUT_SECONDS = 60
AGAIN = "what has arrived is kept: the same command goes on from there"

bar = partial(tqdm, unit="B", unit_scale=True, unit_divisor=1000)


def fetch(checkpoint: Checkpoint, output: Path, keep: bool = False) -> dict[str, Any]:
    """
    Download a checkpoint's files beside the output, convert them, and verify the result.

    An interrupted download goes on at the next call where it stopped, if the server's file is
    still the same.

    Args:
        checkpoint: an entry of the registry.
        output: folder to write; it appears complete or not at all.
        keep: leave the original files in the folder OUTPUT-original.

    Returns:
        What is stored as conversion.json: the conversion's record, the checkpoint's name, and
        each downloaded file's address, size and sha256.

    Raises:
        WeightsError: a file has no known address, does not arrive, has another size or sha256
            than the registry says, or does not convert.
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
    downloads = [download(file, originals) for file in checkpoint.files]
    single = len(checkpoint.files) == 1
    try:
        record = convert(originals / checkpoint.files[0].name if single else originals, output)
    except WeightsError as error:
        raise WeightsError(f"{error} (what was downloaded is kept in {originals})") from error
    record |= {"checkpoint": checkpoint.name, "downloads": [asdict(d) for d in downloads]}
    write_json(output / f"{RECORD}.new", record)
    os.replace(output / f"{RECORD}.new", output / RECORD)
    if not keep:
        shutil.rmtree(originals)
    return record


def download(file: SourceFile, folder: Path) -> SourceFile:
    """
    Get a file, unless it is there already, and check it.

    Returns:
        The file with the size and sha256 that it has.

    Raises:
        WeightsError: it does not arrive complete, or is not what the registry says.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if not target.exists():
        try:
            _receive(file, part)
        except urllib.error.HTTPError as error:
            raise WeightsError(f"{file.address} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise WeightsError(f"{file.address} did not arrive: {error}; {AGAIN}") from error
        os.replace(part, target)
        _validator_of(part).unlink(missing_ok=True)
    found = SourceFile(file.address, target.stat().st_size, describe(target)["sha256"])
    for kind in ("size", "sha256"):
        expected, actual = getattr(file, kind), getattr(found, kind)
        if expected is not None and actual != expected:
            target.unlink()
            raise WeightsError(
                f"{file.address} has {kind} {actual}, but {expected} is registered: removed. "
                "Somebody has changed the file, or it was damaged on its way"
            )
    return found


def _receive(file: SourceFile, part: Path) -> None:
    """Append what is missing of a file; begin again where the server's file is another one."""
    validator = _validator_of(part)
    start = part.stat().st_size if part.exists() and validator.exists() else 0
    headers = {"User-Agent": f"elmo_hf/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator.read_text()}
    request = urllib.request.Request(file.address, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: there is nothing behind what has arrived
            raise
        validator.unlink()
        return _receive(file, part)
    with response:
        if response.status != 206:
            start = 0
        total = _total_size(response.headers, start)
        if file.size is not None and total not in (None, file.size):
            raise OSError(f"it has {total} bytes, but {file.size} are registered")
        _remember(response.headers, validator)
        _copy(response, part, start, total)
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size} of {total} bytes are here")


def _validator_of(part: Path) -> Path:
    """Where the sign is kept by which the server knows whether its file is still the same."""
    return part.with_name(f"{part.name}.validator")


def _remember(headers: Mapping[str, str], validator: Path) -> None:
    etag = headers.get("ETag", "")
    sign = etag if etag.startswith('"') else headers.get("Last-Modified")
    if sign:
        validator.write_text(sign)
    else:
        validator.unlink(missing_ok=True)


def _total_size(headers: Mapping[str, str], start: int) -> int | None:
    """The whole file's bytes as the server tells them; OSError if its part starts elsewhere."""
    if not start:
        length = headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(start):
        raise OSError(f"asked for the bytes from {start}, the server sends {span or 'no range'}")
    return int(total) if total.isdigit() else None


def _copy(response: Any, part: Path, start: int, total: int | None) -> None:
    name = part.name.removesuffix(".part")
    with (
        part.open("ab" if start else "wb") as file,
        bar(desc=name, initial=start, total=total) as progress,
    ):
        while chunk := response.read(1 << 18):
            file.write(chunk)
            progress.update(len(chunk))
