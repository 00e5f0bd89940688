"""Publishes a verified conversion on the Hugging Face Hub, with its card and its code."""

import json
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
from .outputs import write_text
from .records import RECORD, read_record
from .registry import REGISTRY, Checkpoint, find, read_registry
from .tables import WeightsError, one_line

CARD = "README.md"
# HTTP errors of the Hub inherit from its HTTP client, which differs between releases.
NETWORK_ERRORS: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)


@dataclass(frozen=True)
class Plan:
    """
    An upload: the repository and its files.

    Args:
        card: the text of README.md; None if the folder holds the user's own card.
        left_out: files of the folder that the conversion did not write; they are not uploaded.
        checksums: the sha256 of every file except the card, from when the files were checked.
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
        """Describe the upload, one line per file."""
        sizes = {name: self._size(name) for name in self.files}
        private = ", private" if self.private else ""
        lines = [f"create {self.repo_id}{private}, unless it exists"]
        lines += [f"upload {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB"]
        lines += [f"  {name}  {size:,} bytes" for name, size in sizes.items()]
        lines += [f"leave out {name}, which the conversion did not write" for name in self.left_out]
        lines += [f"note: {note}" for note in self.notes]
        if self.card is None:
            return "\n".join([*lines, f"keep {CARD}, your own card"])
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
    Check a converted folder and plan its upload, without writing files or using the network.

    Args:
        folder: a folder written by `elmo-hf convert` or `elmo-hf fetch`.
        repo_id: the repository on the Hub, `NAME` or `NAMESPACE/NAME`.
        private: whether to create a private repository.
        checkpoint: name of the checkpoint that the card describes; default: the one in
            conversion.json, else the only one in `facts`.
        facts: a file like checkpoints.toml; model_cards/facts adds to it.

    Raises:
        WeightsError: the folder is not verified, not complete or changed since the verification, or
            `repo_id` is not a valid name.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise WeightsError(f"{repo_id!r} is not a valid repository name: {error}") from error
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
    Create the repository and upload the plan's files; return the commit's address.

    After an interruption, call it again: files that the Hub already has are not sent again.

    Raises:
        WeightsError: a file has changed since it was checked, or the plan is private but the
            repository exists and is public.
        OSError and the HTTP client's errors: the Hub refuses or cannot be reached.
    """
    api = HfApi(library_name="elmo_hf", library_version=__version__)
    repo_id = api.create_repo(plan.repo_id, private=plan.private or None, exist_ok=True).repo_id
    if plan.private and not api.model_info(repo_id).private:
        raise WeightsError(f"{repo_id} exists and is public; make it private first")
    if plan.card is not None:
        write_text(plan.folder / CARD, plan.card)
    operations = [CommitOperationAdd(name, plan.folder / name) for name in plan.files]
    for operation in operations:
        name = operation.path_in_repo
        if operation.upload_info.sha256.hex() != plan.checksums.get(name) and name != CARD:
            raise _changed(plan.folder / name)
    message = "Publish a verified conversion"
    commit = api.create_commit(repo_id, operations, commit_message=message)
    return str(commit.commit_url)


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise WeightsError if a verified file is missing, changed or a symbolic link."""
    for name in (RECORD, CARD, *record["files"]):
        if (folder / name).is_symlink():
            raise WeightsError(
                f"{folder / name} is a symbolic link, which could upload any file of yours; "
                "replace it by the file itself"
            )
    for name, sha256 in record["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise WeightsError(f"{path} is missing, but {RECORD} lists it; convert the model again")
        if describe(path)["sha256"] != sha256:
            raise _changed(path)


def check_code(folder: Path, files: Collection[str] | None = None) -> None:
    """Raise WeightsError unless `files`, default: all, load without an installed elmo_hf."""
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
        f"{path} has changed since the verification: its sha256 differs from {RECORD}'s; convert "
        "again, or publish your own model by model.push_to_hub and tokenizer.push_to_hub"
    )


def _choose(record: Mapping[str, Any], name: str | None, facts: Path) -> Checkpoint:
    """Return the checkpoint that the card describes."""
    registry = read_registry(facts)
    name = name or record.get("checkpoint") or (next(iter(registry)) if len(registry) == 1 else "")
    if not name:
        raise WeightsError(
            f"{RECORD} does not name the checkpoint; pass --checkpoint NAME (elmo-hf fetch --list "
            f"shows the names) or --facts FILE, or write your own {CARD}"
        )
    return find(name, registry)


def _is_own_card(path: Path) -> bool:
    """Whether the user wrote the card: ours begins with the marker, after the metadata."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return not re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S).lstrip().startswith(MARKER)


def explain(error: BaseException) -> str:
    """Return a message for an error of the Hub or of the network."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the Hub refuses access ({status}); log in with `hf auth login`, or set HF_TOKEN to a "
            "token with write access"
        )
    return one_line(error)
