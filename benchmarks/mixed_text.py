"""Measure vectors of code-mixed and of biomedical text: tags, names, sentiment, topics.

    python benchmarks/mixed_training.py
    python benchmarks/mixed_text.py checkpoints/elmo-mini-en checkpoints/elmo-mini-pt \
        --continued mixed_work/continued

Linear classifiers on frozen vectors. Rows are the checkpoints, random weights, word2vec of the
set's own training text, the checkpoints continued on that text, and baselines without vectors.
Writes benchmarks/mixed_text.md and .json. The folder --work keeps the results, which are not
measured again.
"""

import argparse
import dataclasses
import datetime
import functools
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import mixed_heads as heads
import mixed_report
import numpy as np
import speed_machine
import torch
from mixed_texts import MIXED, TASKS, Parts, Task

from elmo_hf.analysis.sources import ElmoVectors, StaticVectors
from elmo_hf.extras import require

DATA = ROOT.parent / "shared" / "data"
REPORT = ROOT / "benchmarks" / "mixed_text.md"
WIDTH = 256
WORD2VEC = {"window": 5, "min_count": 2, "negative": 5, "sg": 1, "sample": 1e-3, "epochs": 20}
Measure = Callable[[Task, Parts], heads.Counts]
Results = dict[str, dict[str, heads.Counts]]  # by row, then by task


def rows(given: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[str], bool], Measure]]:
    """Yield the rows: a name, what it is made from, which tasks it has, and how it is measured."""
    for name, measure, wanted in (
        (mixed_report.MAJORITY, heads.measure_majority, lambda name: True),
        (mixed_report.LEXICON, heads.measure_lexicon, lambda name: not TASKS[name].by_sentence),
        (mixed_report.NGRAMS, heads.measure_characters, lambda name: TASKS[name].by_sentence),
        (mixed_report.WORD2VEC, functools.partial(own_word2vec, given.data), lambda name: True),
    ):
        yield name, "", wanted, measure
    for file in given.static:
        yield mixed_report.STATIC, digest(file), lambda name: True, functools.partial(static, file)
    first, *_ = given.checkpoints
    for folder in (None, *given.checkpoints):
        weights = functools.partial(elmo, folder or first, random=folder is None)
        name = Path(folder).name if folder else mixed_report.RANDOM
        code = "" if folder is None else digest(Path(folder) / "model.safetensors")
        wanted = lambda name, folder=folder: name in MIXED or folder in (None, first)  # noqa: E731
        yield name, code, wanted, weights
    for folder in sorted(given.continued.iterdir()) if given.continued else ():
        if (folder / "model.safetensors").is_file():
            wanted = lambda name, folder=folder: TASKS[name].text == folder.name  # noqa: E731
            code = digest(folder / "model.safetensors")
            yield mixed_report.CONTINUED, code, wanted, functools.partial(elmo, folder)


def elmo(folder: Path, task: Task, parts: Parts, random: bool = False) -> heads.Counts:
    return heads.measure(ElmoVectors(folder, random), task, parts)


def static(file: Path, task: Task, parts: Parts) -> heads.Counts:
    models = require("gensim.models", "gensim")
    return heads.measure(StaticVectors(models.KeyedVectors.load(str(file))), task, parts)


def own_word2vec(data: Path, task: Task, parts: Parts) -> heads.Counts:
    models = require("gensim.models", "gensim")
    text = [item.words for item in task.read(data).train]
    trained = models.Word2Vec(text, vector_size=WIDTH, workers=1, seed=0, **WORD2VEC)
    return heads.measure(StaticVectors(trained.wv), task, parts)


def digest(file: Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


def measure_all(given: argparse.Namespace) -> Results:
    """Return the results; those that the folder has are read, and not measured again."""
    found: Results = {}
    settings = [heads.REGULARIZATIONS, *heads.SIZES, WORD2VEC]
    for name, code, wanted, measure in rows(given):
        for task in filter(wanted, given.tasks):
            key = hashlib.sha256(json.dumps([name, code, task, settings]).encode()).hexdigest()[:12]
            file = given.work / "results" / f"{task}-{key}.json"
            if not file.is_file():
                start = time.process_time()
                short = heads.shorten(TASKS[task], TASKS[task].read(given.data))
                write(file, measure(TASKS[task], short))
                seconds = time.process_time() - start
                print(f"{name}: {task}, {seconds:.0f} s", file=sys.stderr, flush=True)
            counts = json.loads(file.read_text())
            found.setdefault(name, {})[task] = heads.Counts(*map(np.array, counts))
    return found


def write(file: Path, counts: heads.Counts) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps([one.astype(int).tolist() for one in counts]))
    part.rename(file)


def summarize(found: Results, given: argparse.Namespace, arguments: Sequence[str] | None) -> dict:
    """Return what the page shows: estimates, differences, trainings, and how it was made."""
    named = [Path(folder).name for folder in given.checkpoints]
    changes = {}
    for task, continued in found.get(mixed_report.CONTINUED, {}).items():
        frozen = {name: found[name][task] for name in named if task in found.get(name, {})}
        changes[task] = {
            name: heads.difference(TASKS[task], continued.test, counts.test)
            for name, counts in frozen.items()
        }
    return {
        "rows": {
            row: {
                task: {
                    "dev": heads.estimate(TASKS[task], counts.dev),
                    "test": heads.estimate(TASKS[task], counts.test),
                }
                for task, counts in tasks.items()
            }
            for row, tasks in found.items()
        },
        "changes": changes,
        "trainings": trainings(given.continued) if given.continued else {},
        "made": {
            "date": datetime.date.today().isoformat(),
            "command": "python benchmarks/mixed_text.py " + shlex.join(arguments or sys.argv[1:]),
            "machine": speed_machine.describe(),
        },
    }


def trainings(folder: Path) -> dict[str, dict]:
    """Return the command, the words of the text, and the perplexity of each training."""
    found = {}
    for one in sorted(path.parent for path in folder.glob("*/command.txt")):
        (state,) = one.glob("checkpoint-*/trainer_state.json")
        evaluation = one / "eval_results.json"
        measured = json.loads(evaluation.read_text()) if evaluation.is_file() else {}
        found[one.name] = {
            "command": (one / "command.txt").read_text().strip(),
            **json.loads((folder.parent / "texts" / one.name / "words.json").read_text()),
            "epochs": json.loads(state.read_text())["epoch"],
            "perplexity": measured.get("eval_perplexity"),
            "unknown": measured.get("eval_unknown_rate"),
        }
    return found


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+", help="folders of ELMo models")
    parser.add_argument(
        "--continued", type=Path, help="folder with the results of mixed_training.py"
    )
    parser.add_argument(
        "--static", nargs="*", default=[], help="gensim's KeyedVectors of other text"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("mixed_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--threads", type=int, default=speed_machine.cores())
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    torch.set_num_threads(given.threads)
    try:
        results = summarize(measure_all(given), given, arguments)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = json.dumps(results, default=dataclasses.asdict, indent=1)
    given.output.with_suffix(".json").write_text(text + "\n")
    given.output.write_text(mixed_report.markdown(json.loads(text)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
