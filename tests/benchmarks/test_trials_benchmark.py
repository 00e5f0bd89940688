"""The benchmark of pre-training's trials: equal words for all, and the table."""

import json
from pathlib import Path

import pytest

from elmo_hf import ElmoConfig, ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, read_corpus

ROOT = Path(__file__).parents[2]
TINY = {"cell_dim": 8, "projection_dim": 4, "filters": [[1, 3]], "num_sampled_words": 3}


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pretraining_trials

    return pretraining_trials


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("one two three four five .\nsix seven .\n" * 500, encoding="utf-8")
    return file


def test_every_trial_reads_as_many_words(trials, text, tmp_path):
    stream = WordStream(read_corpus([text], ElmoTokenizer(), tmp_path / "words"))
    for name, trial in trials.TRIALS.items():
        config, recipe = trials.plan(trial, stream, 10_000_000)
        ElmoConfig(**config, lm_vocab_size=50_000)
        # Windows of whole sentences hold a little less than they might.
        most = recipe["max_steps"] * recipe["window"] * recipe["per_device_train_batch_size"]
        assert 0.99 <= most / 10_000_000 <= 1.25, name
    plans = [
        json.dumps([*trials.plan(one, stream, 100), one.mixed]) for one in trials.TRIALS.values()
    ]
    assert len({*plans}) == len(plans)


@pytest.mark.slow
def test_trials_run_once_and_are_reported(trials, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "CONFIG", trials.CONFIG | TINY)
    monkeypatch.setattr(
        trials,
        "RECIPE",
        trials.RECIPE | {"vocabulary_size": 12, "window": 16, "per_device_train_batch_size": 4},
    )
    averaged = "constant rates, the last checkpoints averaged"
    names = [trials.BASE, "3 layers", averaged]
    arguments = ["--train_files", str(text), "--valid_files", str(text), "--words", "1000"]
    arguments += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "trials.md")]
    trials.main([*arguments, "--only", *names])
    first = capsys.readouterr().out
    results = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert [*results] == names
    assert results[names[0]]["parameters"] < results[names[1]]["parameters"]
    assert 1 < results[names[0]]["perplexity"] < 20
    (file,) = (tmp_path / "work").glob("*/averaged.json")
    own = json.loads(file.with_name("eval_results.json").read_text())["eval_perplexity"]
    assert results[averaged]["perplexity"] != own
    assert results[averaged]["perplexity"] == pytest.approx(own, rel=0.2)
    monkeypatch.setattr(trials.subprocess, "run", None)
    trials.main([*arguments, "--only", *names])
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_a_trial_that_fails_names_its_log(trials, text, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "FIXED", "--no_such_argument")
    arguments = ["--train_files", str(text), "--valid_files", str(text), "--workers", "1"]
    with pytest.raises(SystemExit, match=r"'3 layers' ended with 2; see .*log.txt"):
        trials.main([*arguments, "--work", str(tmp_path / "work"), "--only", "3 layers"])
    assert "no_such_argument" in next((tmp_path / "work").glob("*/log.txt")).read_text()
