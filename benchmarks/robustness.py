"""Measure how noise in a text changes tagging and sentiment by a checkpoint's vectors.

    python benchmarks/robustness.py CHECKPOINT [--subwords FOLDER] [--text 'text/*.txt']

Classifiers learn from the frozen vectors of clean sentences, or of sentences with the same kind of
noise. Measured are the checkpoint, its random weights, word2vec of --text, and with --subwords the
two models of benchmarks/subword_control.py. Writes benchmarks/robustness.md and robustness.json.
The folder --work keeps word2vec and the results, which are not measured again.
"""

import argparse
import dataclasses
import functools
import hashlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import robustness_report
import speed_machine
import subword_control
import torch
import understanding
import understanding_texts as texts
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from task_texts import sentiment_trees

from elmo_hf.analysis.noise import (
    ChangeCase,
    MisspellWords,
    Noise,
    ReplaceCharacters,
    read_misspellings,
)
from elmo_hf.analysis.probes import Labelled
from elmo_hf.analysis.sources import ElmoVectors, Vectors

REPORT = ROOT / "benchmarks" / "robustness.md"
SEEDS = (0, 1, 2)
REGULARIZATION = 0.01  # scikit-learn's C, the same for all
CLEAN = robustness_report.CLEAN
RATES = (0.02, 0.05, 0.1, 0.2)
LISTS = {
    "codespell": "misspellings_codespell/dictionary.txt.xz",
    "TOEFL-Spell": "toefl_spell/Annotations.tsv",
    "charNMT": "char_noise/en.natural.xz",
}
Noises = dict[str, Callable[[int], Noise]]  # each takes a seed
Part = dict[str, np.ndarray]  # by sentence: the number of right labels, a mean over the seeds


@dataclasses.dataclass(frozen=True)
class Task:
    """
    Class with the labelled sentences of a task.

    Args:
        train, test: sentences with one label for each word, or with a single label.
        size: number of labels to learn from, up to the end of the last sentence drawn.
    """

    train: list[Labelled]
    test: list[Labelled]
    size: int

    @property
    def is_of_sentences(self) -> bool:
        return all(len(one.labels) == 1 for one in self.train)

    def draw(self, seed: int) -> list[Labelled]:
        """Return random training sentences."""
        drawn: list[Labelled] = []
        left = self.size
        for i in np.random.default_rng(seed).permutation(len(self.train)):
            if left <= 0:
                break
            drawn.append(self.train[i])
            left -= len(self.train[i].labels)
        return drawn


def make_tasks(given: argparse.Namespace) -> dict[str, Task]:
    def trees(part: str) -> list[Labelled]:
        rows = sentiment_trees(2)(given.data, part)
        return [Labelled(row["text"].split(), [row["label"]]) for row in rows]

    read = {
        "tagging": (functools.partial(texts.parts_of_speech, given.data), given.words),
        "sentiment": (trees, given.texts),
    }
    return {
        name: Task(part("train"), part("test")[: given.sentences], size)
        for name, (part, size) in read.items()
        if name in given.tasks
    }


def make_noises(data: Path) -> Noises:
    """Return the kinds of noise by name, each a function of the seed."""
    lists = {name: read_misspellings(data / file) for name, file in LISTS.items()}
    return {
        CLEAN: lambda seed: list,
        **{f"characters, {rate:.0%}": functools.partial(ReplaceCharacters, rate) for rate in RATES},
        "codespell, 20%": functools.partial(MisspellWords, lists["codespell"], 0.2),
        **{name: functools.partial(MisspellWords, listed, 1.0) for name, listed in lists.items()},
        **{
            f"{case} case": lambda seed, case=case: ChangeCase(case)
            for case in ("lower", "upper", "title")
        },
    }


# --- Measuring ---


def measure(vectors: Vectors, task: Task, noises: Noises) -> Part:
    """
    Measure a source on a task.

    Returns:
        For each sentence of the test part, means over the seeds: `KIND/NOISE/LAYER`, the number of
        right labels, where KIND is clean or noisy, the text that the classifier learned from;
        `right/NOISE` and `changed/NOISE`, the number of right labels of changed words, for the
        classifier of clean text and the mixed layers, and their number; `labels`, all labels.
    """
    names = [*vectors.layers, *(["average"] if len(vectors.layers) > 1 else [])]
    gold = np.array([label for one in task.test for label in one.labels])
    starts = np.cumsum([0, *(len(one.labels) for one in task.test[:-1])])
    drawn = {seed: task.draw(seed) for seed in SEEDS}
    clean = {seed: learn(vectors, task, drawn[seed], list) for seed in SEEDS}
    found: Part = {"labels": np.diff([*starts, len(gold)]).astype(np.float64)}

    def add(name: str, values: np.ndarray) -> None:
        sums = np.add.reduceat(values.astype(np.float64), starts) / len(SEEDS)
        found[name] = found.get(name, 0) + sums

    for kind, make in noises.items():
        before: list | None = None
        for seed in SEEDS:
            noise = make(seed)
            noised = [noise(one.words) for one in task.test]
            if noised != before:  # the seed makes no difference to the case
                rows, before = features(vectors, task, noised), noised
            right = [head.predict(row) == gold for head, row in zip(clean[seed], rows, strict=True)]
            for name, values in zip(names, right, strict=True):
                add(f"clean/{kind}/{name}", values)
            if kind == CLEAN:
                continue
            (head,) = learn(vectors, task, drawn[seed], noise, mixed_only=True)
            add(f"noisy/{kind}/{names[-1]}", head.predict(rows[-1]) == gold)
            changed = differences(task, noised)
            add(f"changed/{kind}", changed)
            add(f"right/{kind}", changed * right[-1])
    return found


def learn(
    vectors: Vectors, task: Task, drawn: list[Labelled], noise: Noise, mixed_only: bool = False
) -> list:
    """Return a classifier for each layer and their average, or for the average only."""
    rows = features(vectors, task, [noise(one.words) for one in drawn])
    labels = [label for one in drawn for label in one.labels]
    return [
        make_pipeline(
            StandardScaler(), LogisticRegression(C=REGULARIZATION, max_iter=1000, tol=1e-3)
        ).fit(row, labels)
        for row in (rows[-1:] if mixed_only else rows)
    ]


def features(vectors: Vectors, task: Task, sentences: list[list[str]]) -> np.ndarray:
    """Return `(layers, labels, width)`; if there are several layers, the last is the average."""

    def each() -> Iterator[np.ndarray]:
        for layers in vectors(sentences):
            rows = layers if len(layers) == 1 else np.concatenate([layers, layers.mean(0)[None]])
            if task.is_of_sentences:
                rows = np.concatenate([rows.mean(1), rows.max(1)], -1)[:, None]
            yield rows

    return np.concatenate([*each()], axis=1)


def differences(task: Task, noised: list[list[str]]) -> np.ndarray:
    """Return which labels belong to changed words; for sentences: the share of changed words."""
    masks = [
        [a != b for a, b in zip(one.words, words, strict=True)]
        for one, words in zip(task.test, noised, strict=True)
    ]
    return np.concatenate([[np.mean(mask)] if task.is_of_sentences else mask for mask in masks])


def remembered(vectors: Vectors, name: str, task: Task, noises: Noises, folder: Path) -> Part:
    """Return what the folder has, or measure it."""
    # The vectors of one sentence tell sources apart.
    (rows,) = vectors([["The", "bank", "rose", "."]])
    sizes = [len(task.train), len(task.test), task.size, [*noises], SEEDS]
    settings = f"{name} {vectors.name} {sizes} {np.round(rows, 3).tolist()}"
    file = folder / f"{hashlib.sha256(settings.encode()).hexdigest()[:12]}-{name}.npz"
    if not file.is_file():
        start = time.perf_counter()
        found = measure(vectors, task, noises)
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as opened:
            np.savez_compressed(opened, **found)
        part.rename(file)
        seconds = time.perf_counter() - start
        print(f"{vectors.name}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    with np.load(file) as stored:
        return dict(stored)


# --- The rows ---


def make_sources(given: argparse.Namespace) -> list[Callable[[], Vectors]]:
    """Return functions that load each source."""
    elmo = functools.partial(ElmoVectors, given.checkpoint)
    has_words = given.text or (given.work / "word2vec.kv").is_file()
    return [
        elmo,
        functools.partial(elmo, random=True, name="random weights"),
        *([functools.partial(understanding.word2vec, given)] if has_words else []),
        *(subword_control.load_sources(given.subwords).values() if given.subwords else []),
    ]


def count_listed(noises: Noises, task: Task) -> dict[str, float]:
    """Return the share of the test words that have a misspelling in each list."""
    sentences = [one.words for one in task.test]
    made = {name: make(0) for name, make in noises.items()}
    return {
        name: noise.cover(sentences)
        for name, noise in made.items()
        if isinstance(noise, MisspellWords)
    }


def describe(given: argparse.Namespace, arguments: Sequence[str] | None) -> dict:
    command = shlex.join(arguments or sys.argv[1:])
    return understanding.describe(given, arguments) | {
        "command": f"python benchmarks/robustness.py {command}",
        "sizes": {"tagging": given.words, "sentiment": given.texts},
        "subwords": subword_control.describe(given.subwords) if given.subwords else None,
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of an ELMo model")
    parser.add_argument(
        "--subwords", type=Path, help="folder of the models of benchmarks/subword_control.py"
    )
    parser.add_argument(
        "--text", nargs="+", default=[], help="training text of word2vec, if --work has none yet"
    )
    parser.add_argument("--data", type=Path, default=understanding.DATA)
    parser.add_argument("--work", type=Path, default=Path("robustness_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument(
        "--tasks", nargs="+", choices=["tagging", "sentiment"], default=["tagging", "sentiment"]
    )
    parser.add_argument("--threads", type=int, default=speed_machine.cores())
    parser.add_argument("--words", type=int, default=3000, help="training words of a tagger")
    parser.add_argument("--texts", type=int, default=2000, help="training texts for sentiment")
    parser.add_argument("--sentences", type=int, help="test only so many, to try it out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        made = describe(given, arguments)
        tasks, noises = make_tasks(given), make_noises(given.data)
        listed = {name: count_listed(noises, task) for name, task in tasks.items()}
        parts: dict[str, dict[str, Part]] = {name: {} for name in tasks}
        for load in make_sources(given):
            vectors = load()
            for name, task in tasks.items():
                found = remembered(vectors, name, task, noises, given.work / "results")
                parts[name][vectors.name] = found
            results = {"tasks": robustness_report.estimate(parts), "listed": listed, "made": made}
            robustness_report.write(results, given.output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(given.output.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
