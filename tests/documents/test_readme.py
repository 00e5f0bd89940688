"""Nothing stands in the README that does not run."""

import re
from pathlib import Path

from helpers.documents import ROOT, commands, run_command, run_python, write_workplace

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_print_what_stands_below_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    run_python(README)


def test_shell_commands_run(tmp_path, monkeypatch):
    write_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = commands(README)
    assert len(lines) >= 6
    for line in lines:
        run_command(line, monkeypatch)
    assert Path("my-elmo/model.safetensors").exists() and Path("tagger/config.json").exists()


def test_make_targets_and_extras_that_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"elmo-hf\[(\w+)\]", README):
        assert re.search(rf"^{extra} = ", project, re.MULTILINE), extra


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / target).exists(), target


def test_it_is_short():
    assert README.count("\n") <= 150
