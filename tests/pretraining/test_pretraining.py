"""Pre-training: exact losses and perplexity, carried states, and resumption that loses nothing."""

import inspect
import json
import math
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
from transformers import Trainer, TrainerCallback, TrainingArguments

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, build_vocabulary, read_corpus
from elmo_hf.pretraining.runs import check_run, last_checkpoint, load_for_pretraining
from elmo_hf.pretraining.trainer import ElmoPreTrainer
from elmo_hf.pretraining.windows import PackedWindows, PreTrainingCollator, RowStreams

ROOT = Path(__file__).parents[2]
TINY = {
    "cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3,
    "num_highway_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train.txt and valid.txt, of sentences of 1 to 12 words, 6 in each document."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    for name, count in (("train", 60), ("valid", 20)):
        words = [[f"w{w}" for w in generator.geometric(0.1, 1 + i % 12)] for i in range(count)]
        lines = [
            " ".join(sentence) + ("\n" if i % 6 == 5 else "") for i, sentence in enumerate(words)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def texts(folder):
    def read(name):
        corpus = read_corpus([folder / f"{name}.txt"], ElmoTokenizer(), folder / "cache")
        return WordStream(corpus)

    return {name: read(name) for name in ("train", "valid")}


@pytest.fixture(scope="module")
def tokenizer(texts):
    return ElmoTokenizer(lm_vocab=build_vocabulary(texts["train"], size=30))


@pytest.fixture
def make_trainer(texts, tokenizer, tmp_path):
    def make(
        feed=PackedWindows, window=12, rows=4, name="run", callbacks=(), model=None, **changes
    ):
        torch.manual_seed(0)
        fields = {key: changes.pop(key) for key in ("dropout", "bidirectional") if key in changes}
        config = ElmoConfig(**{**TINY, **fields}, lm_vocab_size=tokenizer.lm_vocab_size)
        settings = {
            "per_device_train_batch_size": rows, "max_steps": 8, "save_steps": 3,
            "logging_steps": 1, "learning_rate": 0.01, "use_cpu": True, "disable_tqdm": True,
            "report_to": "none",
        }  # fmt: skip
        args = TrainingArguments(str(tmp_path / name), **{**settings, **changes})
        shape = {"rows": rows} if feed is RowStreams else {}
        return ElmoPreTrainer(
            model=ElmoForPreTraining(config),
            args=args,
            train_dataset=feed(texts["train"], window, **shape),
            eval_dataset=PackedWindows(texts["valid"], window),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )

    return make


def losses(trainer):
    """Of each step."""
    return {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}


# --- Losses ---


def test_a_step_is_the_mean_over_its_words_however_they_are_batched(make_trainer):
    whole = make_trainer(rows=4, dropout=0.0, name="whole")
    whole.train()
    parts = make_trainer(rows=1, dropout=0.0, gradient_accumulation_steps=4, name="parts")
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_logs_show_each_direction_and_words_per_second(make_trainer):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    for log in trainer.state.log_history[:2]:
        assert log["loss"] == pytest.approx((log["forward_loss"] + log["backward_loss"]) / 2)
        assert log["words_per_second"] > 0


def test_perplexity_is_that_of_all_words_whatever_the_batch(make_trainer, texts, tokenizer):
    trainer = make_trainer(per_device_eval_batch_size=5)
    metrics = trainer.evaluate()
    model, collator = trainer.model.eval(), PreTrainingCollator(tokenizer)
    sums, counts, words, unknown = [0.0, 0.0], [0, 0], 0, 0
    for i in range(len(trainer.eval_dataset)):
        window = trainer.eval_dataset[i]
        batch = collator([window])
        with torch.no_grad():
            out = model(**{k: v for k, v in batch.items() if k != "labels"})
        ids = batch["labels"][0]
        for t, word in enumerate(window):
            words += word not in ("<S>", "</S>")
            unknown += int(ids[t] == collator.unknown)
            for side, logits, stop, step in (
                (0, out.forward_logits, "</S>", 1), (1, out.backward_logits, "<S>", -1)
            ):  # fmt: skip
                if word != stop and 0 <= t + step < len(window):
                    sums[side] -= float(logits[0, t].log_softmax(-1)[ids[t + step]])
                    counts[side] += 1
    forward, backward = (s / c for s, c in zip(sums, counts, strict=True))
    assert metrics["eval_forward_perplexity"] == pytest.approx(math.exp(forward), rel=1e-5)
    assert metrics["eval_backward_perplexity"] == pytest.approx(math.exp(backward), rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp((forward + backward) / 2), rel=1e-5)
    assert metrics["eval_words"] == words
    assert metrics["eval_unknown_rate"] == pytest.approx(unknown / words) and unknown


@pytest.mark.slow
def test_row_streams_carry_states_so_that_short_windows_read_like_one_long_one(make_trainer):
    short = make_trainer(RowStreams, window=5, rows=2, dropout=0.0, learning_rate=0.0, max_steps=-1,
                         num_train_epochs=1, save_strategy="no")  # fmt: skip
    long = make_trainer(RowStreams, window=5 * short.train_dataset.steps, rows=2, dropout=0.0,
                        learning_rate=0.0, max_steps=1, save_strategy="no")  # fmt: skip
    sums = {}
    for name, trainer in (("short", short), ("long", long)):
        sums[name] = torch.zeros(2, 2, dtype=torch.float64)
        add = trainer._add
        trainer._add = lambda losses, counts, name=name, add=add: (
            sums[name].add_(torch.stack([losses.detach() * counts, counts])), add(losses, counts)
        )  # fmt: skip
        trainer.train()
    torch.testing.assert_close(sums["short"], sums["long"], rtol=1e-5, atol=0)


def test_a_forward_model_has_a_forward_perplexity_only(make_trainer):
    trainer = make_trainer(bidirectional=False, max_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_perplexity"] == metrics["eval_forward_perplexity"]
    assert "eval_backward_perplexity" not in metrics
    assert "backward_loss" not in trainer.state.log_history[0]


@pytest.mark.slow
def test_bf16_follows_float32(make_trainer):
    single, half = make_trainer(dropout=0.0), make_trainer(dropout=0.0, bf16=True, name="half")
    single.train(), half.train()
    assert losses(half) == pytest.approx(losses(single), rel=0.01)
    assert losses(half) != losses(single)


def test_training_learns(make_trainer):
    trainer = make_trainer(max_steps=40, save_strategy="no")
    before = trainer.evaluate()["eval_perplexity"]
    trainer.train()
    assert trainer.evaluate()["eval_perplexity"] < 0.9 * before


# --- Resumption ---


def test_what_is_private_in_trainer_is_still_there():
    """`ElmoPreTrainer` overrides these, and examples/training_script.py uses the last."""
    parameters = {
        "_get_train_sampler": ["self", "train_dataset"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_save_rng_state": ["self", "output_dir"],
        "_load_rng_state": ["self", "checkpoint"],
        "_get_output_dir": ["self", "trial"],
        "save_model": ["self", "output_dir", "_internal_call"],
    }
    for name, expected in parameters.items():
        assert list(inspect.signature(getattr(Trainer, name)).parameters) == expected, name


class Stop(TrainerCallback):
    """Break off after a step, as a crash does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("feed", [pytest.param(PackedWindows, marks=pytest.mark.slow), RowStreams])
@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), 9])  # epoch 1, later
def test_a_run_resumed_after_a_crash_has_the_losses_of_one_that_was_not(make_trainer, feed, steps):
    shape = {"feed": feed, "rows": 8, "window": 12, "max_steps": 13}
    whole = make_trainer(**shape, name="whole")
    whole.train()
    broken = make_trainer(**shape, callbacks=[Stop(steps + 2)])
    assert len(broken.get_train_dataloader()) < 9
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = make_trainer(**shape)
    checkpoint = last_checkpoint(resumed.args.output_dir)
    assert checkpoint.endswith(f"checkpoint-{steps}")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_write_that_is_cut_off_costs_no_earlier_checkpoint(make_trainer, monkeypatch):
    whole = make_trainer(name="whole")
    whole.train()
    trainer = make_trainer(save_total_limit=1)
    save = torch.save

    def cut_off(*args, **kwargs):
        if trainer.state.global_step == 6:
            raise KeyboardInterrupt
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()
    assert Path(trainer.args.output_dir, "checkpoint-6", "model.safetensors").exists()
    resumed = make_trainer(save_total_limit=1)
    checkpoint = last_checkpoint(resumed.args.output_dir)
    assert checkpoint.endswith("checkpoint-3")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    assert last_checkpoint(resumed.args.output_dir).endswith("checkpoint-8")


def test_incomplete_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for name, state in (("2", "{}"), ("10", "{}"), ("20", '{"half'), ("30", None), ("x", "{}")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_folder_of_another_run_is_refused(tmp_path):
    check_run(tmp_path / "run", {"seed": 1, "filters": [(1, 2)]})
    check_run(tmp_path / "run", {"seed": 1, "filters": [[1, 2]]})
    with pytest.raises(ValueError, match=r"other settings:\n  seed: 1 there, 2 now\n.*output_dir"):
        check_run(tmp_path / "run", {"seed": 2, "filters": [[1, 2]]})
    (tmp_path / "other" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"checkpoint-5 but no pretraining\.json"):
        check_run(tmp_path / "other", {"seed": 1})


# --- Checkpoints to continue ---


@pytest.fixture
def saved(tokenizer, tmp_path):
    torch.manual_seed(1)
    model = ElmoForPreTraining(ElmoConfig(**TINY, lm_vocab_size=tokenizer.lm_vocab_size))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return model


def test_a_checkpoint_goes_on_with_its_own_vocabulary(saved, tokenizer, tmp_path):
    model, loaded = load_for_pretraining(tmp_path / "saved", dropout=0.3)
    assert loaded.lm_vocab == tokenizer.lm_vocab
    assert model.config.dropout == model.dropout.p == 0.3
    for name, weight in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_a_new_vocabulary_keeps_the_rows_of_known_words(saved, tokenizer, tmp_path):
    words = [*tokenizer.lm_vocab[:3], "neu", *tokenizer.lm_vocab[10:15]]
    model, loaded = load_for_pretraining(tmp_path / "saved", words)
    loaded.save_pretrained(tmp_path / "again")
    assert ElmoTokenizer.from_pretrained(tmp_path / "again").lm_vocab == words
    old, new = saved.lm_head, model.lm_head
    assert new.weight.shape == (len(words), 6)
    for rows, before in ((new.weight, old.weight), (new.bias, old.bias)):
        assert torch.equal(rows[:3], before[:3]) and torch.equal(rows[4:], before[10:15])
    for name, weight in saved.elmo.state_dict().items():
        assert torch.equal(model.elmo.state_dict()[name], weight)


def test_a_bilm_without_softmax_needs_a_new_vocabulary(tmp_path):
    bilm = ElmoModel(ElmoConfig(**TINY))
    bilm.save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"softmax over 0 words.*--new_vocabulary"):
        load_for_pretraining(tmp_path)
    words = ["<S>", "</S>", "<UNK>", "a"]
    model, tokenizer = load_for_pretraining(tmp_path, words, num_sampled_words=2)
    assert tokenizer.lm_vocab_size == model.config.lm_vocab_size == 4
    assert torch.equal(model.elmo.layers[0].forward_lstm.input_map.weight,
                       bilm.layers[0].forward_lstm.input_map.weight)  # fmt: skip


def test_the_vocabulary_of_a_model_that_reads_words_by_number_stays(tmp_path):
    words = ["<S>", "</S>", "<UNK>", "a"]
    config = ElmoConfig(**{**TINY, "filters": []}, word_vocab_size=5, word_embedding_dim=6,
                        lm_vocab_size=4)  # fmt: skip
    ElmoForPreTraining(config).save_pretrained(tmp_path)
    ElmoTokenizer(use_characters=False, lm_vocab=words).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be replaced"):
        load_for_pretraining(tmp_path, words)


# --- The script ---


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


def test_the_same_command_goes_on_and_another_is_refused(run_script):
    folder = run_script(steps=2)
    assert run_script(steps=4) == folder
    history = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert [log["step"] for log in history["log_history"] if "loss" in log] == [1, 2, 3, 4]
    with pytest.raises(SystemExit, match=r"error: (.|\n)*feed: .* there, .* now"):
        run_script("--feed", "streams", steps=4)
    with pytest.raises(SystemExit, match="seed: 42 there, 7 now"):
        run_script("--seed", "7", steps=4)


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
@pytest.mark.parametrize("feed", ["windows", "streams"])
def test_two_processes_train_as_one_with_the_summed_batch(run_script, folder, tmp_path, feed):
    settings = ["--feed", feed, "--lr_scheduler_type", "constant"]
    one = run_script(*settings, name="one", batch=4, steps=8)
    for steps in (6, 8):  # the second goes on, with each process's own states
        arguments = command(folder, tmp_path / "two", *settings, batch=2, steps=steps)
        done = run_in_processes(arguments, processes=2)
        assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(history(tmp_path / "two", 8), history(one, 8), rtol=1e-5)
    results = [json.loads((x / "eval_results.json").read_text()) for x in (one, tmp_path / "two")]
    for name in ("eval_forward_perplexity", "eval_backward_perplexity", "eval_words"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-4)


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
