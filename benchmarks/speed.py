"""Measure the speed of elmo_hf, AllenNLP and BERT-base in one run.

    python benchmarks/speed.py [--text FILE] [--sizes small original] [--quick] [--only NAME ...]

Builds random models in the original format and installs AllenNLP into a separate environment. Stops
if elmo_hf and AllenNLP do not compute the same, else measures all programs in turn. Writes
benchmarks/speed.md, speed.json and speed.svg and the README's table. With --quick, --only or
--parts, whose figures are not for publication, writes into the folder --work instead.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import speed_machine
import speed_models
import speed_plot
import speed_report
import speed_text
from speed_peers import BenchmarkError, Process, allennlp_python
from speed_variants import (
    ALLENNLP,
    PIECES_PER_WORD,
    REFERENCE,
    VARIANTS,
    Variant,
)

# Largest error, relative to the norm of a layer of the reference engine in float64.
LAYER_LIMITS = {"float32": 2e-6, "bfloat16": 1.5e-2, "int8": 5e-2}
# That of other programs, whose float32 rounding depends on the processor.
PEER_LIMIT = 1e-5
# Largest error, relative to the norm of a gradient that passed through all layers.
GRADIENT_LIMITS = {"float32": 1e-5, "bfloat16": 1e-1}
PARTS = ("inference", "training", "sweeps")
SWEEP_LENGTHS = (10, 30, 100, 300, 1000, 3000)
SWEEP_BATCHES = (1, 8, 32, 128)
SWEEP_VARIETY = (5, 20, 50, 100)  # distinct words of 100
# Seconds that a point of a sweep may take: above LONG it is measured once, above TOO_LONG never.
LONG, TOO_LONG = 10, 60
FEW = 6  # sentences for comparing gradients, where the reference is slow
AWKWARD = [
    ["Pretty"],
    ["naïve", "日本語", "😀", "x" * 47, "x" * 48, "x" * 49, "x" * 70, "!"],
    ["the", "same", "word"] * 3,
]


@dataclass(frozen=True)
class Plan:
    """Class with the numbers of sentences, batches and rounds to measure."""

    corpus: int = 2048
    batches: int = 2
    singles: int = 12
    steps: int = 1
    rounds: int = 3
    sweep_rounds: int = 1
    sweep_words: int = 300  # at least at each point


QUICK = Plan(corpus=128, batches=1, singles=2, steps=1, rounds=1, sweep_words=100)


class Programs:
    """Class with the running processes of one model size; iterating visits each in turn."""

    def __init__(self, processes: dict[str, Process]) -> None:
        self.processes = processes
        self.turn = 0

    def __iter__(self) -> Iterator[tuple[Variant, Process]]:
        """Rotate the order, so that no program always follows the same other program."""
        self.turn += 1
        names = list(self.processes)
        start = self.turn % max(1, len(names))
        for name in names[start:] + names[:start]:
            yield self.processes[name].variant, self.processes[name]


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    try:
        results = run(given)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    is_partial = given.quick or given.only or given.parts != list(PARTS)
    write(results, given.work if is_partial else ROOT / "benchmarks")
    if not is_partial:
        speed_report.put_between_marks(ROOT / "README.md", speed_report.readme_table(results))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--text", type=Path, help="text with one sentence per line, plain or .xz")
    parser.add_argument("--sizes", nargs="+", choices=speed_models.SIZES, metavar="SIZE")
    parser.add_argument("--quick", action="store_true", help="one short round, as a trial")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=speed_machine.cores(), help="cores to use")
    default = Path(tempfile.gettempdir()) / "elmo_hf_speed"
    parser.add_argument("--work", type=Path, default=default, help="models and environment")
    parsed = parser.parse_args(arguments)
    parsed.sizes = parsed.sizes or ["small", "original"]
    return parsed


def run(given: argparse.Namespace) -> dict:
    """Measure every size, and the limits of the machine before and after."""
    import torch

    plan = QUICK if given.quick else Plan()
    sentences = speed_text.read(given.text)
    variants = [v for v in VARIANTS if given.only is None or v.name in given.only]
    has_allennlp = ALLENNLP in variants
    python = allennlp_python(given.work, torch.__version__) if has_allennlp else None
    limits = speed_machine.limits(given.threads)
    sizes = {}
    for name in given.sizes:
        folder = speed_models.build(name, given.work)
        pool = speed_text.Pool(sentences)
        sizes[name] = Measurement(given, plan, name, folder, pool, python).run(variants)
    return {
        "machine": speed_machine.describe(),
        "limits": speed_machine.higher(limits, speed_machine.limits(given.threads)),
        "versions": speed_machine.versions(has_allennlp),
        "settings": {
            "command": "python benchmarks/speed.py" + (" --text FILE" if given.text else ""),
            "cores": given.threads,
            "sweep_rounds": plan.sweep_rounds,
            "date": str(datetime.date.today()),
            "pieces": PIECES_PER_WORD,
            "rounds": plan.rounds,
            "sentences": f"{plan.corpus:,}",
            "text": (given.text or speed_text.TEXT).name,
        },
        "sizes": sizes,
    }


class Measurement:
    """Class that starts, compares and measures all programs for one model size."""

    def __init__(self, given, plan, name, folder, pool, python) -> None:
        self.given, self.plan, self.folder, self.pool = given, plan, folder, pool
        self.python = python
        self.skipped: dict[str, str] = {}
        self.results = {
            "name": name,
            "inference": {mode: {} for mode in speed_report.MODES},
            "training": {kind: {} for kind in speed_report.TRAINING},
            "memory": {kind: {} for kind in speed_report.TRAINING},
            "sweeps": {},
            "skipped": self.skipped,
        }

    def run(self, variants: list[Variant]) -> dict:
        with ExitStack() as stack:
            processes = {}
            for variant in variants:
                process = self.start_or_skip(variant)
                if process is not None:
                    processes[variant.name] = stack.enter_context(process)
            programs = Programs(processes)
            self.results["variants"] = list(processes)
            self.compare(programs)
            if "inference" in self.given.parts:
                self.measure_inference(programs)
            if "training" in self.given.parts:
                self.measure_training(programs)
            if "sweeps" in self.given.parts:
                self.measure_sweeps(programs)
        if "training" in self.given.parts:
            self.measure_memory([process.variant for process in processes.values()])
        return self.results

    def start(self, variant: Variant) -> Process:
        say(f"{self.results['name']}: starting {variant.name}")
        python = self.python if variant.loader == "allennlp" else sys.executable
        return Process(variant, self.folder, python, self.given.threads)

    def start_or_skip(self, variant: Variant) -> Process | None:
        """Start a variant, or record why it cannot start; only AllenNLP is required."""
        try:
            return self.start(variant)
        except BenchmarkError as error:
            if variant == ALLENNLP:
                raise
            self.skipped[variant.name] = str(error).splitlines()[0]
            say(str(error))
            return None

    def compare(self, programs: Programs) -> None:
        """Raise BenchmarkError unless layers and gradients agree with the reference engine."""
        sentences = AWKWARD + self.pool.take(13)
        with self.start(REFERENCE) as reference:
            layers = reference.arrays("layers", sentences)
            gradient = reference.arrays("gradient", sentences[:FEW])
        found, gradients = {}, {}
        for variant, process in programs:
            say(f"{self.results['name']}: comparing {variant.name}")
            if not variant.is_elmo:
                process.arrays("layers", sentences)  # warms it up
                continue
            found[variant.name] = errors(process.arrays("layers", sentences), layers)
            if variant.trains:
                own = process.arrays("gradient", sentences[:FEW])
                gradients[variant.name] = errors(own, gradient)[0]
        check(found, {n: [e] for n, e in gradients.items()})
        self.results["errors"], self.results["gradient_errors"] = found, gradients

    def measure_inference(self, programs: Programs) -> None:
        plan, modes = self.plan, self.results["inference"]
        for turn in range(plan.rounds):
            say(f"{self.results['name']}: inference, round {turn + 1} of {plan.rounds}")
            batches = [self.pool.take(32) for _ in range(plan.batches)]
            singles = [self.pool.take(1) for _ in range(plan.singles)]
            for variant, process in programs:
                for mode, measured in (("batch", batches), ("single", singles)):
                    if mode in variant.modes:
                        record(modes[mode], variant, process("batches", batches=measured))
            corpus = self.pool.take(plan.corpus)
            self.count(corpus)
            for variant, process in programs:
                request = {"every": variant.every, "sort": variant.sorts}
                if "corpus" in variant.modes:
                    answer = process("corpus", sentences=corpus, **request)
                    record(modes["corpus"], variant, answer)

    def count(self, corpus: list) -> None:
        """Record the least arithmetic that a word of the corpus needs."""
        words = sum(map(len, corpus))
        pieces = [round(PIECES_PER_WORD * len(sentence)) + 2 for sentence in corpus]
        size = speed_models.SIZES[self.results["name"]]
        self.results["flops"] = speed_models.corpus_flops(size, corpus) / words
        self.results["bert_flops"] = sum(map(speed_models.bert_flops, pieces)) / words
        self.results["steps_per_word"] = (words + 2 * len(corpus)) / words

    def measure_training(self, programs: Programs) -> None:
        for turn in range(self.plan.rounds):
            say(f"{self.results['name']}: training, round {turn + 1} of {self.plan.rounds}")
            batches = [self.pool.take(32) for _ in range(self.plan.steps)]
            for variant, process in programs:
                if not variant.trains:
                    continue
                for kind, measured in self.results["training"].items():
                    answer = process("steps", batches=batches, frozen=kind == "frozen")
                    record(measured, variant, answer | {"steps": len(batches)})

    def measure_memory(self, variants: list[Variant]) -> None:
        """Measure the peak memory of a first training step, each in a new process."""
        sentences = self.pool.take(32)
        for variant in variants:
            if not variant.trains:
                continue
            for kind, measured in self.results["memory"].items():
                with self.start(variant) as process:
                    answer = process("peak", sentences=sentences, frozen=kind == "frozen")
                    measured[variant.name] = answer["bytes"]

    def measure_sweeps(self, programs: Programs) -> None:
        expected: dict[tuple[str, str], float] = {}  # seconds per word, by sweep and variant
        rounds = self.plan.sweep_rounds
        for turn in range(rounds):
            for sweep, point, threads, request in self.points():
                say(f"{self.results['name']}: {sweep} {point}, round {turn + 1} of {rounds}")
                measured = self.results["sweeps"].setdefault(sweep, {}).setdefault(str(point), {})
                groups = request.get("batches") or [request["sentences"]]
                words = sum(len(s) for group in groups for s in group)
                longest = max(len(s) for group in groups for s in group)
                for variant, process in programs:
                    likely = expected.get((sweep, variant.name), 0) * words
                    too_long = likely > TOO_LONG or longest > (variant.longest or longest)
                    if not variant.swept or too_long or (turn and likely > LONG):
                        continue
                    process("threads", count=threads)
                    answer = process("corpus" if "sentences" in request else "batches", **request)
                    process("threads", count=self.given.threads)
                    expected[sweep, variant.name] = answer["seconds"] / answer["words"]
                    record(measured, variant, answer)

    def points(self) -> Iterator[tuple[str, object, int, dict]]:
        """Yield sweep, point, cores and the request to measure."""
        pool, least, threads = self.pool, self.plan.sweep_words, self.given.threads
        for length in SWEEP_LENGTHS:
            count = max(1, least // length)
            batches = [[pool.take_words(length)] for _ in range(count)]
            yield "words in a sentence", length, threads, {"batches": batches}
        for size in SWEEP_BATCHES:
            count = max(1, 16 // size)
            batches = [pool.take(size) for _ in range(count)]
            yield "sentences in a batch", size, threads, {"batches": batches}
        for percent in SWEEP_VARIETY:
            sentences = pool.take_variety(640 * percent // 100, 32, 20)
            yield "distinct words of 100", percent, threads, {"batches": [sentences]}
        counts = [2**k for k in range(threads.bit_length()) if 2**k < threads] + [threads]
        for count in counts:
            yield "cores", count, count, {"sentences": pool.take(128)}


def errors(found: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """Return the norm of each difference over the norm of the expected array.

    The largest float is returned for different shapes and values that are not finite.
    """
    largest = sys.float_info.max
    if [a.shape for a in found] != [a.shape for a in expected]:
        return [largest] * len(expected)
    norms = [
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(found, expected, strict=True)
    ]
    return [norm if np.isfinite(norm) else largest for norm in norms]


def check(layers: dict[str, list[float]], gradients: dict[str, list[float]]) -> None:
    """Raise BenchmarkError if the error of a variant exceeds the limit of its precision."""
    wrong = []
    for what, limits, found in (
        ("layer", LAYER_LIMITS, layers),
        ("gradient", GRADIENT_LIMITS, gradients),
    ):
        for name, values in found.items():
            limit = limits[speed_report.PRECISIONS[name]]
            if not name.startswith("elmo_hf"):
                limit = max(limit, PEER_LIMIT)
            wrong += [
                f"{name}, {what} {i}: off by {value:.1e} of its norm, the limit is {limit:.1e}"
                for i, value in enumerate(values)
                if not value <= limit
            ]
    if wrong:
        raise BenchmarkError(
            "the programs do not compute the same, so there is nothing to measure:\n"
            + "\n".join(wrong)
        )


def record(measured: dict, variant: Variant, answer: dict) -> None:
    """Append a round's seconds and words, per step if the answer has steps."""
    steps = answer.get("steps", 1)
    measured.setdefault(variant.name, []).append(
        [answer["seconds"] / steps, answer["words"] / steps]
    )


def write(results: dict, folder: Path) -> None:
    """Write the page, the numbers and the plot; print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = speed_report.page(results)
    print(page)
    (folder / "speed.md").write_text(page, encoding="utf-8")
    (folder / "speed.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if bars := plotted(results):
        speed_plot.draw(bars, folder / "speed.svg")
    say(f"wrote {folder}/speed.md, speed.json, speed.svg")


def plotted(results: dict) -> dict:
    """Return the bars of the plot: words/s of a whole corpus for each size, fastest first."""
    groups = {}
    for name, size in results["sizes"].items():
        measured = size["inference"]["corpus"]
        bars = [
            (variant, speed_report.rate(rounds), speed_report.speed(measured, variant))
            for variant, rounds in measured.items()
        ]
        if bars:
            title = f"ELMo {name}: words/s, whole corpus (times AllenNLP)"
            groups[title] = sorted(bars, key=lambda bar: -bar[1])
    return groups


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
