# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
The console command `elmo-hf`.

This package is outside of elmo_hf, because importing elmo_hf imports torch and transformers, which
takes seconds: `elmo-hf --help`, shell completion and wrong options must answer at once. Each
command imports elmo_hf inside its function, after its arguments are checked.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .bias import bias
from .conversion import convert, fetch, publish
from .embedding import embed
from .exploration import explore
from .export import export
from .failures import CommandError, one_line
from .inspection import info, similar, words
from .language import fill, score
from .noise import noise

UsageError: type[Exception] = typer.BadParameter.__bases__[0]

HELP_OPTIONS = {"help_option_names": ["--help", "-h"]}

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes as long as all the rest
    context_settings=HELP_OPTIONS,
)
COMMANDS = (
    convert,
    fetch,
    publish,
    embed,
    info,
    words,
    similar,
    explore,
    bias,
    noise,
    fill,
    score,
    export,
)
for command in COMMANDS:
    app.command(context_settings=HELP_OPTIONS)(command)


def print_version(wanted: bool) -> None:
    """Print the versions that a bug report needs, and exit."""
    if wanted:
        import torch
        import transformers

        import elmo_hf

        ours = f"elmo-hf {elmo_hf.__version__}"
        print(f"{ours}, torch {torch.__version__}, transformers {transformers.__version__}")
        raise typer.Exit


@app.callback()
def elmo_hf_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=print_version,
            is_eager=True,
            help="Show the versions of elmo-hf, torch and transformers, and exit.",
        ),
    ] = False,
) -> None:
    """ELMo (Peters et al. 2018) for Hugging Face.

    \b
    Examples:
      elmo-hf fetch allennlp-small elmo-small    download and convert published weights
      elmo-hf convert original elmo-small        convert the weights in folder `original`
      elmo-hf embed text.txt out -m elmo-small   write the vectors of a text
      elmo-hf fill "A ___ rose." -m elmo-small   show the words that a model predicts
      elmo-hf explore bank --text text.txt -m elmo-small -o page.html   draw its senses
      elmo-hf score text.txt -m elmo-small       surprisal of each word, and perplexity
      elmo-hf convert --help                     show all options of a command
    """


def main(
    arguments: Sequence[str] | None = None, command: str | None = None, program: str = "elmo-hf"
) -> int:
    """
    Run the command line.

    Args:
        arguments: the arguments after the program's name; default: those of this process.
        command: run this sub-command; its name is then not part of `arguments`.
        program: the program name that the help shows.

    Returns:
        The exit status: 0 for success, 1 if the command failed, 2 for wrong arguments, 130 if it
        was interrupted. Each error is one line on stderr.
    """
    click_command = typer.main.get_command(app)
    commands = click_command.commands  # type: ignore[attr-defined]
    given = sys.argv[1:] if arguments is None else [*arguments]
    if command is None and given and given[0] in commands:
        # Run the command directly: for the options before a command, typer imports pydantic.
        command, program, given = given[0], f"{program} {given[0]}", given[1:]
    if command is not None:
        click_command = commands[command]
    elif not given:
        given = ["--help"]
    try:
        status = click_command.main(given, program, standalone_mode=False)
    except UsageError as error:
        context = getattr(error, "ctx", None)
        asked = context.command_path if context else program
        message = one_line(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
        link = " See" if message.endswith("?") else "; see"
        return _fail(f"{message}{link} {asked} --help", 2)
    except CommandError as error:
        return _fail(str(error), error.status)
    except typer.Abort:  # Control-C; newer releases of typer return its status
        status = 130
    except BrokenPipeError:  # the reader of our output, for instance `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return _fail("interrupted", 130) if status == 130 else status or 0


def run() -> None:
    """Run `elmo-hf` and exit with its status."""
    sys.exit(main())


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


__all__ = ["app", "main", "run"]
