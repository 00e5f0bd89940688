# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The commands convert, fetch and publish, for original weights and their conversions."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from .failures import CommandError, check_exists, check_model, one_line_errors
from .texts import hide_loading

File = Path | None


def convert(
    source: Annotated[
        File,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, .zip or .tar.gz with original files; their format is detected from "
            "their content. Omit it if you pass --options and --weights.",
        ),
    ] = None,
    output: Annotated[
        File, typer.Argument(metavar="OUTPUT", help="The new folder to write.")
    ] = None,
    options: Annotated[File, typer.Option(metavar="FILE", help="The model's options.json.")] = None,
    weights: Annotated[
        File,
        typer.Option(metavar="FILE", help="An HDF5 file, TensorFlow .index or state dict."),
    ] = None,
    vocab: Annotated[
        File,
        typer.Option(metavar="FILE", help="Words of the softmax or word table, one per line."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Prefix of one ELMo, if an AllenNLP model has several."),
    ] = None,
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER=FILE",
            help="A matrix of a cross-lingual alignment to store in the folder; may be repeated.",
        ),
    ] = None,
    splitter: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How to split raw text into words: treebank, billion-words or whitespace.",
        ),
    ] = None,
    to_hdf5: Annotated[
        bool,
        typer.Option(
            "--to-hdf5", help="Convert back: write weights.hdf5 and options.json of folder SOURCE."
        ),
    ] = False,
    to_allennlp: Annotated[
        bool,
        typer.Option(
            "--to-allennlp", help="Convert back: write an AllenNLP state dict of folder SOURCE."
        ),
    ] = False,
) -> None:
    """Convert original weights to a verified Hugging Face folder, or back.

    AutoModel.from_pretrained loads the folder, and it can be published on the Hub.
    Supported formats: HDF5 files and TensorFlow checkpoints of bilm-tf, archives and state dicts of
    AllenNLP, folders of ELMoForManyLangs, and TensorFlow Hub modules. To verify the folder, every
    layer is compared with a float64 computation from the original arrays.

    \b
    Examples:
      elmo-hf convert original elmo-small
      elmo-hf convert --options options.json --weights weights.hdf5 elmo-small
      elmo-hf convert model.tar.gz elmo-small --vocab vocab.txt --splitter treebank
      elmo-hf convert --to-hdf5 elmo-small back-again
      elmo-hf convert --to-allennlp elmo-small weights.th
    """
    if output is None and options and weights:
        source, output = None, source
    if output is None:
        usage = "pass SOURCE and OUTPUT, or --options FILE, --weights FILE and OUTPUT"
        raise CommandError(f"{usage}; see elmo-hf convert --help", 2)
    if to_hdf5 or to_allennlp:
        if options or weights or vocab or prefix or alignment or splitter:
            raise CommandError("--to-hdf5 and --to-allennlp go with SOURCE and OUTPUT only", 2)
        _convert_back(source, output, to_hdf5, to_allennlp)
    else:
        check_exists(source, options, weights, vocab)
        layers = dict(_layer_and_file(text) for text in alignment or ())
        _convert(source, output, options, weights, vocab, prefix, layers, splitter)


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a checkpoint; see --list.")
    ] = "",
    output: Annotated[
        File,
        typer.Argument(metavar="OUTPUT", help="The new folder to write; default: NAME."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", "-k", help="Keep the original files, in OUTPUT-original.")
    ] = False,
    list_all: Annotated[
        bool, typer.Option("--list", "-l", help="List the checkpoints, their formats and sizes.")
    ] = False,
) -> None:
    """Download and convert a published checkpoint.

    \b
    Examples:
      elmo-hf fetch --list
      elmo-hf fetch allennlp-small elmo-small
      elmo-hf fetch elmoformanylangs-pt --keep
    """
    if list_all:
        return _print_list()
    if not name:
        raise CommandError("NAME is missing; elmo-hf fetch --list shows all names", 2)
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
            message = "interrupted; complete files are kept for the next call"
            raise CommandError(message, 130) from None
    for note in record["notes"]:
        print(f"note: {note}")
    print(f"wrote {folder}, verified")


def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder written by convert or fetch.")
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="The repository on the Hub: NAMESPACE/NAME.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be uploaded, then stop.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The checkpoint that the model card describes."),
    ] = None,
    facts: Annotated[
        File,
        typer.Option(metavar="FILE", help="TOML file describing a checkpoint unknown to elmo-hf."),
    ] = None,
) -> None:
    """Upload a verified conversion to the Hugging Face Hub.

    Uploads the files, the code that loads them, and a model card. For a model that you trained,
    call model.push_to_hub instead.

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
            print(f"dry run: nothing is written or uploaded\n{plan}")
            return
        for note in plan.notes:
            print(f"note: {note}")
        try:
            print(f"published {publishing.upload(plan)}")
        except publishing.NETWORK_ERRORS as error:
            message = f"{publishing.explain(error)}; run the same command again to continue"
            raise CommandError(message) from error


def _convert(source: File, output: Path, *arguments: Any) -> None:
    from transformers.utils import logging

    from elmo_hf.conversion import convert as converting
    from elmo_hf.conversion.tables import WeightsError
    from elmo_hf.conversion.verification import Difference

    logging.disable_progress_bar()  # transformers' bar for reloading the folder; ours stays
    with one_line_errors(WeightsError):
        record = converting.convert(source, output, *arguments)
    for note in record["notes"]:
        print(f"note: {note}")
    for difference in record["verification"]["differences"]:
        print(Difference(**difference))
    print(f"raw text is split into words by {record['word_splitter']}; --splitter chooses others")
    print(f"wrote {output}")


def _convert_back(source: File, output: Path, to_hdf5: bool, to_allennlp: bool) -> None:
    if source is None or (to_hdf5 and to_allennlp):
        raise CommandError("pass either --to-hdf5 or --to-allennlp, with SOURCE and OUTPUT", 2)
    check_model(source)
    from elmo_hf.conversion import convert as converting
    from elmo_hf.conversion.tables import WeightsError

    hide_loading()
    with one_line_errors(WeightsError):
        (converting.convert_back if to_hdf5 else converting.convert_to_allennlp)(source, output)
    print(f"wrote {output}; converting it again gives the same bits")


def _layer_and_file(text: str) -> tuple[int, Path]:
    layer, _, path = text.partition("=")
    if not re.fullmatch("[0-9]+", layer) or not Path(path).is_file():
        raise CommandError(f"--alignment is {text!r}; expected LAYER=FILE, an existing file", 2)
    return int(layer), Path(path)


def _print_list() -> None:
    from elmo_hf.conversion.registry import read_registry

    checkpoints = read_registry().values()
    width = max(len(checkpoint.name) for checkpoint in checkpoints)
    for checkpoint in checkpoints:
        how = checkpoint.size if checkpoint.files else f"by hand, from {checkpoint.page}"
        languages = " ".join(checkpoint.languages) or "-"
        row = f"{checkpoint.name:{width}}  {languages:3}  {checkpoint.format:29}  {how:14}"
        print(f"{row}  licence: {checkpoint.licence}")


__all__ = ["convert", "fetch", "publish"]
