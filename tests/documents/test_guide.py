"""The guide in docs/: its code runs and prints what stands below it."""

import re

import pytest
from helpers.documents import ROOT, commands, run_command, run_python, write_workplace

PAGES = sorted((ROOT / "docs").glob("*.md"))
QUICK = {"index", "allennlp", "speed"}


def is_slow(page):
    return () if page.stem in QUICK else pytest.mark.slow


@pytest.mark.parametrize("page", [pytest.param(p, id=p.stem, marks=is_slow(p)) for p in PAGES])
def test_python_examples_print_what_stands_below_them(page, tmp_path, monkeypatch):
    write_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    run_python(page.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_shell_commands_run(page, tmp_path, monkeypatch):
    write_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in commands(page.read_text(encoding="utf-8")):
        run_command(line, monkeypatch)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert sorted(re.findall(r": (\w[\w-]*\.md)", navigation)) == [page.name for page in PAGES]
