"""The command noise prints the noised text, or how far the vectors move."""

import io
import json
import shlex
from pathlib import Path

import pytest

import elmo_hf_cli

CHECKPOINT = Path(__file__).parents[2] / "checkpoints/elmo-mini-en"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("The  river rose (because\n\nit rained much).\n")
    (tmp_path / "list").write_text("rivr->river\nbecuase->because\n")
    (tmp_path / "text.conllu").write_text("1\tA\t_\n2\triver\t_\n\n")
    monkeypatch.chdir(tmp_path)

    def call(line):
        status = elmo_hf_cli.main(shlex.split(line))
        return status, *capsys.readouterr()

    return call


def test_text_keeps_its_lines_and_blanks(run):
    status, out, err = run("noise text.txt --misspellings list --case upper")
    assert (status, out) == (0, "THE  RIVR ROSE (BECUASE\n\nIT RAINED MUCH).\n")
    assert err == "7 of 10 words changed (70.0%); 20.0% have a listed misspelling\n"
    assert run("noise text.txt --misspellings list --probability 0")[1:] == (
        "The  river rose (because\n\nit rained much).\n",
        "0 of 10 words changed (0.0%); 20.0% have a listed misspelling\n",
    )
    noised = [run(f"noise text.txt --characters 0.3 --seed {seed}")[1] for seed in (0, 0, 1)]
    assert noised[0] == noised[1] != noised[2]


def test_other_inputs_are_read(run, monkeypatch):
    assert run("noise text.conllu --input conllu --case upper")[1] == "A RIVER\n"
    lines = '["a b", "c"]\n["d"]\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    Path("lines.jsonl").write_text(lines)
    found = run("noise lines.jsonl --input jsonl --case upper")[1].splitlines()
    assert [json.loads(line) for line in found] == [["A B", "C"], ["D"]]


def test_a_report_shows_each_layer_and_the_floor(run):
    status, out, err = run(f"noise text.txt --misspellings list -m {CHECKPOINT}")
    first, header, *rows = out.splitlines()
    assert (status, err) == (0, "")
    assert first == "2 of 10 words changed (20.0%); 20.0% have a listed misspelling"
    assert header.split("  ")[-1].strip() == "random words"
    assert [row[:7] for row in rows] == ["layer 0", "layer 1", "layer 2"]
    assert "1.000 [1.000, 1.000]" in rows[0] and "1.000" not in rows[2]


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        ("text.txt", 2, "no noise was asked for; pass --misspellings, --characters or --case"),
        ("text.tx --case upper", 1, "text.tx does not exist; did you mean text.txt?"),
        ("text.txt --misspellings lst", 1, "lst does not exist; did you mean list?"),
        ("text.txt --misspellings text.txt", 1, "text.txt is no list of misspellings"),
        ("text.txt --characters 5", 2, "'--characters'"),
        ("text.txt --case upper -m checkpoint", 1, "there is no folder checkpoint"),
        (f"text.txt --characters 0 -m {CHECKPOINT}", 1, "changes none of these 10 words"),
    ],
)
def test_errors_are_one_line(run, line, status, complaint):
    found, out, err = run(f"noise {line}")
    assert (found, out) == (status, "") and complaint in err and err.count("\n") == 1
