"""Nothing stands in the README that does not run."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from helpers.originals import options, random_arrays, write_original

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Checked below without being run: they would install, or run these tests.
NOT_RUN = ("make ", "pip install")
# What the commands read.
TAGGED = "Ada B-PER\nmet O\nBabbage B-PER\n\nIn O\nLondon B-LOC\n"
RATED = "text,label\nA good one .,good\nA bad one .,bad\n"
TEXT = "The river rose .\nIt rained .\n\nThe bank lent money .\n" * 20
FILES = {
    "train.conll": TAGGED,
    "dev.conll": TAGGED,
    "train.csv": RATED,
    "dev.csv": RATED,
    "text.txt": TEXT,
    "config.json": '{"cell_dim": 8, "projection_dim": 4, "filters": [[1, 4], [2, 4]]}',
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the original files of a model of the small published width."""
    made_of = options(lstm__projection_dim=128, lstm__dim=64)
    arrays = random_arrays(made_of, softmax=True)
    write_original(tmp_path / "original", made_of, arrays, vocab=True)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples_print_what_stands_below_them(workplace, capsys):
    namespace = {}
    assert len(blocks("python")) == len(blocks("text")) == 2
    for code, expected in zip(blocks("python"), blocks("text"), strict=True):
        exec(code, namespace)
        assert capsys.readouterr().out == expected


def run(command, monkeypatch):
    """Do what a line of shell does, in this process."""
    program, first, *arguments = shlex.split(command, comments=True)
    assert program == "python", command
    if first == "-m":
        assert importlib.import_module(arguments[0]).main(arguments[1:]) == 0, command
        return
    script = ROOT / first
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr("sys.argv", [first, *arguments])
    sys.modules.pop("task_data", None)
    runpy.run_path(str(script))["main"]()


def test_shell_commands_run(workplace, monkeypatch):
    for name, content in FILES.items():
        Path(name).write_text(content)
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    commands = [line for line in lines if not line.startswith(NOT_RUN)]
    assert len(commands) >= 8
    for line in commands:
        run(line, monkeypatch)
    assert Path("my-elmo/model.safetensors").exists() and Path("tagger/config.json").exists()


def test_make_targets_and_extras_that_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"\[(\w+)\]\"", README):
        assert re.search(rf"^{extra} = ", project, re.MULTILINE), extra


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / target).exists(), target


def test_it_is_short():
    assert README.count("\n") <= 150
