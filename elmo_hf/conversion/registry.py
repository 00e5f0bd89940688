"""
The registry of published checkpoints.

checkpoints.toml holds the addresses and the licence of each checkpoint; model_cards/facts/NAME.toml
holds the other facts that its model card states.
"""

import difflib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .tables import WeightsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REGISTRY = Path(__file__).with_name("checkpoints.toml")
CARD_FIELDS = {"training_data", "stated", "evaluations", "biases"}


@dataclass(frozen=True)
class SourceFile:
    """A file to download; `size` in bytes and `sha256` are None if unknown."""

    address: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.address).scheme not in ("http", "https") or not self.name:
            raise ValueError(
                f"{self.address!r} is not the address of a file; expected http(s)://.../FILE"
            )

    @property
    def name(self) -> str:
        """The file name at the end of the address."""
        return Path(unquote(urlsplit(self.address).path)).name


@dataclass(frozen=True)
class Measurement:
    """A figure that this project measured, and the command that reproduces it."""

    task: str
    dataset: str
    metric: str
    value: float
    command: str


@dataclass(frozen=True)
class Checkpoint:
    """
    A published checkpoint.

    Args:
        name: the name for the commands.
        aliases: other names, for instance Flair's.
        title: the title of its card.
        format: the format of the original files, in words.
        page: the address of its authors' description.
        licence: the licence that the source states, or "not stated", or "not read".
        hub_license: the Hub's identifier of the licence stated for the weights.
        languages: ISO codes; empty if the training data are not natural language.
        word_splitter: the splitter for raw text; None: that of the format.
        files: the files to download; empty if their addresses are unknown.
        training_data, stated: the training text and the figures that the authors report.
        parameters: number of parameters; None if unknown.
        citations: BibTeX entries.
        evaluations, biases: figures that this project measured with the converted checkpoint.
    """

    name: str
    title: str
    format: str
    page: str
    licence: str
    hub_license: str = "unknown"
    languages: tuple[str, ...] = ()
    word_splitter: str | None = None
    aliases: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()
    training_data: str = "not stated"
    stated: tuple[str, ...] = ()
    parameters: int | None = None
    citations: tuple[str, ...] = ()
    evaluations: tuple[Measurement, ...] = field(default=())
    biases: tuple[Measurement, ...] = field(default=())

    @property
    def size(self) -> str:
        """The size of the download in words; an estimate if the files' sizes are unknown."""
        sizes = [file.size for file in self.files if file.size]
        if self.files and len(sizes) == len(self.files):
            return f"{sum(sizes) / 1e6:,.1f} MB"
        # In every original format a parameter takes four bytes.
        return f"about {self.parameters * 4 / 1e6:,.0f} MB" if self.parameters else "size not known"


def card_files() -> Path:
    """Return the folder model_cards/ with facts/ and templates, or its copy in a wheel."""
    in_wheel = Path(__file__).with_name("model_cards")
    return in_wheel if in_wheel.is_dir() else Path(__file__).parents[2] / "model_cards"


def read_registry(path: Path = REGISTRY, facts: Path | None = None) -> dict[str, Checkpoint]:
    """
    Read the checkpoints of a file like checkpoints.toml, by name.

    Args:
        path: the file.
        facts: folder whose NAME.toml adds fields to checkpoint NAME; default: model_cards/facts.

    Raises:
        WeightsError: a file is missing or not TOML, or a checkpoint lacks a field, has an unknown
            one, or has one in both files.
    """
    facts = facts or card_files() / "facts"
    content = _read(path)
    citations = content.pop("citations", {})
    found = {}
    for name, fields in content.items():
        try:
            for entry in _variants(name, fields):
                more = _card_fields(facts / f"{entry['name']}.toml", entry)
                checkpoint = _checkpoint(entry | more, citations)
                found[checkpoint.name] = checkpoint
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise WeightsError(f"{path.name}: checkpoint {name}: {error}") from error
    return found


def find(name: str, registry: Mapping[str, Checkpoint] | None = None) -> Checkpoint:
    """Return a checkpoint by name or alias; else WeightsError with similar names."""
    registry = read_registry() if registry is None else registry
    if name in registry:
        return registry[name]
    for checkpoint in registry.values():
        if name in checkpoint.aliases:
            return checkpoint
    near = difflib.get_close_matches(name, registry) or [n for n in registry if name in n][:5]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise WeightsError(f"there is no checkpoint {name!r}; {hint}`elmo-hf fetch --list` lists them")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _card_fields(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields that NAME.toml adds to an entry; none if the file does not exist."""
    fields = _read(path) if path.is_file() else {}
    if strange := sorted(fields.keys() - CARD_FIELDS):
        known = ", ".join(sorted(CARD_FIELDS))
        raise ValueError(f"{path} has {strange[0]}; expected only {known}")
    if twice := sorted(fields.keys() & entry.keys()):
        raise ValueError(f"{twice[0]} is in {path}, too; remove one of the two")
    return fields


def _variants(name: str, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one entry, or one per variant with the variant's fields filled into its texts."""
    variants = facts.pop("variants", None)
    if variants is None:
        yield {"name": name, **facts}
        return
    for variant, fields in variants.items():
        filled = _fill(facts, {"variant": variant, **fields})
        yield {"name": f"{name}-{variant}", **filled}


def _fill(value: Any, fields: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return value.format(**fields)
    if isinstance(value, list):
        return [_fill(item, fields) for item in value]
    if isinstance(value, dict):
        return {key: _fill(item, fields) for key, item in value.items()}
    return value


def _checkpoint(entry: dict[str, Any], citations: Mapping[str, str]) -> Checkpoint:
    made_of: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    made_of["citations"] = tuple(citations[key].strip() for key in entry.get("citations", ()))
    made_of["files"] = tuple(SourceFile(**file) for file in entry.get("files", ()))
    for key in ("evaluations", "biases"):
        made_of[key] = tuple(Measurement(**figures) for figures in entry.get(key, ()))
    return Checkpoint(**made_of)


__all__ = [
    "REGISTRY",
    "Checkpoint",
    "Measurement",
    "SourceFile",
    "card_files",
    "find",
    "read_registry",
]
