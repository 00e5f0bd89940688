"""Nothing stands in the README that does not run."""

import re
import shlex
from pathlib import Path

import pytest
from originals import options, random_arrays, write_original

from conversion.convert import convert, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Checked below without being run: they would install, or run these tests.
NOT_RUN = ("make ", "pip install")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the original files of a model of the small published width."""
    made_of = options(lstm__projection_dim=128, lstm__dim=64)
    arrays = random_arrays(made_of, softmax=True)
    write_original(tmp_path / "original", made_of, arrays, vocab=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples_print_what_stands_below_them(workplace, capsys):
    convert(Path("original"), Path("elmo-small"))
    capsys.readouterr()
    namespace = {}
    assert len(blocks("python")) == len(blocks("text")) == 2
    for code, expected in zip(blocks("python"), blocks("text"), strict=True):
        exec(code, namespace)
        assert capsys.readouterr().out == expected


def test_shell_commands_run(workplace):
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    commands = [line for line in lines if not line.startswith(NOT_RUN)]
    assert len(commands) >= 3
    for line in commands:
        program, *arguments = shlex.split(line, comments=True)
        assert [program, *arguments[:2]] == ["python", "-m", "conversion.convert"], line
        assert main(arguments[2:]) == 0, line


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
