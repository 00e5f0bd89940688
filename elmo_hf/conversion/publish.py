"""Publish a verified conversion on the Hugging Face Hub, with its card and its code."""

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from .. import __version__
from ..model.configuration_elmo import AUTO_MAP
from .cards import MARKER, render_card
from .originals import describe
from .records import RECORD, read_record
from .registry import REGISTRY, Checkpoint, find, read_registry
from .tables import WeightsError

CARD = "README.md"
# The base of the Hub's errors is its HTTP client's, of which there have been several.
NETWORK_ERRORS: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)


@dataclass(frozen=True)
class Plan:
    """
    What will be uploaded.

    Args:
        card: the text of README.md; None where the folder holds a card of the user's own.
        left_out: files of the folder that the conversion did not write.
        checksums: the sha256 of every file but the card, as they were when they were checked.
    """

    folder: Path
    repo_id: str
    private: bool
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    card: str | None
    notes: tuple[str, ...]
    checksums: Mapping[str, str]

    def __str__(self) -> str:
        """Say what would be done, a line for each file."""
        sizes = {name: self._size(name) for name in self.files}
        private = ", private" if self.private else ""
        lines = [f"create {self.repo_id}{private}, unless it exists"]
        lines += [f"upload {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB"]
        lines += [f"  {name}  {size:,} bytes" for name, size in sizes.items()]
        lines += [f"leave out {name}, which the conversion did not write" for name in self.left_out]
        lines += [f"note: {note}" for note in self.notes]
        if self.card is None:
            return "\n".join([*lines, f"keep {CARD}, a card of your own"])
        return "\n".join([*lines, f"write {CARD}:", "", self.card])

    def _size(self, name: str) -> int:
        if name == CARD and self.card is not None:
            return len(self.card.encode())
        return (self.folder / name).stat().st_size


def prepare(
    folder: Path,
    repo_id: str,
    private: bool = False,
    checkpoint: str | None = None,
    facts: Path = REGISTRY,
) -> Plan:
    """
    Check a converted folder and say what will be uploaded; touches neither folder nor network.

    Args:
        folder: what `elmo-hf convert` or `elmo-hf fetch` wrote.
        repo_id: the Hub's name for it, `NAME` or `NAMESPACE/NAME`.
        private: whether only its owners may see it.
        checkpoint: whose facts the card states; None: what conversion.json names, or the only
            one of `facts`.
        facts: a file like checkpoints.toml; model_cards/facts adds to it.

    Raises:
        WeightsError: the folder is not verified, not complete, or not what was verified, or the
            name is not one.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise WeightsError(f"{repo_id!r} is no name for a repository: {error}") from error
    record = read_record(folder)
    check_files(folder, record)
    check_code(folder, record["files"])
    card, notes = None, []
    if not _is_own_card(folder / CARD):
        chosen = _choose(record, checkpoint, facts)
        card = str(render_card(folder, repo_id, chosen, record))
        if chosen.hub_license == "unknown":
            notes.append(f"licence of the weights: {chosen.licence}; their authors may object")
    files = tuple(sorted({*record["files"], RECORD, CARD}))
    others = (path.name for path in folder.iterdir())
    left_out = tuple(sorted(name for name in others if name not in files))
    checksums = {**record["files"], RECORD: describe(folder / RECORD)["sha256"]}
    return Plan(folder, repo_id, private, files, left_out, card, tuple(notes), checksums)


def upload(plan: Plan) -> str:
    """
    Create the repository and upload what the plan names; return the commit's address.

    After an interruption the same call goes on: what the Hub has already is not sent again.

    Raises:
        WeightsError: a file has changed since it was checked, or the repository is public already
            although a private one was asked for.
        OSError and the HTTP client's errors: the Hub refuses, or is out of reach.
    """
    api = HfApi(library_name="elmo_hf", library_version=__version__)
    repo_id = api.create_repo(plan.repo_id, private=plan.private or None, exist_ok=True).repo_id
    if plan.private and not api.model_info(repo_id).private:
        raise WeightsError(f"{repo_id} exists already and is public; make it private first")
    if plan.card is not None:
        new = plan.folder / f".{CARD}.new"
        new.write_text(plan.card, encoding="utf-8")
        os.replace(new, plan.folder / CARD)
    operations = [CommitOperationAdd(name, plan.folder / name) for name in plan.files]
    for operation in operations:
        name = operation.path_in_repo
        if operation.upload_info.sha256.hex() != plan.checksums.get(name) and name != CARD:
            raise _changed(plan.folder / name)
    message = "Publish a verified conversion"
    commit = api.create_commit(repo_id, operations, commit_message=message)
    return str(commit.commit_url)


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise WeightsError unless every verified file is there, byte for byte, and no link."""
    for name in (RECORD, CARD, *record["files"]):
        if (folder / name).is_symlink():
            raise WeightsError(
                f"{folder / name} is a symbolic link, which may lead to any file of this machine; "
                "put the file itself there"
            )
    for name, sha256 in record["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise WeightsError(f"{path} is missing, although {RECORD} names it")
        if describe(path)["sha256"] != sha256:
            raise _changed(path)


def check_code(folder: Path, files: Collection[str] | None = None) -> None:
    """Raise WeightsError unless all of `files`, by default the folder's, open without elmo_hf."""
    files = [path.name for path in folder.iterdir()] if files is None else files
    references: list[str] = []
    for file, names in (("config.json", AUTO_MAP), ("tokenizer_config.json", ["AutoTokenizer"])):
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        auto_map = content.get("auto_map", {})
        missing = [name for name in names if name not in auto_map]
        if missing:
            raise WeightsError(f"{path} has no auto_map for {', '.join(missing)}")
        for value in auto_map.values():
            references += [value] if isinstance(value, str) else value
    needed = {str(name).partition(".")[0] for name in references if name}
    for name in files:
        if name.endswith(".py"):
            text = (folder / name).read_text(encoding="utf-8")
            needed |= set(re.findall(r"^\s*from \.(\w+) import", text, re.M))
    absent = sorted({f"{name}.py" for name in needed}.difference(files))
    if absent:
        raise WeightsError(f"{folder} lacks the source file {absent[0]}, or {RECORD} its name")


def _changed(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is not what was verified: its sha256 differs from {RECORD}'s. Publish a "
        "model of your own with model.push_to_hub and tokenizer.push_to_hub"
    )


def _choose(record: Mapping[str, Any], name: str | None, facts: Path) -> Checkpoint:
    """The checkpoint whose facts the card states."""
    registry = read_registry(facts)
    name = name or record.get("checkpoint") or (next(iter(registry)) if len(registry) == 1 else "")
    if not name:
        raise WeightsError(
            f"{RECORD} does not name the checkpoint; name it with --checkpoint NAME (elmo-hf "
            f"fetch --list), give --facts FILE, or write a {CARD} of your own"
        )
    return find(name, registry)


def _is_own_card(path: Path) -> bool:
    """Whether a card is the user's: ours has the marker as its first line, after its metadata."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return not re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S).lstrip().startswith(MARKER)


def explain(error: BaseException) -> str:
    """What a refusal of the Hub, or a failure of the network, means for the user."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the Hub refuses ({status}); log in with `hf auth login`, or set "
            "HF_TOKEN to a token that may write there"
        )
    return " ".join(str(error).split()) or type(error).__name__
