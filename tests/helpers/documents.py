"""
The code of Markdown documents: Python blocks with the output below them, and commands.

`PYTHONPATH=tests python -m helpers.documents README.md docs/*.md` writes the output anew.
"""

import contextlib
import importlib
import io
import itertools
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers.bias import write_bias_data
from helpers.originals import options, random_arrays, write_original

ROOT = Path(__file__).parents[2]
# Checked by hand or elsewhere: they would install, download, or run these tests.
NOT_RUN = ("make ", "pip install", "elmo-hf fetch allennlp")
TAGGED = "Ada B-PER\nmet O\nBabbage B-PER\n\nIn O\nLondon B-LOC\n"
RATED = "text,label\nA good one .,good\nA bad one .,bad\n"
TEXT = "The river rose .\nIt rained .\n\nThe bank lent money .\n" * 20
# What the commands read.
FILES = {
    "train.conll": TAGGED,
    "dev.conll": TAGGED,
    "test.conll": TAGGED,
    "raw.conll": TAGGED,
    "train.csv": RATED,
    "dev.csv": RATED,
    "text.txt": TEXT,
    "words.txt": "river\nbank\n",
    "misspellings.txt": "rivr->river\nmoeny->money\nreigned->rained, reined,\n",
    "sentences.txt": "The river rose .\nIt rained .\n",
    "config.json": '{"cell_dim": 8, "projection_dim": 4, "filters": [[1, 4], [2, 4]]}',
}


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def run_python(text: str) -> None:
    """Run the Python blocks in one namespace; each prints what the `text` block below it says."""
    for code, wanted, printed in run_blocks(text):
        assert printed.endswith(wanted), f"{code}\nprinted\n{printed}"


def run_blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Run the Python blocks in one namespace; yield code, `text` block and what was printed."""
    namespace: dict[str, object] = {}
    for (language, code), (following, expected) in itertools.pairwise([*blocks(text), ("", "")]):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "<document>", "exec"), namespace)
        yield code, expected if following == "text" else "", printed.getvalue()


def rewrite(document: Path) -> None:
    """Replace the `text` blocks below the Python blocks by what is printed now."""
    text, place = document.read_text(encoding="utf-8"), 0
    for code, wanted, printed in run_blocks(text):
        place = text.index(f"```python\n{code}```", place) + len(code)
        if wanted and not printed.endswith(wanted):
            lines = printed.splitlines(keepends=True)[-wanted.count("\n") :]
            start = text.index(f"```text\n{wanted}```", place) + len("```text\n")
            text = text[:start] + "".join(lines) + text[start + len(wanted) :]
            print(f"{document.name}: {code.splitlines()[-1]}")
    document.write_text(text, encoding="utf-8")


def commands(text: str) -> list[str]:
    """The shell commands that a test can run."""
    lines = [
        line for language, code in blocks(text) if language == "bash" for line in code.splitlines()
    ]
    return [line for line in lines if line.strip() and not line.startswith(NOT_RUN)]


def write_workplace(folder: Path) -> None:
    """Make the files that the commands read, original weights of the small width among them."""
    made_of = options(lstm__projection_dim=128, lstm__dim=64)
    arrays = random_arrays(made_of, softmax=True)
    write_original(folder / "original", made_of, arrays, vocab=True)
    for name in ("checkpoints", "examples"):
        (folder / name).symlink_to(ROOT / name)
    write_bias_data(folder / "data")
    for name, content in FILES.items():
        (folder / name).write_text(content)


def run_command(command: str, monkeypatch) -> None:
    """Do in this process what a line of shell does."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "elmo-hf":
        from elmo_hf_cli import main  # the console script's entry

        assert main(arguments) == 0, command
        return
    assert program == "python", command
    script = ROOT / arguments[0]
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr("sys.argv", arguments)
    importlib.import_module(script.stem).main()


if __name__ == "__main__":
    documents = [Path(name).resolve() for name in sys.argv[1:]]
    for one in documents:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            write_workplace(Path(folder))
            rewrite(one)
