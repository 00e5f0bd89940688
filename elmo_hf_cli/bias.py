# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The command bias, which measures bias in a checkpoint."""

import datetime
import glob
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .failures import CommandError, check_exists, check_model, one_line_errors
from .texts import hide_loading


def bias(
    context: typer.Context,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A model folder, or a name on the Hub.")
    ],
    data: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="The folder with the data sets that this text names."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The table, a .md file; its .json is beside it."
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILES", help="Held-out text, for words in context; a pattern; several times."
        ),
    ] = None,
    training_text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILES", help="Training text, to count he and she; a pattern; several times."
        ),
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Static vectors of the same text, saved by gensim.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="M,M,..", help="Only these measures, separated by commas."),
    ] = None,
    contexts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of sentences per word.")
    ] = 100,
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A model card, whose section on bias is replaced."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of all random choices.")] = 0,
) -> None:
    """Measure bias in a checkpoint, beside random weights and static vectors.

    The measures are weat, occupations, winogender, winobias, crows_pairs, holistic_bias and
    mitigation. FOLDER has a folder for each data set: sent_bias, winobias, winogender, crows_pairs,
    holistic_bias, ud_en_ewt. If one is missing, the error says where to get it. A low figure is no
    proof of absence; the docs say what each measure means ("Bias").

    \b
    Examples:
      elmo-hf bias checkpoints/elmo-small-en --data data -o bias.md --text heldout.txt
      elmo-hf bias checkpoints/elmo-small-en --data data -o bias.md --only winogender,winobias
    """
    check_model(checkpoint)
    texts, training_texts = _expand(text), _expand(training_text)
    check_exists(data, static, card, *texts, *training_texts)
    if output.suffix not in (".md", ".json"):
        raise CommandError(f"{output} is no name for the table; pass a name that ends with .md", 2)
    if not output.parent.is_dir():
        raise CommandError(f"there is no folder {output.parent} for {output.name}", 2)
    from elmo_hf.analysis import bias as study_module
    from elmo_hf.analysis import bias_report

    hide_loading()
    started = time.perf_counter()
    with one_line_errors(ValueError):
        if card:  # fail now rather than after minutes
            bias_report.put_in_card(card.read_text(encoding="utf-8"), "")
        study = study_module.BiasStudy(checkpoint, data, texts, static, contexts, seed)
        rows: list[dict[str, Any]] = []
        for row in study.measure(only.split(",") if only else ()):
            if not rows or rows[-1]["measure"] != row["measure"]:
                seconds = time.perf_counter() - started
                print(f"{seconds:.0f} s: {row['measure']}", file=sys.stderr, flush=True)
            rows.append(row)
        results = _describe(study.sources[0].name, rows, _command(context.params))
        if training_texts:
            results["training_text"] = study_module.count_pronouns(training_texts)
        page = output.with_suffix(".md")
        if card:
            section = bias_report.render_section(results, f"`{page}`")
            old = card.read_text(encoding="utf-8")
            _write(card, bias_report.put_in_card(old, section))
        _write(output.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
        _write(page, bias_report.render_page(results))
    print(f"wrote {page} and {output.with_suffix('.json')}")


def _expand(patterns: list[str] | None) -> list[Path]:
    """Return the files that the patterns match; a name that matches nothing stays as it is."""
    found = [sorted(glob.glob(pattern)) or [pattern] for pattern in patterns or ()]
    return [Path(name) for names in found for name in names]


def _command(given: dict[str, Any]) -> str:
    """Return the command line with all options that were given."""
    parts = ["elmo-hf", "bias", str(given["checkpoint"])]
    for name, value in given.items():
        if name != "checkpoint" and value is not None:
            flag = "--" + name.replace("_", "-")
            values = value if isinstance(value, (list, tuple)) else [value]
            parts += [part for one in values for part in (flag, str(one))]
    return shlex.join(parts)


def _describe(name: str, rows: list[dict[str, Any]], command: str) -> dict[str, Any]:
    import torch
    import transformers

    import elmo_hf

    versions = {"elmo_hf": elmo_hf, "torch": torch, "transformers": transformers}
    return {
        "checkpoint": name,
        "date": datetime.date.today().isoformat(),
        "command": command,
        "versions": ", ".join(f"{name} {module.__version__}" for name, module in versions.items()),
        "rows": rows,
    }


def _write(path: Path, content: str) -> None:
    """Write a file completely or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, path)


__all__ = ["bias"]
