# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The command explore, which draws the occurrences of words as a page, a picture or tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .failures import CommandError, check_exists, check_model, one_line_errors
from .language import load_language_model
from .texts import Input, Model, check_text, hide_loading, numbered_sentences, words_of

if TYPE_CHECKING:
    from elmo_hf import ElmoEmbedder, ElmoTokenizer
    from elmo_hf.analysis.maps import Occurrence, SenseMap

PICTURES = (".svg", ".png", ".pdf")


def explore(
    word: Annotated[
        list[str], typer.Argument(metavar="WORD...", help="The words, as they are written.")
    ],
    text: Annotated[
        Path, typer.Option(metavar="FILE", help="The sentences; - for the standard input.")
    ],
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The new page.html, or map.svg, .png or .pdf."
        ),
    ] = None,
    senses: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The sense of the words in each line of the text."),
    ] = None,
    projector: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The new folder for TensorBoard's projector."),
    ] = None,
    mix: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODEL", help="A model trained on a task, to show its mix; may be repeated."
        ),
    ] = None,
    input: Input = "text",
    method: Annotated[
        Literal["pca", "tsne"], typer.Option(metavar="NAME", help="pca or tsne.")
    ] = "pca",
    limit: Annotated[
        int,
        typer.Option(metavar="N", min=2, help="Points in the map, but at least 2 for each word."),
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of all that is random.")] = 0,
) -> None:
    """Draw a map of the senses of words, and more about the layers.

    Each occurrence of the words is a point, coloured by its sense; without --senses by its word,
    and if there is one word, by its cluster. The page has a slider for the layers and needs no
    network. The file of senses has a line for each line of the text: the sense of the words in it,
    or, separated by tabs, that of each of them. A line may be blank.

    \b
    Examples:
      elmo-hf explore bank --text text.txt -m checkpoints/elmo-small-en -o page.html
      elmo-hf explore bank --text examples/bank.txt --senses examples/bank_senses.txt \\
          -m checkpoints/elmo-small-en -o page.html
      elmo-hf explore bank river --text text.txt -m checkpoints/elmo-small-en -o map.svg
      elmo-hf explore bank --text text.txt -m checkpoints/elmo-small-en --mix my-tagger -o page.html
      elmo-hf explore bank --text text.txt -m checkpoints/elmo-small-en --projector vectors
    """
    _check_outputs(output, projector)
    if mix and (output is None or output.suffix != ".html"):
        raise CommandError("--mix is for a page; name it with -o page.html", 2)
    word = [*dict.fromkeys(word)]
    for folder in [model, *(mix or [])]:
        check_model(folder)
    check_text(text)
    check_exists(senses)
    from elmo_hf import ElmoEmbedder
    from elmo_hf.analysis.exports import save_map, write_projector
    from elmo_hf.analysis.maps import draw_occurrences, map_senses
    from elmo_hf.analysis.sources import ElmoVectors

    hide_loading()
    with one_line_errors(ValueError, RuntimeError):
        _check_packages(output)
        embedder = ElmoEmbedder(model)
        found = _find(embedder.tokenizer, text, input, word, senses)
        drawn = draw_occurrences(found, max(2, limit // len(word)), seed)
        sense_map = map_senses(ElmoVectors(embedder), drawn, method=method, seed=seed)
        points = f"{len(drawn):,} of {len(found):,} occurrences"
        if projector is not None:
            write_projector(sense_map, projector)
            print(f"wrote {projector}: {points}")
        if output is None:
            return
        if output.suffix == ".html":
            source = "the standard input" if str(text) == "-" else text.name
            mixes = {name: one for folder in [model, *(mix or [])] for name, one in _mixes(folder)}
            _write_page(output, sense_map, embedder, model, mixes, f"{points} in {source}", seed)
        else:
            save_map(sense_map, output)
        print(f"wrote {output}: {points}, {output.stat().st_size / 1e6:.2f} MB")


def _check_outputs(output: Path | None, projector: Path | None) -> None:
    if output is None and projector is None:
        raise CommandError("nothing to write; pass -o page.html, -o map.svg or --projector DIR", 2)
    if output is not None and output.suffix not in (".html", *PICTURES):
        endings = ", ".join((".html", *PICTURES))
        raise CommandError(f"--output is {output}; expected a name that ends with {endings}", 2)
    for path in (output, projector):
        if path is not None and path.exists():
            raise CommandError(f"{path} exists already; name a new one, or remove it first")
        if path is not None and not path.parent.is_dir():
            raise CommandError(f"there is no folder {path.parent} for {path.name}; make it first")


def _check_packages(output: Path | None) -> None:
    """Raise MissingExtraError before anything is computed."""
    from elmo_hf.extras import require

    require("sklearn", "analysis")
    if output is not None:
        require("plotly" if output.suffix == ".html" else "matplotlib", "analysis")


def _find(
    tokenizer: "ElmoTokenizer",
    text: Path,
    input: str,
    words: Sequence[str],
    senses: Path | None,
) -> "list[Occurrence]":
    from elmo_hf.analysis.maps import find_occurrences

    if input == "text":
        for word in words:
            if [word] != (split := [*words_of(tokenizer, word)]):
                raise CommandError(
                    f"{word!r} is not one word: the tokenizer reads {' '.join(split)!r}; "
                    "pass one of its words"
                )
    lines = None if senses is None else _read_senses(senses)
    sentences = _with_words(tokenizer, text, input, words, lines)
    return find_occurrences(sentences, words, lines)


def _read_senses(path: Path) -> list[str]:
    """Return the lines of a file; a tab at the start or end of a line counts."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return [line.rstrip("\n") for line in lines]
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{path} is not UTF-8 ({error.reason}); convert it, e.g. with iconv"
        ) from error


def _with_words(
    tokenizer: "ElmoTokenizer",
    text: Path,
    input: str,
    words: Sequence[str],
    senses: Sequence[str] | None,
) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the sentences that may hold one of the words; others are not split into words."""
    number, wanted = 0, [word.casefold() for word in words]
    for number, sentence in numbered_sentences(text, input):
        content = sentence if isinstance(sentence, str) else " ".join(sentence)
        content = content.casefold()
        if any(word in content for word in wanted):
            yield number, words_of(tokenizer, sentence)
    if any(rest := (senses or [])[number:]):
        raise CommandError(
            f"the senses have {number + len(rest)} lines, the text only {number}; expected one "
            "line of senses per line of the text"
        )


def _write_page(
    path: Path,
    sense_map: "SenseMap",
    embedder: "ElmoEmbedder",
    model: Path,
    mixes: dict[str, list[float]],
    source: str,
    seed: int,
) -> None:
    from elmo_hf.analysis.page import explain, write_page
    from elmo_hf.analysis.sources import ElmoVectors

    sections = explain(
        sense_map,
        ElmoVectors(embedder),
        mixes=mixes,
        language_model=_language_model(embedder, model),
        seed=seed,
    )
    words = ", ".join(dict.fromkeys(one.place.word for one in sense_map.occurrences))
    write_page(path, f"{words}: {source}, as {model.name} sees them", sections)


def _mixes(model: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield name and factors of a model's mixes; those that normalize layers are left out."""
    from elmo_hf.layers import mix_factors
    from elmo_hf.loading import find_source, load_shared

    loaded = load_shared(find_source(model).pin(), None, None)
    mixes = [(f"mix {i} of {model}", one) for i, one in enumerate(loaded.recorded)]
    if loaded.mix is not None:
        mixes.append((str(model), loaded.mix))
    yield from ((name, mix_factors(one)) for name, one in mixes if one.layer_norm is None)


def _language_model(embedder: "ElmoEmbedder", model: Path) -> Any:
    """Return the language model and its tokenizer; None if the folder has none."""
    if not embedder.config.lm_vocab_size or not embedder.tokenizer.lm_vocab:
        return None
    try:
        return load_language_model(model)
    except CommandError:
        return None


__all__ = ["explore"]
