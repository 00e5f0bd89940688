"""examples/pretrain.py: models, errors, several processes, killed runs, and full disks."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pretrain
import pytest
import torch
from helpers.pretraining import TINY

from elmo_hf import ElmoTokenizer
from elmo_hf.pretraining.corpora import read_corpus
from elmo_hf.pretraining.runs import last_checkpoint, load_for_pretraining

ROOT = Path(__file__).parents[2]


def command(folder, output, *more, steps=4, batch=4):
    return [
        "--train_files", str(folder / "train.txt"), "--valid_files", str(folder / "valid.txt"),
        "--cache_dir", str(folder / "cache"), "--output_dir", str(output), "--window", "12",
        "--vocabulary_size", "30", "--config", json.dumps({**TINY, "dropout": 0.0}), "--use_cpu",
        "--per_device_train_batch_size", str(batch), "--max_steps", str(steps), "--report_to",
        "none", "--logging_steps", "1", "--save_steps", "2", "--disable_tqdm", "true", *more,
    ]  # fmt: skip


@pytest.fixture
def run_script(folder, tmp_path):
    def run(*more, name="run", **options):
        pretrain.main(command(folder, tmp_path / name, *more, **options))
        return tmp_path / name

    return run


@pytest.mark.parametrize("more, rate", [([], 8e-3), (["--init_from=x"], 4e-3)])
@pytest.mark.parametrize("given", [[], ["--learning_rate", "0.5"]])
def test_a_checkpoint_is_trained_with_lower_rates(more, rate, given, tmp_path, monkeypatch):
    argv = ["--output_dir", str(tmp_path), "--use_cpu", *more, *given]
    found = []
    monkeypatch.setattr(pretrain, "make_job", lambda _, training: found.append(training) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain.main(argv)
    assert found[0].learning_rate == (0.5 if given else rate)


def test_the_script_makes_a_folder_that_loads_and_can_be_trained_on(run_script):
    first = run_script("--min_count", "2")
    model, tokenizer = load_for_pretraining(first)
    assert 3 < tokenizer.lm_vocab_size <= 30
    metrics = json.loads((first / "eval_results.json").read_text())
    assert 1 < metrics["eval_perplexity"] < 100
    second = run_script("--init_from", str(first), "--learning_rate", "0", name="second")
    same, _ = load_for_pretraining(second)
    for name, weight in model.state_dict().items():
        assert torch.equal(same.state_dict()[name], weight)
    third = run_script("--init_from", str(first), "--new_vocabulary", name="third")
    assert load_for_pretraining(third)[1].lm_vocab_size == 30


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_is_refused(run_script):
    folder = run_script(steps=2)
    assert run_script(steps=4) == folder
    history = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert [log["step"] for log in history["log_history"] if "loss" in log] == [1, 2, 3, 4]
    with pytest.raises(SystemExit, match=r"error: (.|\n)*feed: .* there, .* now"):
        run_script("--feed", "streams", steps=4)
    with pytest.raises(SystemExit, match="seed: 42 there, 7 now"):
        run_script("--seed", "7", steps=4)
    with pytest.raises(SystemExit, match=r"rates: \[.*\] there, \[.*\] now"):
        run_script("--learning_rate", "1e-4", steps=4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--resume_from_checkpoint", "run"], "leave it out"),
        (["--dataset", "x"], "--valid_files is for"),
        (["--init_from", "x", "--vocabulary_file", "y"], "needs --new_vocabulary"),
    ],
)
def test_options_without_effect_are_refused(run_script, options, complaint):
    with pytest.raises(SystemExit, match=f"^error: .*{complaint}"):
        run_script(*options)


@pytest.mark.slow
@pytest.mark.parametrize("filters", [[], TINY["filters"]], ids=["words", "words and characters"])
def test_a_table_of_the_vocabulary_is_trained_as_input(run_script, filters):
    config = {**TINY, "filters": filters, "word_embedding_dim": 5, "num_highway_layers": 0}
    folder = run_script("--config", json.dumps(config))
    model, tokenizer = load_for_pretraining(folder)
    assert model.config.word_vocab_size == tokenizer.lm_vocab_size + 1 == 31
    inputs = tokenizer("xyzzy quux", return_tensors="pt")
    ids = inputs.word_input_ids if filters else inputs.input_ids
    unknown = 1 + tokenizer.lm_vocab.index("<UNK>")
    assert ids[0].tolist() == [1, unknown, unknown, 2]
    table = model.elmo.embeddings.word_embeddings.weight
    before = run_script("--config", json.dumps(config), "--learning_rate", "0", name="start")
    old = load_for_pretraining(before)[0].elmo.embeddings.word_embeddings.weight
    assert (table != old).any(1).sum() > 20 and torch.equal(table[0], old[0])


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ('{"projection_dims": 5}', "no field 'projection_dims'; did you mean projection_dim?"),
        ('{"xyz": 5}', "no field 'xyz'; see the docstring of ElmoConfig"),
        ('{"lm_vocab_size": 5}', "leave it out and use --vocabulary_size"),
        ('{"cell_dim": }', "is no valid JSON"),
        ("FILE", "no field 'projection_dims'; did you mean projection_dim?"),
        ("missing.json", "missing.json: No such file or directory"),
    ],
)
def test_the_script_refuses_a_wrong_configuration(run_script, tmp_path, config, complaint):
    if config == "FILE":
        config = str(tmp_path / "config.json")
        Path(config).write_text('{"projection_dims": 5}')
    with pytest.raises(SystemExit) as caught:
        run_script("--config", config)
    assert complaint in str(caught.value) and str(caught.value).startswith("error: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_script_prints_the_sizes_it_trains_and_where_it_resumes(run_script, capsys):
    folder = run_script(steps=2)
    printed = capsys.readouterr().out
    assert re.search(r"cell 12, projection 6, 2 layers, [\d,]+ parameters", printed)
    assert "vocabulary: 30 words" in printed
    assert "resumed" not in printed and f'AutoModel.from_pretrained("{folder}")' in printed
    run_script(steps=4)
    assert "resumed from step 2" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "pretrain.py --train_files" in card and "eval_perplexity" in card


def test_the_script_refuses_a_vocabulary_without_specials(run_script, tmp_path):
    (tmp_path / "vocab.txt").write_text("the\nof\n")
    with pytest.raises(SystemExit, match=r"lacks \['<S>', '</S>', '<UNK>'\]"):
        run_script("--vocabulary_file", str(tmp_path / "vocab.txt"))
    assert not (tmp_path / "run").exists()


def run_in_processes(arguments, processes=1, code=None):
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    start = ["-c", code] if code else [*launch, "examples/pretrain.py"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=400,
    )  # fmt: skip


def history(folder, step):
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    names = ("loss", "forward_loss", "backward_loss")
    return [[log[name] for name in names] for log in state["log_history"] if "loss" in log]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("feed", "muon", "tolerance"),
    [("windows", "0", 1e-5), ("streams", "0", 1e-5), ("windows", "0.02", 1e-2)],  # Muon: bfloat16
)
def test_two_processes_train_as_one_with_the_summed_batch(
    run_script, folder, tmp_path, feed, muon, tolerance
):
    settings = ["--feed", feed, "--lr_scheduler_type", "constant", "--muon_learning_rate", muon]
    one = run_script(*settings, name="one", batch=4, steps=8)
    for steps in (6, 8):  # the second goes on, with each process's own states
        arguments = command(folder, tmp_path / "two", *settings, batch=2, steps=steps)
        done = run_in_processes(arguments, processes=2)
        assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(history(tmp_path / "two", 8), history(one, 8), rtol=tolerance)
    results = [json.loads((x / "eval_results.json").read_text()) for x in (one, tmp_path / "two")]
    for name in ("eval_forward_perplexity", "eval_backward_perplexity", "eval_words"):
        assert results[1][name] == pytest.approx(results[0][name], rel=10 * tolerance)


KILLED = """
import os, signal, sys
import torch
save = torch.save
def killed(value, path, *args, **kwargs):
    if "checkpoint-4" in str(path) and "scheduler" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    return save(value, path, *args, **kwargs)
torch.save = killed
import pretrain
pretrain.main()
"""


@pytest.mark.slow
def test_a_run_killed_while_it_writes_goes_on_as_if_nothing_had_been(run_script, folder, tmp_path):
    done = run_in_processes(command(folder, tmp_path / "run", steps=6), code=KILLED)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "run" / "checkpoint-4").exists()
    run_script(steps=6)
    assert history(tmp_path / "run", 6) == history(run_script(name="whole", steps=6), 6)


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_resumes_bit_for_bit(run_script, folder, tmp_path, capsys):
    dropout = ["--config", json.dumps({**TINY, "dropout": 0.2})]  # so that random states count
    arguments = command(folder, tmp_path / "run", *dropout, steps=120)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "examples")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "examples/pretrain.py", *arguments]
    generator = random.Random()
    step = 2 * generator.randrange(1, 15)
    with subprocess.Popen(script, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "run" / f"checkpoint-{step}").exists():
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.2))
        process.kill()
    last = int(Path(last_checkpoint(tmp_path / "run")).name[len("checkpoint-") :])
    assert last >= step - 2
    torch.set_num_threads(1)
    run_script(*dropout, steps=120)
    assert f"resumed from step {last}\n" in capsys.readouterr().out
    whole = run_script(*dropout, name="whole", steps=120)
    assert history(tmp_path / "run", 120) == history(whole, 120)
    weights = [(run / "model.safetensors").read_bytes() for run in (tmp_path / "run", whole)]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [4, 12, 20])  # kB: of the weights, of the optimizer, of neither
def test_a_full_disk_ends_a_run_with_one_line_and_it_can_go_on(run_script, folder, tmp_path, limit):
    script = [sys.executable, "examples/pretrain.py", *command(folder, tmp_path / "run", steps=6)]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "examples")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    read_corpus([folder / "train.txt"], ElmoTokenizer(), folder / "cache")
    read_corpus([folder / "valid.txt"], ElmoTokenizer(), folder / "cache")
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *script],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"error: could not write to {tmp_path / 'run'}" in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert last_checkpoint(tmp_path / "run") is None
    run_script(steps=6)
    assert history(tmp_path / "run", 6) == history(run_script(name="whole", steps=6), 6)


def test_a_folder_that_cannot_be_made_is_one_line(run_script, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^error: .*file.*: Not a directory$"):
        run_script(name="file/run")
