"""Measure a checkpoint's vectors on labelled data: tagging, classification, question answering.

    python benchmarks/tasks.py CHECKPOINT --text 'text/*.txt' [--data DIR] [--tasks NAME ...]

For every data set, row of the table and seed, trains a head with the code of the examples. Writes
benchmarks/tasks.md and tasks.json; the page has the command of each row. The folder --work keeps
the results, which are not measured again. --text is the training text of word2vec, the static
baseline: use the text of the checkpoint. `--add --rows NAME` adds a row to the existing report.
"""

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples"), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one process per core

import speed_machine
import task_models
from remembered import remember
from task_texts import NOT_COMPARABLE, TASKS, Task

DATA = ROOT.parent / "shared" / "data"
REPORT = ROOT / "benchmarks" / "tasks.md"
TAGGING = "train_ner"
MIX, RANDOM = "learned mix", "random weights, learned mix"
LINEAR = ("--lstm_dim", "0", "--learning_rate", "1e-2", "--max_steps", "800")
BESIDE = "learned mix, output embeddings concatenated, biLSTM (CRF)"
OUTPUT = ("--output_embeddings",)
LSTM = ("--lstm_dim", "100", "--learning_rate", "2e-3", "--max_steps", "500")
TRAINED = ("--lstm_dim", "0", "--learning_rate", "1e-3", "--max_steps", "200", "--train_bilm")
STEPS = ("--lr_scheduler_type", "linear", "--per_device_train_batch_size", "32")
QUIET = ("--eval_strategy", "no", "--save_strategy", "no", "--logging_strategy", "no")


@dataclass(frozen=True)
class Row:
    """
    Class that describes a row of the table: the vectors and the head.

    Args:
        model: "checkpoint", "random" or "word2vec".
        flags: options of the head, for every example.
        layers: the layers to mix; None: all.
        crf: whether taggers have a CRF.
        tagging_only: for other tasks the row would equal another row.
    """

    model: str
    flags: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    crf: bool = False
    tagging_only: bool = False


def make_rows(num_layers: int) -> dict[str, Row]:
    """Return the table's rows for a biLM of `num_layers` layers, layer 0 included."""
    beside = (*LSTM, *OUTPUT, "--concat_layers", str(num_layers))
    single = {f"layer {n}": Row("checkpoint", LINEAR, (n,)) for n in range(num_layers)}
    single[f"layer {num_layers - 1}, the top"] = single.pop(f"layer {num_layers - 1}")
    single["layer 0, characters alone"] = single.pop("layer 0")
    return {
        "word2vec": Row("word2vec", LINEAR, (0,)),
        RANDOM: Row("random", LINEAR),
        **dict(sorted(single.items())),
        MIX: Row("checkpoint", LINEAR),
        "learned mix, biLM trained": Row("checkpoint", TRAINED),
        "learned mix, CRF": Row("checkpoint", LINEAR, crf=True, tagging_only=True),
        "word2vec, biLSTM (CRF)": Row("word2vec", LSTM, (0,), crf=True),
        "random weights, biLSTM (CRF)": Row("random", LSTM, crf=True),
        "learned mix, biLSTM": Row("checkpoint", LSTM, tagging_only=True),
        "learned mix, biLSTM (CRF)": Row("checkpoint", LSTM, crf=True),
        "learned mix + output embeddings, biLSTM (CRF)": Row("checkpoint", LSTM + OUTPUT, crf=True),
        BESIDE: Row("checkpoint", beside, tuple(range(num_layers)), crf=True),
    }


def flags(task: Task, row: Row, seed: int) -> list[str]:
    """Return the example's options, except for files and model."""
    options = [*row.flags, *STEPS, *task.flags]
    if row.layers is not None:
        options += ["--layers", *map(str, row.layers)]
    if task.example == TAGGING and not row.crf:
        options.append("--no_crf")
    return [*options, "--seed", str(seed)]


@dataclass(frozen=True)
class Plan:
    """Class with the work of one process: one task with all its rows, seeds and models."""

    name: str
    rows: dict[str, Row]
    models: dict[str, Path]
    prints: dict[str, str]
    work: Path
    data: Path
    seeds: int

    def results(self, model: str) -> Path:
        """Return the file of a model's results; its name depends on the weights only."""
        return self.work / "results" / f"{self.name}-{self.prints[model]}.jsonl"

    def read(self) -> list[dict]:
        """Return the stored results, without a last line that was cut off."""
        files = sorted({path for path in map(self.results, self.models) if path.is_file()})
        lines = [line for path in files for line in path.read_text().splitlines(keepends=True)]
        runs = [json.loads(line) for line in lines if line.endswith("\n")]
        wanted = [run for run in runs if run["row"] in self.rows and run["seed"] < self.seeds]
        return [*{(run["row"], run["seed"]): run for run in wanted}.values()]

    def runs(self) -> Iterator[tuple[str, int]]:
        """Yield the rows and seeds that are not measured yet, grouped by model."""
        done = {(run["row"], run["seed"]) for run in self.read()}
        task = TASKS[self.name]
        for name, row in sorted(self.rows.items(), key=lambda item: item[1].model):
            if row.tagging_only and task.example != TAGGING:
                continue
            yield from ((name, s) for s in range(self.seeds) if (name, s) not in done)


def measure(plan: Plan) -> str:
    """Measure the missing results of a task; return its name."""
    import torch

    torch.set_num_threads(1)
    task = TASKS[plan.name]
    folder = plan.work / "texts" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    train, test = task.write(plan.data, folder)
    known: dict[str, dict] = {}
    for name, seed in plan.runs():
        row = plan.rows[name]
        vectors = row.model + " ".join({*OUTPUT} & {*row.flags})
        known = {vectors: known.get(vectors, {})}  # cache one model at a time
        trainer = make_trainer(task, row, plan.models[row.model], train, test, seed)
        if not any(p.requires_grad for p in trainer.model.elmo.parameters()):
            trainer.model.elmo = remember(trainer.model.elmo, known[vectors])
        trainer.train()
        metrics = trainer.evaluate()
        run = {"row": name, "seed": seed, "score": metrics[f"eval_{task.metric}"]}
        run["examples"] = len(trainer.train_dataset)
        results = plan.results(row.model)
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(f"{plan.name}: {name}, seed {seed}: {run['score']:.4f}", file=sys.stderr, flush=True)
    return plan.name


def make_trainer(task: Task, row: Row, model: Path, train: Path, test: Path, seed: int):
    """Return the example's trainer for one run."""
    example = __import__(task.example)
    files = ["--model", str(model), "--train", str(train), "--dev", str(test)]
    output = ["--output_dir", str(train.parent / "out"), "--use_cpu", "--disable_tqdm", "true"]
    return example.make_trainer([*files, *flags(task, row, seed), *QUIET, *output])


def summarize(runs: Sequence[dict]) -> dict[str, dict]:
    """Return, per row, the mean score in percent and its standard deviation over the seeds."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        scores.setdefault(run["row"], []).append(100 * run["score"])
    return {
        row: {"mean": fmean(found), "spread": stdev(found) if len(found) > 1 else None}
        | {"seeds": len(found)}
        for row, found in scores.items()
    }


def markdown(results: dict) -> str:
    """Return the table, its explanation, and the command of each row."""
    tasks, rows = results["tasks"], results["rows"]
    header = ["vectors and head", *tasks, "mean"]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for row in rows:
        found = [task["scores"].get(row) for task in tasks.values()]
        means = [score["mean"] for score in found if score]
        mean = f"{fmean(means):.1f}" if len(means) == len(tasks) else "-"
        lines.append("| " + " | ".join([row, *map(cell, found), mean]) + " |")
    notes = [f"- {name}: {task['what']}" for name, task in tasks.items()]
    commands = [f"- {row}: `{command}`" for row, command in rows.items()]
    made = [
        f"Made on {one['date']} by `{one['command']}` on {one['machine']['processor']}, "
        f"{one['machine']['cores']} cores; "
        + (f"checkpoint {one['checkpoint']} (SHA-256)." if one["checkpoint"] else "no checkpoint.")
        for one in results["made"]
    ]
    return "\n".join(
        [
            "# Tasks",
            "",
            "Each figure is a score on the test part in percent: mean ± standard deviation over "
            "seeds. Each row names the word vectors and the head. The vectors are word2vec, a biLM "
            "with random weights, a single layer of the checkpoint, or its learned mix (a weighted "
            "sum of all layers, trained with the head). Output embeddings are one more layer: each "
            "word's row of the language model's softmax. The biLM is frozen unless the row says "
            "otherwise. The head is linear. In the rows with a biLSTM, the biLSTM comes between "
            "the vectors and the head; in tagging, a CRF follows, as in the paper. All heads of a "
            "row train for the same number of steps, and the final weights are evaluated: no "
            "figure is the best of several. A dash: not measured, or the same as another row.",
            "",
            *lines,
            "",
            *compare(tasks),
            "",
            *notes,
            "",
            NOT_COMPARABLE,
            "",
            "The command of each row for tagging; `--seed` is added:",
            "",
            *commands,
            "",
            *made,
            "",
        ]
    )


def compare(tasks: dict[str, dict]) -> list[str]:
    """Return the gains of the learned mix over the best single layer and over random weights."""
    over_best, over_random = {}, {}
    for name, task in tasks.items():
        means = {row: score["mean"] for row, score in task["scores"].items()}
        single = [mean for row, mean in means.items() if row.startswith("layer ")]
        if MIX in means and single and RANDOM in means:
            over_best[name] = means[MIX] - max(single)
            over_random[name] = means[MIX] - means[RANDOM]
    if not over_best:
        return []
    lines = []
    for what, gains in (("the task's best single layer", over_best), (RANDOM, over_random)):
        least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
        lines.append(
            f"- {MIX} minus {what}: {fmean(gains.values()):+.1f} on average, from "
            f"{gains[least]:+.1f} ({least}) to {gains[most]:+.1f} ({most})"
        )
    return lines


def cell(score: dict | None) -> str:
    if score is None:
        return "-"
    spread = "" if score["spread"] is None else f" ± {score['spread']:.1f}"
    return f"{score['mean']:.1f}{spread}"


def collect(plans: Sequence[Plan], command: str) -> dict:
    """Return the results of all plans as JSON values."""
    tasks = {}
    for plan in plans:
        task, runs = TASKS[plan.name], plan.read()
        if runs:
            what = f"{task.metric}, {runs[0]['examples']:,} training examples"
            tasks[plan.name] = {"what": what, "scores": summarize(runs)}
    example = TASKS["wnut17"]
    files = f"examples/{example.example}.py --model MODEL --train TRAIN --dev TEST --output_dir OUT"
    rows = {
        name: f"python {files} " + shlex.join(flags(example, row, 0)).replace("--seed 0", "")
        for name, row in plans[0].rows.items()
    }
    made = {"date": datetime.date.today().isoformat(), "command": command}
    reads_checkpoint = any(row.model != "word2vec" for row in plans[0].rows.values())
    checkpoint = plans[0].prints["checkpoint"] if reads_checkpoint else None
    made |= {"machine": speed_machine.describe(), "checkpoint": checkpoint}
    return {"tasks": tasks, "rows": {k: v.strip() for k, v in rows.items()}, "made": [made]}


def add_results(stored: dict, found: dict) -> dict:
    """Return stored results with others of the same checkpoint added."""
    if len({one["checkpoint"] for one in stored["made"] + found["made"]} - {None}) > 1:
        raise ValueError("the report is of another checkpoint; leave out --add")
    tasks = {**stored["tasks"]}
    for name, task in found["tasks"].items():
        scores = {**tasks.get(name, task)["scores"], **task["scores"]}
        tasks[name] = {**task, "scores": scores}
    made = stored["made"] + found["made"]
    return {"tasks": tasks, "rows": {**stored["rows"], **found["rows"]}, "made": made}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of a checkpoint")
    parser.add_argument(
        "--text", nargs="+", default=[], help="training text of word2vec; without it, no such rows"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("tasks_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", nargs="+", help="only these rows of the table")
    parser.add_argument("--add", action="store_true", help="keep the results of --output")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=speed_machine.cores())
    return parser.parse_args(arguments)


def end_with_parent() -> None:
    """End this process when its parent process ends, for whatever reason."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_plans(given: argparse.Namespace) -> list[Plan]:
    from elmo_hf import ElmoConfig

    config = ElmoConfig.from_pretrained(given.checkpoint)
    rows = make_rows(config.num_hidden_layers + 1)
    if not given.text:
        rows = {name: row for name, row in rows.items() if row.model != "word2vec"}
    if not config.lm_vocab_size:
        rows = {name: row for name, row in rows.items() if not {*OUTPUT} & {*row.flags}}
    if given.rows:
        rows = {name: rows[name] for name in given.rows}
    given.work.mkdir(parents=True, exist_ok=True)
    models = {"checkpoint": Path(given.checkpoint)}
    models["random"] = task_models.write_random(given.checkpoint, given.work / "random")
    if given.text:
        models["word2vec"] = task_models.write_word2vec(
            given.text, config.projection_dim, given.work / "word2vec", given.workers
        )
    prints = {
        name: hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
        for name, folder in models.items()
    }
    shared = (rows, models, prints, given.work, given.data, given.seeds)
    return [Plan(name, *shared) for name in given.tasks]


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    command = "python benchmarks/tasks.py " + shlex.join(arguments or sys.argv[1:])
    try:
        plans = make_plans(given)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.workers, context, end_with_parent) as pool:
            for finished in as_completed([pool.submit(measure, plan) for plan in plans]):
                print(f"{finished.result()} is done", file=sys.stderr, flush=True)
        results = collect(plans, command)
        if given.add:
            stored = given.output.with_suffix(".json").read_text()
            results = add_results(json.loads(stored), results)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given.output.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    given.output.write_text(text := markdown(results), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
