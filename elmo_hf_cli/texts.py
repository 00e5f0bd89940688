# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""What the commands that load a model and read texts share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .failures import CommandError, check_exists

if TYPE_CHECKING:
    from elmo_hf import ElmoTokenizer

Model = Annotated[
    Path,
    typer.Option("--model", "-m", metavar="MODEL", help="A model folder, or a name on the Hub."),
]
Input = Annotated[
    Literal["text", "words", "conllu", "jsonl"],
    typer.Option(
        metavar="KIND", help="What the file holds: text or words, line by line; conllu; jsonl."
    ),
]


def check_text(path: Path | None) -> None:
    """Raise CommandError unless the file exists; None and "-", the standard input, are fine."""
    if str(path) != "-":
        check_exists(path)


def numbered_sentences(path: Path, input: str) -> Iterator[tuple[int, str | Sequence[str]]]:
    """
    Yield the sentences of a file that have words, numbered from 1; blank lines count.

    Raises:
        CommandError: the file holds no words; raised while iterating.
        ValueError: the file cannot be read; raised while iterating.
    """
    from elmo_hf.text_files import read_sentences

    empty = True
    for number, sentence in enumerate(read_sentences(path, input), 1):  # type: ignore[arg-type]
        if sentence:
            empty = False
            yield number, sentence
    if empty:
        raise CommandError(f"{path} holds no words")


def hide_loading() -> None:
    """Show no progress bar while transformers loads a model."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def words_of(tokenizer: "ElmoTokenizer", sentence: str | Sequence[str]) -> Sequence[str]:
    """Return the words into which the tokenizer splits a text; a list of words stays as it is."""
    if isinstance(sentence, str):
        return tokenizer(sentence, add_special_tokens=False).tokens()
    return sentence


__all__ = ["Input", "Model", "check_text", "hide_loading", "numbered_sentences", "words_of"]
