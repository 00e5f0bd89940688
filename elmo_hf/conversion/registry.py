"""
What is known about each published checkpoint.

checkpoints.toml says where its files are and on which terms; what else its card states is in a
file of its own, model_cards/facts/NAME.toml.
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
    """A file to download; `size` in bytes and `sha256` are None where they are not known."""

    address: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.address).scheme not in ("http", "https") or not self.name:
            raise ValueError(
                f"{self.address!r} is no address of a file; expected http(s)://.../FILE"
            )

    @property
    def name(self) -> str:
        """The address's last part, without its folders."""
        return Path(unquote(urlsplit(self.address).path)).name


@dataclass(frozen=True)
class Measurement:
    """A figure that this project measured, and the command that measures it again."""

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
        name: what the commands call it.
        aliases: other names for it, for instance Flair's.
        title: what its card calls it.
        format: the format of the original files, in words.
        page: where its authors describe it.
        licence: what the source says, or "not stated", or "not read".
        hub_license: the Hub's identifier of a licence that is stated for the weights.
        languages: ISO codes; empty where it is no natural language.
        files: what is downloaded; empty where no address of a file is known.
        training_data, stated: what its authors say of their text, and the figures they report.
        parameters: their number; None where it is not known.
        citations: BibTeX.
        evaluations, biases: what this project measured with the converted checkpoint.
    """

    name: str
    title: str
    format: str
    page: str
    licence: str
    hub_license: str = "unknown"
    languages: tuple[str, ...] = ()
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
        """How much there is to download, in words; about, where the files' sizes are not known."""
        sizes = [file.size for file in self.files if file.size]
        if self.files and len(sizes) == len(self.files):
            return f"{sum(sizes) / 1e6:,.1f} MB"
        # In every original format a parameter takes four bytes.
        return f"about {self.parameters * 4 / 1e6:,.0f} MB" if self.parameters else "size not known"


def card_files() -> Path:
    """The folder with facts/, template.md and allennlp.md: model_cards/, or its copy in a wheel."""
    in_wheel = Path(__file__).with_name("model_cards")
    return in_wheel if in_wheel.is_dir() else Path(__file__).parents[2] / "model_cards"


def read_registry(path: Path = REGISTRY, facts: Path | None = None) -> dict[str, Checkpoint]:
    """
    Read the checkpoints of a file like checkpoints.toml, by name.

    Args:
        path: the file.
        facts: a folder; NAME.toml there adds to the fields of checkpoint NAME. By default
            model_cards/facts.

    Raises:
        WeightsError: a file is missing or no TOML, or a checkpoint lacks a field or has one
            that is unknown or stands in both files.
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
    """Return a checkpoint by name or alias; WeightsError with the nearest if there is none."""
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
    """The fields that a file of facts adds to an entry, none if there is no such file."""
    fields = _read(path) if path.is_file() else {}
    if strange := sorted(fields.keys() - CARD_FIELDS):
        known = ", ".join(sorted(CARD_FIELDS))
        raise ValueError(f"{path} has {strange[0]}; expected only {known}")
    if twice := sorted(fields.keys() & entry.keys()):
        raise ValueError(f"{twice[0]} stands in {path} too; keep one of the two")
    return fields


def _variants(name: str, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One entry, or one of each variant with the variant's fields filled into its texts."""
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
