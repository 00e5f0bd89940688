"""The benchmark of storage runs on a small text, and its figures are of one kind."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import storage


def test_a_run_is_cut_into_quarters():
    assert storage.quarters([1, 5, 2, 3, 9, 4, 4]) == [5, 3, 9, 4]


@pytest.mark.slow
def test_it_measures_rates_memory_and_reads(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("The river rose .\nIt rained , and rained .\n")
    arguments = f"--text {tmp_path}/text.txt --words 500 --rounds 1 --threads 1 --work {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["benchmarks/storage.py", *arguments.split()])
    storage.main()
    found = json.loads(capsys.readouterr().out)
    assert found["words"] == 500 and 0 < found["share_of_embed_corpus"] < 2
    assert found["largest_difference"] < 1e-5 and found["reads_per_second"] > 0
    assert len(found["memory_in_quarters"]) >= 1 and found["bytes_per_word"] > 2048
