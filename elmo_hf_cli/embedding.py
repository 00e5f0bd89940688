# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The command embed, which writes the vectors of a file's sentences."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .failures import CommandError, check_model, one_line_errors
from .texts import Input, Model, check_text, hide_loading

STREAM = Path("-")


def embed(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A file of sentences, also .gz, .xz, .bz2 or .zst; - for stdin."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="What to write: a name without ending for a folder; .hdf5, .parquet, .npz or .txt "
            "for a file; - for text on stdout.",
        ),
    ],
    model: Model,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="average (default), top, all, mix, or numbers such as 0,2. The context-free layer "
            "is 0.",
        ),
    ] = None,
    all_layers: Annotated[bool, typer.Option("--all", help="Short for --layers all.")] = False,
    top: Annotated[bool, typer.Option("--top", help="Short for --layers top.")] = False,
    average: Annotated[bool, typer.Option("--average", help="Short for --layers average.")] = False,
    output_embeddings: Annotated[
        bool,
        typer.Option(
            "--output-embeddings",
            help="Append a layer: the language model's output embeddings of the words.",
        ),
    ] = False,
    format: Annotated[
        Literal["folder", "hdf5", "parquet", "npz", "text"] | None,
        typer.Option(metavar="FORMAT", help="The format of OUT, whatever its ending."),
    ] = None,
    input: Input = "text",
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --input jsonl: the field of the sentence."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(metavar="DTYPE", help="float32 or float16.")
    ] = "float32",
    pooling: Annotated[
        Literal["none", "mean", "max", "ends"],
        typer.Option(
            metavar="POOLING",
            help="none: a vector per word. mean, max or ends: a vector per sentence; ends takes "
            "the last vector of each direction.",
        ),
    ] = "none",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a folder that was interrupted.")
    ] = False,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Write part I (0 to N-1) of a folder; N processes write all of it."
        ),
    ] = "0/1",
    sentences_per_shard: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Sentences in a file of the folder."),
    ] = 4096,
    forget_sentences: Annotated[
        bool,
        typer.Option("--forget-sentences", help="In HDF5: leave out sentence_to_index."),
    ] = False,
    use_sentence_keys: Annotated[
        bool,
        typer.Option("--use-sentence-keys", help="In HDF5: name each dataset by its sentence."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads; default: one per core.")
    ] = None,
    batch_words: Annotated[
        int, typer.Option(metavar="N", min=1, help="Words in a batch; fewer take less memory.")
    ] = 8192,
) -> None:
    """Write the vectors of the sentences in a file.

    A vector per word, in the order of the file; a blank line is a sentence without words. Memory
    does not grow with the file. A folder can be continued with --resume and written by many
    machines with --part. elmo_hf.open_vectors reads what was written, except text. --all, --top,
    --average, --forget-sentences and --use-sentence-keys mean what they mean in AllenNLP.

    \b
    Examples:
      elmo-hf embed text.txt vectors -m checkpoints/elmo-small-en
      elmo-hf embed text.txt top.hdf5 -m checkpoints/elmo-small-en --input words --top
      elmo-hf embed text.txt sentences.parquet -m checkpoints/elmo-small-en --pooling mean
      elmo-hf embed text.txt - -m checkpoints/elmo-small-en --layers 0
    """
    check_text(source)
    if output == STREAM and format not in (None, "text"):
        raise CommandError("the standard output holds text only; leave out --format", 2)
    if output == STREAM and (resume or part != "0/1" or forget_sentences or use_sentence_keys):
        raise CommandError(
            "--part, --resume and the options of HDF5 need a file or folder as OUT", 2
        )
    if field is not None and input != "jsonl":
        raise CommandError(f"--field {field} is for --input jsonl; add that, or leave it out", 2)
    chosen = _read_layers(layers, {"all": all_layers, "top": top, "average": average})
    numbers = _read_part(part)
    check_model(model)
    from elmo_hf import ElmoEmbedder

    hide_loading()
    keys = {"forget_sentences": forget_sentences, "sentence_keys": use_sentence_keys}
    options: dict[str, Any] = {name: True for name, is_given in keys.items() if is_given}
    options |= {"dtype": dtype, "pooling": None if pooling == "none" else pooling}
    with one_line_errors(ValueError, RuntimeError):
        embedder = ElmoEmbedder(
            model,
            layers=chosen,
            output_embedding_layer=output_embeddings,
            workers=workers,
            batch_words=batch_words,
        )
        if output != STREAM:
            options |= {"resume": resume, "part": numbers, "format": format}
            options["sentences_per_shard"] = sentences_per_shard
        _write(source, input, field, output, embedder, options)


def _write(
    source: Path, input: Any, field: str | None, output: Path, embedder: Any, options: dict
) -> None:
    from elmo_hf.storage import print_vectors, write_vectors
    from elmo_hf.text_files import read_sentences

    # Reading costs little, and finds what is wrong in a file before hours of computation.
    is_file = source.is_file()
    total = sum(1 for _ in read_sentences(source, input, field)) if is_file else None
    sentences = read_sentences(source, input, field)
    with _progress(total) as progress:
        if output == STREAM:
            return print_vectors(
                sys.stdout.buffer, embedder, sentences, progress=progress, **options
            )
        vectors = write_vectors(output, embedder, sentences, progress=progress, **options)
    index, count = options["part"]
    if vectors is None and count > 1:
        print(f"wrote part {index}/{count} of {output}; other parts are missing")
    else:
        print(f"wrote {output}")


@contextmanager
def _progress(total: int | None) -> Iterator[Any]:
    """Show sentences, words per second and the time left, if stderr is a terminal."""
    from tqdm import tqdm

    words = 0
    with tqdm(total=total, unit=" sentences", disable=not sys.stderr.isatty()) as bar:

        def update(sentences: int, new_words: int | None) -> None:
            nonlocal words
            if bar.disable:
                return
            if new_words is None:  # stored earlier, or part of others: this takes no time
                bar.initial += sentences
            else:
                words += new_words
            rate = words / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{rate:,.0f} words/s", refresh=False)
            bar.update(sentences)

        yield update


def _read_layers(given: str | None, flags: dict[str, bool]) -> Any:
    """Return the argument `layers` of the embedder."""
    names = [name for name, is_given in flags.items() if is_given]
    if len(names) + (given is not None) > 1:
        raise CommandError("pass only one of --layers, --all, --top and --average", 2)
    name = given or (names[0] if names else "average")
    if not re.fullmatch(r"-?[0-9]+(,-?[0-9]+)*", name):
        return name
    numbers = [int(number) for number in name.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def _read_part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise CommandError(f"--part is {text!r}; expected I/N with I from 0 to N-1, such as 0/3", 2)
    return int(match[1]), int(match[2])


__all__ = ["embed"]
