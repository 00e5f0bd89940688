"""Writes model cards: fills a template with a checkpoint's facts and the conversion's record."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .registry import Checkpoint, Measurement, card_files

MARKER = (
    "<!-- Written by elmo-hf publish, which writes it anew each time. "
    "Without this line the card is yours, and stays as it is. -->"
)


def render_card(
    folder: Path, repo_id: str, checkpoint: Checkpoint, record: Mapping[str, Any]
) -> ModelCard:
    """
    Write the card of a converted folder.

    Args:
        folder: a folder written by `elmo-hf convert`.
        repo_id: the future repository on the Hub, from which the card's example loads the model.
        checkpoint: the facts stated by its authors and measured by this project.
        record: the content of the folder's conversion.json.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parameters = f"{count_parameters(folder / 'model.safetensors'):,}"
    characters = config["max_characters_per_token"] if config["filters"] else 0
    return ModelCard.from_template(
        card_data(checkpoint),
        template_path=str(card_files() / "template.md"),
        marker=MARKER,
        title=checkpoint.title,
        repo_id=repo_id,
        parameters=parameters,
        has_softmax=config["lm_vocab_size"] > 0,
        facts=[*_facts(checkpoint, config, parameters), *_sources(record)],
        verification=record["verification"],
        notes=[plain(note) for note in record["notes"]],
        evaluations=_table(checkpoint.evaluations),
        biases=_table(checkpoint.biases),
        languages=checkpoint.languages,
        longest_word=max(0, characters - 2),  # begin-of-word and end-of-word
        licence=checkpoint.licence,
        page=checkpoint.page,
        citations="\n\n".join(checkpoint.citations),
        allennlp=(card_files() / "allennlp.md").read_text(encoding="utf-8").strip(),
    )


def card_data(checkpoint: Checkpoint) -> ModelCardData:
    """Return the card's metadata, which the Hub uses for search and labels."""
    results = [
        EvalResult(
            task_type=measured.task,
            dataset_type=measured.dataset,
            dataset_name=measured.dataset,
            metric_type=measured.metric,
            metric_value=measured.value,
        )
        for measured in checkpoint.evaluations
    ]
    return ModelCardData(
        language=list(checkpoint.languages) or None,
        license=checkpoint.hub_license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["elmo", "word-embeddings"],
        model_name=checkpoint.name if results else None,
        eval_results=results or None,
    )


def count_parameters(weights: Path) -> int:
    """Count the parameters in a safetensors file by its header."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def plain(text: str) -> str:
    """Escape a text for one table cell or list item, so that nothing in it is markup."""
    return re.sub(r"([|<`\[])", r"\\\1", " ".join(text.split()))


def _facts(
    checkpoint: Checkpoint, config: Mapping[str, Any], parameters: str
) -> Iterator[tuple[str, str]]:
    directions, ways = (2, "both directions") if config["bidirectional"] else (1, "one direction")
    yield "languages", ", ".join(checkpoint.languages) or "not natural language"
    yield "training text", checkpoint.training_data
    yield (
        "layers",
        f"{config['num_hidden_layers']} LSTM layers above the context-free layer 0, "
        f"each {directions * config['projection_dim']} wide ({ways}), "
        f"with cell states of {config['cell_dim']}",
    )
    yield "parameters", parameters
    if config["lm_vocab_size"]:
        yield "words of the softmax", f"{config['lm_vocab_size']:,}"
    if checkpoint.stated:
        yield "stated by the authors, not measured here", "; ".join(checkpoint.stated)


def _sources(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source = record["source"]
    yield "original format", plain(source["format"])
    for file in (source["weights"], *source.get("data", ()), source.get("options", {})):
        if "sha256" in file:  # options inferred from the weights have no file
            yield "original file", f"{plain(file['file'])}, sha256 `{plain(file['sha256'])}`"
    for file in record.get("downloads", ()):
        yield "downloaded from", f"{plain(file['address'])} ({file['size']:,} bytes)"
    yield "trust in the original files", trust(record)
    if record.get("word_splitter"):
        yield "word splitter for raw text", plain(str(record["word_splitter"]))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield "converted with", plain(versions)


def trust(record: Mapping[str, Any]) -> str:
    """Say how it was checked that the original files are those of their publisher."""
    kinds = {download["trust"] for download in record.get("downloads", ())}
    if not kinds:
        return "none: they were local files of unknown origin"
    if kinds == {"registered"}:
        return "their sha256 equals the one in elmo_hf's registry"
    return (
        "their sha256 is that of the first download on the machine that converted them; "
        "their publisher states no checksum"
    )


def _table(measurements: Sequence[Measurement]) -> str:
    if not measurements:
        return ""
    rows = ["| task | data | metric | value | measured with |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| {m.task} | {m.dataset} | {m.metric} | {m.value} | `{m.command}` |" for m in measurements
    ]
    return "\n".join(rows)


__all__ = ["MARKER", "card_data", "count_parameters", "plain", "render_card", "trust"]
