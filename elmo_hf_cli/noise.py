# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The command noise, which misspells a text and shows how far its vectors move."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .failures import CommandError, check_exists, check_model, one_line_errors
from .texts import Input, check_text, hide_loading, words_of

if TYPE_CHECKING:
    from elmo_hf.analysis import Noise

Sentence = str | Sequence[str]


def noise(
    text: Annotated[
        Path, typer.Argument(metavar="IN", help="A file of sentences; - for the standard input.")
    ],
    misspellings: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A list of misspellings: of codespell, charNMT-noise or TOEFL-Spell; several "
            "times.",
        ),
    ] = None,
    probability: Annotated[
        float,
        typer.Option(
            metavar="P", min=0, max=1, help="Probability that a word with misspellings gets one."
        ),
    ] = 1.0,
    characters: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", min=0, max=0.5, help="Share of the characters to change at random."
        ),
    ] = None,
    case: Annotated[
        Literal["lower", "upper", "title"] | None,
        typer.Option(metavar="CASE", help="Write the words in lower, upper or title case."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Print how far the vectors of this model move, instead of the text.",
        ),
    ] = None,
    input: Input = "text",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of all random choices.")] = 0,
) -> None:
    """Misspell a text, or show how far its vectors move.

    Prints the text with as many words as before, line by line; words and the words of conllu are
    separated by blanks; of jsonl a line is the sentence, without the other fields. The noise of a
    sentence depends on its words and the seed only. The share of changed words goes to stderr. With
    several kinds of noise, misspellings come first and the case last.

    With -m: for each layer, the mean cosine of a changed word's vector with its vector before; that
    of the other words in changed sentences; and the floor, which is that of two random words.

    \b
    Examples:
      elmo-hf noise text.txt --characters 0.05
      elmo-hf noise text.txt --misspellings dictionary.txt --probability 0.5 > noisy.txt
      elmo-hf noise text.txt --case upper -m checkpoints/elmo-small-en
      echo "The bank of the river" | elmo-hf noise - --characters 0.2 --seed 1
    """
    check_text(text)
    check_exists(*misspellings or ())
    if model is not None:
        check_model(model)
    if not misspellings and characters is None and case is None:
        raise CommandError("no noise was asked for; pass --misspellings, --characters or --case", 2)
    if probability != 1 and not misspellings:
        raise CommandError("--probability is for --misspellings; add a file, or leave it out", 2)
    from elmo_hf.analysis import ChangeCase, MisspellWords, ReplaceCharacters, read_misspellings
    from elmo_hf.text_files import read_sentences

    noises: list[Noise] = []
    with one_line_errors(ValueError, RuntimeError):
        if misspellings:
            noises.append(MisspellWords(read_misspellings(*misspellings), probability, seed))
        if characters is not None:
            noises.append(ReplaceCharacters(characters, seed))
        if case is not None:
            noises.append(ChangeCase(case))
        sentences = read_sentences(text, input)
        if model is not None:
            print(*_report(model, sentences, noises), sep="\n")
            return
        counts: Counter[str] = Counter()
        for noised in _apply(noises, sentences, counts):
            if input == "jsonl":
                print(json.dumps(noised, ensure_ascii=False))
            else:
                print(noised if isinstance(noised, str) else " ".join(noised))
    print(_describe(noises, counts), file=sys.stderr)


def _apply(
    noises: "list[Noise]", sentences: Iterable[Sentence], counts: Counter[str]
) -> Iterator[Sentence]:
    """Yield each sentence noised, and count its words."""
    from elmo_hf import ElmoTokenizer

    tokenizer = ElmoTokenizer()
    for sentence in sentences:
        if not isinstance(sentence, str):
            yield _change(noises, sentence, counts)
            continue
        found = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(start, stop) for start, stop in found["offset_mapping"] if start < stop]
        words = _change(noises, [sentence[start:stop] for start, stop in spans], counts)
        for (start, stop), word in reversed([*zip(spans, words, strict=True)]):
            sentence = sentence[:start] + word + sentence[stop:]
        yield sentence


def _change(noises: "list[Noise]", words: Sequence[str], counts: Counter[str]) -> list[str]:
    """Return the words noised, and count them."""
    from elmo_hf.analysis import MisspellWords

    noised = [*words]
    for noise in noises:
        if isinstance(noise, MisspellWords):
            counts["listed"] += sum(map(bool, map(noise.find, words)))
        noised = noise(noised)
    counts["changed"] += sum(a != b for a, b in zip(words, noised, strict=True))
    counts["words"] += len(words)
    return noised


def _describe(noises: "list[Noise]", counts: Counter[str]) -> str:
    from elmo_hf.analysis import MisspellWords

    words = max(1, counts["words"])
    text = f"{counts['changed']:,} of {counts['words']:,} words changed"
    text += f" ({counts['changed'] / words:.1%})"
    if any(isinstance(noise, MisspellWords) for noise in noises):
        text += f"; {counts['listed'] / words:.1%} have a listed misspelling"
    return text


def _report(model: Path, sentences: Iterable[Sentence], noises: "list[Noise]") -> Iterator[str]:
    """Yield the lines of the table."""
    from elmo_hf import ElmoEmbedder
    from elmo_hf.analysis import ElmoVectors, measure_noise

    hide_loading()
    embedder = ElmoEmbedder(model)
    words = [words_of(embedder.tokenizer, sentence) for sentence in sentences]
    counts: Counter[str] = Counter()
    moved = measure_noise(ElmoVectors(embedder), words, lambda one: _change(noises, one, counts))
    yield _describe(noises, counts)
    yield f"{'':9}{'changed words':>24}{'other words':>24}{'random words':>14}"
    for layer, found in moved.changed.items():
        kept = str(moved.kept[layer]) if moved.kept else "-"
        yield f"{layer:9}{found!s:>24}{kept:>24}{found.floor:14.3f}"


__all__ = ["noise"]
