# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The commands fill and score, which ask the language model for words and probabilities."""

import csv
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .failures import CommandError, check_model, one_line_errors
from .texts import Input, Model, check_text, hide_loading, numbered_sentences, words_of

if TYPE_CHECKING:
    from elmo_hf import ElmoForPreTraining, ElmoTokenizer, Perplexity, SentenceScores
    from elmo_hf.gaps import Direction

COLUMNS = ("sentence", "position", "word", "forward", "backward", "unknown")
TITLES = {"forward": "from the left", "backward": "from the right", "both": "from both sides"}


def fill(
    sentence: Annotated[
        str, typer.Argument(metavar="SENTENCE", help="A sentence with one or more gaps.")
    ],
    model: Model,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Number of words per gap.")] = 10,
    gap: Annotated[str, typer.Option(metavar="SIGN", help="What stands for a gap.")] = "___",
    words: Annotated[
        str | None,
        typer.Option(metavar="W,W,..", help="Compare these words only, separated by commas."),
    ] = None,
) -> None:
    """Show the most probable words for each gap of a sentence.

    The forward LSTMs predict a gap's word from the words to its left, the backward LSTMs from the
    words to its right. The third column combines the two, as the docs explain ("Fill gaps, score
    words"). Each word has its log-probability, natural logarithm.

    \b
    Examples:
      elmo-hf fill "The ___ rose ." --model checkpoints/elmo-small-en --top 5
      elmo-hf fill "The keys to the cabinet ___ here ." -m checkpoints/elmo-small-en --words is,are
      elmo-hf fill "She ___ the [MASK] ." --gap [MASK] -m checkpoints/elmo-small-en
    """
    check_model(model)
    choice = None if words is None else [word.strip() for word in words.split(",")]
    language_model, tokenizer = load_language_model(model)
    from elmo_hf import fill_gaps

    directions: list[Direction] = ["forward"]
    if language_model.config.bidirectional:
        directions += ["backward", "both"]
    with one_line_errors(ValueError):
        columns = [
            fill_gaps(
                language_model, tokenizer, sentence, gap=gap, top=top, words=choice, direction=one
            )
            for one in directions
        ]
    for number, gaps in enumerate(zip(*columns, strict=True), 1):
        print(f"gap {number}, word {gaps[0].position + 1}")
        cells = [
            [TITLES[one], *(f"{getattr(best, one):7.2f}  {best.word}" for best in found.candidates)]
            for one, found in zip(directions, gaps, strict=True)
        ]
        widths = [max(map(len, column)) for column in cells]
        for row in zip(*cells, strict=True):
            line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print(line.rstrip())


def score(
    text: Annotated[
        Path, typer.Argument(metavar="IN", help="A file of sentences; - for the standard input.")
    ],
    model: Model,
    input: Input = "text",
    direction: Annotated[
        Literal["both", "forward", "backward"],
        typer.Option(metavar="NAME", help="Directions to show: both, forward or backward."),
    ] = "both",
    bits: Annotated[
        bool, typer.Option("--bits", help="Surprisal in bits instead of nats.")
    ] = False,
    no_eos: Annotated[
        bool, typer.Option("--no-eos", help="Leave the boundaries <S> and </S> out.")
    ] = False,
    running_text: Annotated[
        bool,
        typer.Option(
            "--running-text",
            help="Running text: each sentence is context of the next; the text is kept in memory.",
        ),
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the perplexity only, not each word.")
    ] = False,
) -> None:
    """Print the surprisal of each word of a file.

    The surprisal is -log p(word). There is one row per word, separated by tabs: number of the
    sentence, from 1; position of the word, from 1; the word; its surprisal given the words before
    it (forward) and after it (backward); and 1 if it is not in the vocabulary. The surprisal is
    then that of the unknown word, which stands for all of them: leave these rows out of
    comparisons. The boundary <S> has position 0, predicted backward; </S> comes last, predicted
    forward. Quotation marks are quoted as in CSV files, for pandas and R. Blank lines are left out,
    but counted. The perplexity goes to stderr.

    \b
    Examples:
      elmo-hf score text.txt --model checkpoints/elmo-small-en --bits > surprisal.tsv
      elmo-hf score text.txt --model checkpoints/elmo-small-en --running-text --summary
      echo "The horse raced past the barn fell ." | elmo-hf score - -m checkpoints/elmo-small-en
    """
    check_model(model)
    check_text(text)
    language_model, tokenizer = load_language_model(model)
    if direction != "forward" and not language_model.config.bidirectional:
        if direction == "backward":
            raise CommandError(f"{model} has no backward LSTMs; leave out --direction")
        direction = "forward"
    from elmo_hf import perplexity, score_sentences, score_text

    with one_line_errors(ValueError, RuntimeError):
        given, shown = tee(numbered_sentences(text, input))
        compute = score_text if running_text else score_sentences
        scores: Iterable[SentenceScores]
        scores = compute(language_model, tokenizer, (sentence for _, sentence in given))
        if not summary:
            unit = math.log(2) if bits else 1.0
            rows = _rows(tokenizer, shown, scores, unit)
            scores = _write(rows, _columns(direction), not no_eos)
        found = perplexity(scores, boundaries=not no_eos)
    print(_describe(found, direction), file=sys.stdout if summary else sys.stderr)


def load_language_model(folder: Path) -> "tuple[ElmoForPreTraining, ElmoTokenizer]":
    """Load a language model and its tokenizer; raise CommandError if the folder has none."""
    import torch

    from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
    from elmo_hf.loading import damage_explained

    hide_loading()
    with one_line_errors(ValueError, RuntimeError), damage_explained(folder):
        if not ElmoConfig.from_pretrained(folder).lm_vocab_size:
            raise CommandError(f"{folder} holds no language model: its softmax is missing")
        model, report = ElmoForPreTraining.from_pretrained(folder, output_loading_info=True)
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"]))
            raise CommandError(f"{folder} holds no language model: it lacks {missing}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.eval().to(device), ElmoTokenizer.from_pretrained(folder)


def _columns(direction: str) -> list[str]:
    hidden = {"forward": "backward", "backward": "forward"}.get(direction)
    return [name for name in COLUMNS if name != hidden]


def _rows(
    tokenizer: "ElmoTokenizer",
    sentences: Iterable[tuple[int, str | Sequence[str]]],
    scores: "Iterable[SentenceScores]",
    unit: float,
) -> "Iterator[tuple[SentenceScores, list[dict[str, object]]]]":
    """Yield the scores of each sentence and its rows, which are those of boundaries and words."""
    for (number, sentence), score in zip(sentences, scores, strict=True):
        words = words_of(tokenizer, sentence)
        rows: list[dict[str, object]] = [
            {"sentence": number, "position": position, "word": word, "unknown": 0}
            for position, word in enumerate([tokenizer.bos_token, *words, tokenizer.eos_token])
        ]
        for row, is_unknown in zip(rows[1:-1], score.unknown, strict=True):
            row["unknown"] = int(is_unknown)
        for row, value in zip(rows[1:], score.forward, strict=True):
            row["forward"] = f"{(0 - value) / unit:.6f}"
        if score.backward is not None:
            for row, value in zip(rows[:-1], score.backward, strict=True):
                row["backward"] = f"{(0 - value) / unit:.6f}"
        yield score, rows


def _write(
    found: "Iterable[tuple[SentenceScores, list[dict[str, object]]]]",
    columns: list[str],
    boundaries: bool,
) -> "Iterator[SentenceScores]":
    """Write the rows of each sentence, and pass its scores on."""
    writer = csv.DictWriter(
        sys.stdout, columns, extrasaction="ignore", dialect="excel-tab", lineterminator="\n"
    )
    for number, (score, rows) in enumerate(found):
        if not number:
            writer.writeheader()
        writer.writerows(rows if boundaries else rows[1:-1])
        yield score


def _describe(found: "Perplexity", direction: str) -> str:
    shown = {name: getattr(found, name) for name in ("forward", "backward", "mean")}
    parts = [
        f"{name} {value:.2f}"
        for name, value in shown.items()
        if value is not None and direction in ("both", name)
    ]
    return (
        f"perplexity: {', '.join(parts)}; words: {found.words}, {found.unknown_rate:.2%} unknown; "
        f"sentences: {found.sentences}"
    )


__all__ = ["fill", "load_language_model", "score"]
