"""Compare architectures and recipes: train each on equally many words, then measure perplexity.

    python benchmarks/pretraining_trials.py --train_files 'text/train-*.txt.xz' \
        --valid_files text/valid.txt.xz [--mixed_files FILE ...] [--only NAME ...]

Every trial is a run of examples/pretrain.py, in one process with one thread; each core runs another
trial. --mixed_files are other kinds of text, for a trial of a mixture. Writes
benchmarks/pretraining_trials.md and .json. The folder --work keeps the results by the settings of
the trial, so a finished trial is not run again.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import speed_machine
import torch

from elmo_hf import ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, find_files, read_corpus, read_files
from elmo_hf.pretraining.runs import load_for_pretraining
from elmo_hf.pretraining.trainer import ElmoPreTrainer
from elmo_hf.pretraining.windows import PackedWindows

# isort: split
from transformers import TrainingArguments

REPORT = ROOT / "benchmarks" / "pretraining_trials.md"
CONFIG = {
    "projection_dim": 256,
    "cell_dim": 512,
    "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256]],
    "num_highway_layers": 1,
    "num_sampled_words": 2048,
    "dropout": 0.0,
}
RECIPE = {
    "vocabulary_size": 50_000,
    "window": 128,
    "per_device_train_batch_size": 32,
    "learning_rate": 8e-3,
    "muon_learning_rate": 3e-2,
    "lr_scheduler_type": "linear",
    "warmup_steps": 20,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "seed": 0,
}
HELD_OUT_LINES = 2000
AVERAGED, SPAN = 5, 0.2  # checkpoints, and the part of the run over which they are spread
FIXED = (
    "--use_cpu --bf16 --report_to none --disable_tqdm True --logging_steps 10 --save_strategy no"
)


@dataclass(frozen=True)
class Trial:
    """
    Class with the changes that a trial makes to the configuration and to the recipe.

    Args:
        mixed: whether it reads --mixed_files, too.
        averaged: whether the last checkpoints are averaged.
    """

    config: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    mixed: bool = False
    averaged: bool = False


BASE = "base: elmo-mini-en's architecture, Muon"
TRIALS = {
    BASE: Trial(),
    "base, another seed": Trial(recipe={"seed": 1}),
    "AdamW for all weights": Trial(recipe={"muon_learning_rate": 0}),
    "AdamW for all weights, learning rate 4e-3": Trial(
        recipe={"muon_learning_rate": 0, "learning_rate": 4e-3}
    ),
    "Muon 2e-2": Trial(recipe={"muon_learning_rate": 2e-2}),
    "Muon 5e-2": Trial(recipe={"muon_learning_rate": 5e-2}),
    "Muon 2e-2, AdamW 4e-3": Trial(recipe={"muon_learning_rate": 2e-2, "learning_rate": 4e-3}),
    "cell_dim 1024": Trial({"cell_dim": 1024}),
    "3 layers": Trial({"num_hidden_layers": 3}),
    "dropout 0.1": Trial({"dropout": 0.1}),
    "8192 sampled words": Trial({"num_sampled_words": 8192}),
    "64 windows of 128 words": Trial(recipe={"per_device_train_batch_size": 64}),
    "constant rates, the last checkpoints averaged": Trial(
        recipe={"lr_scheduler_type": "constant_with_warmup"}, averaged=True
    ),
    "mixed with other kinds of text": Trial(mixed=True),
}


def plan(trial: Trial, stream: WordStream, words: int) -> tuple[dict, dict]:
    """Return the trial's configuration and recipe, with the steps that read `words` words."""
    config, recipe = CONFIG | trial.config, RECIPE | trial.recipe
    if recipe.get("feed") == "streams":
        each = float(recipe["window"])
    else:
        each = len(stream) / len(PackedWindows(stream, recipe["window"]))
    steps = round(words / (each * recipe["per_device_train_batch_size"]))
    return config, recipe | {"max_steps": steps}


def list_files(trial: Trial, given: argparse.Namespace) -> list[str]:
    return [*given.train_files, *(given.mixed_files if trial.mixed else [])]


def make_command(
    trial: Trial, config: dict, recipe: dict, given: argparse.Namespace, output: Path
) -> list[str]:
    """Return the arguments of Python that run examples/pretrain.py."""
    command = [f"{ROOT}/examples/pretrain.py", "--config", json.dumps(config)]
    for name, value in recipe.items():
        command += [f"--{name}", str(value)]
    command += ["--train_files", *list_files(trial, given)]
    command += ["--valid_files", f"{given.work}/held_out.txt"]
    command += ["--cache_dir", f"{given.work}/words", "--output_dir", f"{output}"]
    command += shlex.split(FIXED)
    if trial.averaged:
        every = max(1, round(recipe["max_steps"] * SPAN / AVERAGED))
        command += shlex.split(f"--save_strategy steps --save_steps {every} --save_only_model")
    return command


def run(name: str, given: argparse.Namespace) -> dict:
    """Run a trial, unless its result is stored, and return the result."""
    trial = TRIALS[name]
    files = list_files(trial, given)
    stream = WordStream(read_corpus(files, ElmoTokenizer(), given.work / "words"))
    config, recipe = plan(trial, stream, given.words)
    setting = json.dumps([config, recipe, files, given.valid_files])
    output = given.work / hashlib.sha256(setting.encode()).hexdigest()[:12]
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "eval_results.json").exists():
        command = [sys.executable, *make_command(trial, config, recipe, given, output)]
        threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with (output / "log.txt").open("a") as log:
            done = subprocess.run(command, stdout=log, stderr=log, env=os.environ | threads)
        if done.returncode:
            raise SystemExit(f"error: trial {name!r} ended with {done.returncode}; see {log.name}")
    if trial.averaged and not (output / "averaged.json").exists():
        found = evaluate_average(output, given.work)
        (output / "averaged.json").write_text(json.dumps(found))
    return read_result(output) | {"steps": recipe["max_steps"]}


def evaluate_average(output: Path, work: Path) -> dict:
    """Return the results of the mean of a run's last checkpoints on the held-out text."""
    folders = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name[11:]))
    model, tokenizer = load_for_pretraining(folders[-1])
    states = [load_for_pretraining(folder)[0].state_dict() for folder in folders[-AVERAGED:]]
    model.load_state_dict(
        {name: torch.stack([one[name] for one in states]).mean(0) for name in states[0]}
    )
    text = read_corpus([f"{work}/held_out.txt"], tokenizer, work / "words")
    settings = TrainingArguments(f"{output}", use_cpu=True, bf16=True, report_to=[])
    windows = PackedWindows(WordStream(text))
    trainer = ElmoPreTrainer(model, settings, eval_dataset=windows, processing_class=tokenizer)
    return trainer.evaluate()


def read_result(output: Path) -> dict:
    """Return the perplexities and the number of the biLM's parameters, without the softmax."""
    averaged, own = output / "averaged.json", output / "eval_results.json"
    result = json.loads((averaged if averaged.exists() else own).read_text())
    with safe_open(output / "model.safetensors", "pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    sizes = [math.prod(shape) for name, shape in shapes.items() if name.startswith("elmo.")]
    names = ("perplexity", "forward_perplexity", "backward_perplexity")
    return {name: result[f"eval_{name}"] for name in names} | {
        "held_out_words": result["eval_words"],
        "parameters": sum(sizes),
    }


def markdown(results: dict) -> str:
    """Return the table and its explanation."""
    trials, made = results["trials"], results["made"]
    lines = [
        f"| {name} | {one['perplexity']:.1f} | {one['forward_perplexity']:.1f} "
        f"| {one['backward_perplexity']:.1f} | {one['parameters'] / 1e6:.1f} M | {one['steps']:,} |"
        for name, one in trials.items()
    ]
    held_out = next(iter(trials.values()))["held_out_words"]
    return "\n".join(
        [
            "# Trials of pre-training",
            "",
            f"Each trial trains on {made['words'] / 1e6:.1f} million words, boundaries included. "
            f"Then the perplexity of {held_out:,} held-out words is measured, with the full "
            "softmax, in windows of 128. Each row changes only the setting that it names. "
            "Parameters are those of the biLM, without the softmax. Two rows differ only in the "
            "seed: smaller differences are not significant. A longer run may rank them otherwise. "
            f"Averaged are {AVERAGED} checkpoints of the last {SPAN:.0%} of the run.",
            "",
            "| trial | perplexity | forward | backward | parameters | steps |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *lines,
            "",
            f"The first row is `{json.dumps(CONFIG)}` with `{json.dumps(RECIPE)}`.",
            "",
            f"Made on {made['machine']['processor']} by `{made['command']}`.",
            "",
        ]
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--train_files", nargs="+", required=True, help="as in examples/pretrain.py"
    )
    parser.add_argument("--valid_files", nargs="+", required=True, help="held-out text")
    parser.add_argument("--mixed_files", nargs="+", default=[], help="text of other kinds")
    parser.add_argument("--words", type=int, default=1_000_000, help="words that each trial reads")
    parser.add_argument("--only", nargs="+", choices=TRIALS, metavar="NAME", help="default: all")
    parser.add_argument("--work", type=Path, default=Path("trials_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--workers", type=int, default=speed_machine.cores())
    given = parser.parse_args(arguments)
    given.work = given.work.resolve()
    given.only = given.only or [
        name for name, trial in TRIALS.items() if given.mixed_files or not trial.mixed
    ]
    if not given.mixed_files and any(TRIALS[name].mixed for name in given.only):
        parser.error("a trial of mixed text needs --mixed_files")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse_arguments(arguments)
    torch.set_num_threads(1)  # other trials run at the same time
    command = "python benchmarks/pretraining_trials.py " + shlex.join(arguments or sys.argv[1:])
    given.work.mkdir(parents=True, exist_ok=True)
    held_out = islice(read_files(find_files(given.valid_files)), HELD_OUT_LINES)
    (given.work / "held_out.txt").write_text("\n".join(held_out), encoding="utf-8")
    with ThreadPoolExecutor(given.workers) as pool:
        found = list(pool.map(lambda name: run(name, given), given.only))
    made = {"command": command, "words": given.words, "machine": speed_machine.describe()}
    results = {"trials": dict(zip(given.only, found, strict=True)), "made": made}
    given.output.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    given.output.write_text(text := markdown(results), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
