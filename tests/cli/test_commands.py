"""The command line answers at once, explains itself, and fails in one line."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.originals import options, random_arrays, write_original

import elmo_hf_cli
from conversion import convert as convert_script
from elmo_hf.conversion.registry import read_registry
from elmo_hf.extras import MissingExtraError
from elmo_hf_cli.failures import one_line_errors

COMMANDS = [
    "convert",
    "fetch",
    "publish",
    "embed",
    "info",
    "words",
    "similar",
    "fill",
    "score",
    "export",
]


@pytest.fixture
def run(capsys):
    """Run a command line; return its exit status, what it printed, and its errors."""

    def call(line):
        status = elmo_hf_cli.main(shlex.split(line))
        return status, *capsys.readouterr()

    return call


def examples(text):
    return re.findall(r"^\s+elmo-hf (\w.*?)(?:   .*| > \S+)?$", text, re.MULTILINE)


def test_no_help_imports_torch_or_transformers():
    code = (
        "import sys, elmo_hf_cli\n"
        "for line in sys.argv[1:]:\n"
        "    assert elmo_hf_cli.main(line.split()) == 0\n"
        "assert not {'pydantic', 'rich'} & sys.modules.keys()\n"
        "assert elmo_hf_cli.main(['convert', '--wrong']) == 2\n"
        "assert elmo_hf_cli.main(['convert', 'gone', 'ours']) == 1\n"
        "assert not {'torch', 'transformers', 'numpy', 'elmo_hf'} & sys.modules.keys()\n"
    )
    lines = ["--help", "", *(f"{command} --help" for command in COMMANDS)]
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, *lines], cwd=root, check=True, capture_output=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_explains_all_options_and_has_examples_that_parse(run, command):
    status, text, _ = run(f"{command} --help")
    assert status == 0 and len(examples(text)) >= 2
    listed = text.partition("Options:")[2]
    assert all(re.match(r"  +-.*\s{2,}\w|\s{10,}\S", line) for line in listed.splitlines() if line)
    for example in examples(text):
        name, *arguments = shlex.split(example)
        assert name == command
        click_command = elmo_hf_cli.typer.main.get_command(elmo_hf_cli.app).commands[name]
        assert click_command.make_context(name, [*arguments]).params
    named = re.findall(r"(?:fetch|--checkpoint) (\w\S+)", "\n".join(examples(text)))
    for checkpoint in named:
        assert checkpoint in read_registry()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("elephant", "No such command 'elephant'; see elmo-hf --help"),
        ("convert --wrong", "No such option: --wrong; see elmo-hf convert --help"),
        ("convert original", "pass SOURCE and OUTPUT"),
        ("convert --options options.json ours", "pass SOURCE and OUTPUT"),
        ("convert --to-hdf5 --to-allennlp ours back", "pass either --to-hdf5 or --to-allennlp"),
        ("convert --alignment one=file original ours", "expected LAYER=FILE"),
        ("fetch", "elmo-hf fetch --list shows all names"),
        ("publish elmo-small", "Missing argument 'REPO_ID'; see elmo-hf publish --help"),
    ],
)
def test_wrong_arguments_are_one_line_with_status_2(run, tmp_path, monkeypatch, line, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "original").mkdir()
    status, _, errors = run(line)
    assert status == 2 and errors.count("\n") == 1
    assert errors.startswith("error: ") and complaint in errors


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("convert orignal ours", "orignal does not exist; did you mean original?"),
        ("convert --to-hdf5 elmo-smal back", "no folder elmo-smal; did you mean elmo-small?"),
        ("convert --to-hdf5 models/elmo-small back", "no folder models/elmo-small"),
        ("convert --to-allennlp notes.txt back.th", "notes.txt is a file; pass the folder"),
        ("publish elmo-smal me/elmo", "elmo-smal does not exist; did you mean elmo-small?"),
        ("convert original ours --vocab words", "words does not exist"),
        ("fetch allennlp-smal", "did you mean allennlp-small"),
    ],
)
def test_what_is_missing_is_named_with_the_nearest(run, tmp_path, monkeypatch, line, complaint):
    monkeypatch.chdir(tmp_path)
    for name in ("original", "elmo-small", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    status, _, errors = run(line)
    assert status == 1 and errors.count("\n") == 1
    assert errors.startswith("error: ") and complaint in errors


def test_a_conversion_prints_only_what_concerns_it(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_original(tmp_path / "original", options(), random_arrays(options()))
    status, printed, errors = run("convert original ours")
    assert status == 0 and errors == ""
    assert printed.splitlines()[-1] == "wrote ours" and printed.count("layer ") == 3
    assert "raw text is split into words by billion-words; --splitter chooses others" in printed
    named = "--options original/options.json --weights original/weights.hdf5"
    status, printed, _ = run(f"convert {named} too --splitter treebank")
    assert status == 0 and "split into words by treebank" in printed
    status, _, errors = run("convert original ours")
    assert status == 1 and "ours exists already" in errors
    status, printed, _ = run("convert --to-hdf5 ours back")
    assert status == 0 and "gives the same bits" in printed


def test_missing_extras_and_errors_of_files_are_one_line():
    for error, message in [
        (MissingExtraError("install it with:\n  pip"), "install it with: pip"),
        (OSError(28, "No space left on device", "ours/model"), "ours/model: No space left on de"),
        (KeyError("bug"), None),
    ]:
        expected = elmo_hf_cli.CommandError if message else KeyError
        with pytest.raises(expected, match=message), one_line_errors():
            raise error


def test_an_interruption_is_one_line_with_status_130(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("elmo_hf.conversion.convert.convert", interrupted)
    status, _, errors = run(f"convert {tmp_path} {tmp_path / 'ours'}")
    assert status == 130 and errors.strip() == "error: interrupted"


def test_the_script_of_a_clone_is_the_same_command(capsys):
    assert convert_script.main(["--help"]) == 0
    assert "Usage: python -m conversion.convert [OPTIONS] [SOURCE]" in capsys.readouterr().out


def test_a_shell_completes_commands_and_options():
    code = "from elmo_hf_cli import run; run()"
    for typed, found in (("elmo-hf fi", ["fill"]), ("elmo-hf fill --to", ["--top"])):
        asked = {"_ELMO_HF_COMPLETE": "complete_bash", "COMP_WORDS": typed}
        words = {"COMP_CWORD": str(len(typed.split()) - 1), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env=asked | words,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == found and done.stderr == ""


def test_the_versions_are_shown(run):
    status, printed, _ = run("--version")
    assert status == 0 and re.match(r"elmo-hf \S+, torch \S+, transformers \S+\n", printed)
