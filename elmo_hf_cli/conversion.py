# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Commands for original weights: convert them, fetch published ones, publish a conversion."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .failures import CommandError, check_exists, check_model, one_line_errors

File = Path | None


def convert(
    source: Annotated[
        File,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, .zip or .tar.gz with original files in any supported format, "
            "recognised by their content; left out with --options and --weights.",
        ),
    ] = None,
    output: Annotated[
        File, typer.Argument(metavar="OUTPUT", help="The folder to write; it must be new.")
    ] = None,
    options: Annotated[File, typer.Option(metavar="FILE", help="The options.json.")] = None,
    weights: Annotated[
        File,
        typer.Option(metavar="FILE", help="The HDF5 file, a checkpoint's .index, or a state dict."),
    ] = None,
    vocab: Annotated[
        File,
        typer.Option(metavar="FILE", help="The words of the softmax or word table, one a line."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which ELMo of an AllenNLP model that has several."),
    ] = None,
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER=FILE",
            help="A matrix of a cross-lingual alignment, kept in the folder; may be repeated.",
        ),
    ] = None,
    to_hdf5: Annotated[
        bool,
        typer.Option(
            "--to-hdf5", help="The way back: write weights.hdf5 and options.json of folder SOURCE."
        ),
    ] = False,
    to_allennlp: Annotated[
        bool,
        typer.Option(
            "--to-allennlp", help="The way back: write folder SOURCE as AllenNLP's state dict."
        ),
    ] = False,
) -> None:
    """Convert original weights to a verified folder, or back.

    The folder opens with AutoModel.from_pretrained and can be published on the Hub.
    The formats are bilm-tf's HDF5 files and TensorFlow checkpoints, AllenNLP's archives and state
    dicts, ELMoForManyLangs' folders and TensorFlow Hub modules. A conversion ends by comparing
    every layer with a float64 computation from the original arrays.

    \b
    Examples:
      elmo-hf convert original elmo-small
      elmo-hf convert --options options.json --weights weights.hdf5 elmo-small
      elmo-hf convert model.tar.gz elmo-small --vocab vocab.txt
      elmo-hf convert --to-hdf5 elmo-small back-again
      elmo-hf convert --to-allennlp elmo-small weights.th
    """
    if output is None and options and weights:
        source, output = None, source
    if output is None:
        usage = "name SOURCE and OUTPUT, or --options FILE, --weights FILE and OUTPUT"
        raise CommandError(f"{usage}; see elmo-hf convert --help", 2)
    if to_hdf5 or to_allennlp:
        _convert_back(source, output, to_hdf5, to_allennlp)
    else:
        check_exists(source, options, weights, vocab)
        layers = dict(_layer_and_file(text) for text in alignment or ())
        _convert(source, output, options, weights, vocab, prefix, layers)


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A checkpoint's name, see --list.")
    ] = "",
    output: Annotated[
        File,
        typer.Argument(
            metavar="OUTPUT", help="The folder to write; it must be new. By default NAME."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", "-k", help="Keep the original files in OUTPUT-original.")
    ] = False,
    list_all: Annotated[
        bool, typer.Option("--list", "-l", help="List the checkpoints and where they come from.")
    ] = False,
) -> None:
    """Download published weights by name and convert them.

    \b
    Examples:
      elmo-hf fetch --list
      elmo-hf fetch allennlp-small elmo-small
      elmo-hf fetch elmoformanylangs-pt --keep
    """
    if list_all:
        return _print_list()
    if not name:
        raise CommandError("name a checkpoint; elmo-hf fetch --list shows their names", 2)
    from elmo_hf.conversion import registry
    from elmo_hf.conversion.fetch import fetch as fetch_checkpoint
    from elmo_hf.conversion.tables import WeightsError

    with one_line_errors(WeightsError):
        checkpoint = registry.find(name)
        print(f"{checkpoint.title}: {checkpoint.size}; licence: {checkpoint.licence}")
        print(f"described at {checkpoint.page}")
        folder = output or Path(name)
        try:
            record = fetch_checkpoint(checkpoint, folder, keep)
        except KeyboardInterrupt:
            message = "interrupted; files that arrived whole are kept for the next call"
            raise CommandError(message, 130) from None
    for note in record["notes"]:
        print(f"note: {note}")
    print(f"wrote {folder}, verified")


def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder that convert or fetch wrote.")
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="The name on the Hub: NAMESPACE/NAME.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make a repository that only its owners see.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be uploaded; change nothing.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The published checkpoint whose facts the card states."),
    ] = None,
    facts: Annotated[
        File,
        typer.Option(metavar="FILE", help="Facts of a checkpoint that elmo-hf does not know."),
    ] = None,
) -> None:
    """Upload a verified conversion to the Hugging Face Hub.

    The files, the code that opens them and a model card go up. A model that you trained needs no
    such command: call its push_to_hub.

    \b
    Examples:
      elmo-hf publish elmo-small me/elmo-small --checkpoint allennlp-small --dry-run
      elmo-hf publish elmo-small me/elmo-small --checkpoint allennlp-small --private
    """
    check_exists(folder, facts)
    from elmo_hf.conversion import publish as publishing
    from elmo_hf.conversion.registry import REGISTRY
    from elmo_hf.conversion.tables import WeightsError

    with one_line_errors(WeightsError):
        plan = publishing.prepare(folder, repo_id, private, checkpoint, facts or REGISTRY)
        if dry_run:
            print(f"a dry run: nothing is written or sent\n{plan}")
            return
        for note in plan.notes:
            print(f"note: {note}")
        try:
            print(f"published {publishing.upload(plan)}")
        except publishing.NETWORK_ERRORS as error:
            message = f"{publishing.explain(error)}; run the same command again to go on"
            raise CommandError(message) from error


def _convert(source: File, output: Path, *given: Any) -> None:
    from transformers.utils import logging

    from elmo_hf.conversion import convert as converting
    from elmo_hf.conversion.tables import WeightsError
    from elmo_hf.conversion.verification import Difference

    logging.disable_progress_bar()  # of loading the folder again; ours shows the original's
    with one_line_errors(WeightsError):
        record = converting.convert(source, output, *given)
    for note in record["notes"]:
        print(f"note: {note}")
    for difference in record["verification"]["differences"]:
        print(Difference(**difference))
    print(f"wrote {output}")


def _convert_back(source: File, output: Path, to_hdf5: bool, to_allennlp: bool) -> None:
    if source is None or (to_hdf5 and to_allennlp):
        raise CommandError("give one of --to-hdf5 and --to-allennlp, with SOURCE and OUTPUT", 2)
    check_model(source)
    from elmo_hf.conversion import convert as converting
    from elmo_hf.conversion.tables import WeightsError

    with one_line_errors(WeightsError):
        (converting.convert_back if to_hdf5 else converting.convert_to_allennlp)(source, output)
    print(f"wrote {output}, which converts back bit for bit")


def _layer_and_file(text: str) -> tuple[int, Path]:
    layer, _, path = text.partition("=")
    if not layer.isdigit() or not Path(path).is_file():
        raise CommandError(f"--alignment {text!r} is not LAYER=FILE with a file that exists", 2)
    return int(layer), Path(path)


def _print_list() -> None:
    from elmo_hf.conversion.registry import read_registry

    checkpoints = read_registry().values()
    width = max(len(checkpoint.name) for checkpoint in checkpoints)
    for checkpoint in checkpoints:
        how = checkpoint.size if checkpoint.files else f"by hand, from {checkpoint.page}"
        languages = " ".join(checkpoint.languages) or "-"
        print(f"{checkpoint.name:{width}}  {languages:3}  {checkpoint.format:29}  {how}")


__all__ = ["convert", "fetch", "publish"]
