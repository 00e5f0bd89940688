"""Compare a biLM of characters, one of WordPieces, and a masked BERT, trained on the same words.

    python benchmarks/controls.py FOLDER [--data DIR] [--tasks NAME ...]

FOLDER holds the models of benchmarks/subword_control.py and benchmarks/masked_control.py. For each
English data set of benchmarks/tasks.py with tags or classes, a linear head learns from a mix of the
frozen layers, as in the row "learned mix" there; BLiMP's pairs are scored by the models themselves.
Writes benchmarks/controls.md and controls.json. The folder --work keeps the results, which are not
measured again. `benchmarks/robustness.py --subwords FOLDER` measures noise.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples"), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import language_model
import masked_control
import numpy as np
import speed_machine
import subword_control
import torch
import train_ner
from language_model_texts import Pair, read_blimp
from task_data import read_examples, read_tagged, recode_spans
from task_texts import NOT_COMPARABLE, TASKS, Task
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, ModernBertForMaskedLM

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.analysis.sources import Vectors
from elmo_hf.model.layer_scalar_mix import ElmoScalarMix
from elmo_hf.text_files import make_splitter

DATA = ROOT.parent / "shared" / "data"
REPORT = ROOT / "benchmarks" / "controls.md"
TAGGING, QUESTIONS = "train_ner", "train_qa"
CHOSEN = [name for name, t in TASKS.items() if t.language == "en" and t.example != QUESTIONS]
SEEDS = (0, 1, 2)
STEPS, BATCH, RATE, DROPOUT = 800, 32, 1e-2, 0.5  # those of the row "learned mix"
BLIMP = "blimp"
Examples = list[tuple[list[str], list[str]]]  # words and labels: one a word, or a single one


# --- Labelled data ---


def read_task(task: Task, data: Path, folder: Path) -> tuple[Examples, Examples]:
    """Return the training and the test part."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = (str(file) for file in task.write(data, folder))
    read = read_tags if task.example == TAGGING else read_classes
    return read(task, train), read(task, test)


def read_tags(task: Task, file: str) -> Examples:
    column = "upos" if "upos" in task.flags else "tags"
    sentences = read_tagged(file, "words", column)
    if task.metric == "f1":
        for one in sentences:
            one["tags"] = recode_spans(one["tags"], "BIOES", one["where"])
    return [(one["words"], one["tags"]) for one in sentences]


def read_classes(task: Task, file: str) -> Examples:
    splitter = make_splitter(ElmoTokenizer())
    rows = read_examples(file, ["text", "label"])
    split = splitter.encode_batch([row["text"] for row in rows], add_special_tokens=False)
    return [(one.tokens, [row["label"]]) for one, row in zip(split, rows, strict=True)]


# --- The head ---


class MixedHead(nn.Module):
    """Class of a linear head on a learned mix of layers; for classes, on the mean of the words."""

    def __init__(self, layers: int, width: int, labels: int, pooled: bool) -> None:
        super().__init__()
        self.mix, self.pooled = ElmoScalarMix(layers), pooled
        self.dropout, self.linear = nn.Dropout(DROPOUT), nn.Linear(width, labels)

    def forward(self, sentences: list[torch.Tensor]) -> torch.Tensor:
        """Return the logits of sentences `(layers, words, width)`, of all words or of each one."""
        if self.pooled:
            sentences = [one.mean(1, keepdim=True) for one in sentences]
        layers = torch.cat(sentences, 1)  # (layers, words, width)
        return self.linear(self.dropout(self.mix(layers[:, None].unbind(0))[0]))


def score_head(task: Task, train: Examples, test: Examples, vectors: Vectors) -> list[float]:
    """Return the score of a head for each seed."""
    names = sorted({label for _, labels in [*train, *test] for label in labels})
    seen, new = (embed(vectors, part) for part in (train, test))
    targets = [torch.tensor([names.index(label) for label in labels]) for _, labels in train]
    gold = [np.array([names.index(label) for label in labels]) for _, labels in test]
    metrics = train_ner.make_metrics(names, "BIOES" if task.metric == "f1" else "none")
    scores = []
    for seed in SEEDS:
        head = train_head(seen, targets, len(names), task.example != TAGGING, seed)
        found = predict(head, new, [len(labels) for labels in gold])
        padded = [pad_sequence([*map(torch.as_tensor, part)], True, -100) for part in (found, gold)]
        scores.append(metrics(EvalPrediction(*(part.numpy() for part in padded)))[task.metric])
    return scores


def embed(vectors: Vectors, examples: Examples) -> list[torch.Tensor]:
    """Return each example's vectors `(layers, words, width)`, in half precision to save memory."""
    return [torch.from_numpy(one).half() for one in vectors(words for words, _ in examples)]


def train_head(
    seen: list[torch.Tensor], targets: list[torch.Tensor], labels: int, pooled: bool, seed: int
) -> MixedHead:
    torch.manual_seed(seed)
    layers, _, width = seen[0].shape
    head = MixedHead(layers, width, labels, pooled)
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    order = torch.cat([torch.randperm(len(seen)) for _ in range(1 + STEPS * BATCH // len(seen))])
    for rows in order[: STEPS * BATCH].view(STEPS, BATCH):
        logits = head([seen[row].float() for row in rows])
        loss = nn.functional.cross_entropy(logits, torch.cat([targets[row] for row in rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def predict(head: MixedHead, new: list[torch.Tensor], lengths: list[int]) -> list[torch.Tensor]:
    best = [head([one.float()]).argmax(-1) for one in new]
    assert [len(one) for one in best] == lengths
    return best


# --- BLiMP ---


def score_pairs(name: str, folder: Path, pairs: list[Pair]) -> dict[str, dict]:
    """Return the results of each paradigm, as `language_model.evaluate_pairs` does."""
    splitter = make_splitter(ElmoTokenizer())
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    split = splitter.encode_batch(texts, add_special_tokens=False)
    words = [encoding.tokens for encoding in split]
    if name == subword_control.MASKED:
        return score_masked(folder, pairs, words)
    if name == "pieces":
        known = subword_control.load_splitter(folder)
        words = [subword_control.encode(known, one).tokens for one in words]
    read = [
        replace(pair, good=good, bad=bad)
        for pair, good, bad in zip(pairs, words[::2], words[1::2], strict=True)
    ]
    model = ElmoForPreTraining.from_pretrained(folder / name).eval()
    tokenizer = ElmoTokenizer.from_pretrained(folder / name)
    return language_model.evaluate_pairs(model, tokenizer, read)


def score_masked(folder: Path, pairs: list[Pair], words: list[list[str]]) -> dict[str, dict]:
    """Return the same for BERT, by pseudo-log-likelihoods."""
    model = ModernBertForMaskedLM.from_pretrained(folder / subword_control.MASKED).eval()
    tokenizer = masked_control.load_tokenizer(folder)
    scores = masked_control.score_sentences(model, tokenizer, words)
    outcomes: dict[str, list[tuple[bool, bool]]] = {}
    for pair, (good, odd), (bad, odder) in zip(pairs, scores, scores, strict=True):
        wins = good - bad > language_model.ROUNDING
        outcomes.setdefault(pair.paradigm, []).append((wins, odd or odder))
    return {
        paradigm: {"both": fmean(a for a, _ in found), "unknown": fmean(b for _, b in found)}
        for paradigm, found in sorted(outcomes.items())
    }


# --- The report ---


def make_measures(given: argparse.Namespace, name: str, vectors: Vectors) -> dict[str, Callable]:
    """Return functions that measure a model, by the name of the column."""

    def measure_task(task: str) -> list[float]:
        train, test = read_task(TASKS[task], given.data, given.work / "texts" / task)
        return score_head(TASKS[task], train[: given.limit], test[: given.limit], vectors)

    def measure_pairs() -> list[float]:
        pairs = read_blimp(given.data / "blimp" / "blimp_data.zip")
        step = pairs_step(given, name) if given.limit is None else len(pairs) // given.limit
        found = score_pairs(name, given.folder, pairs[::step])
        return [fmean(one["both"] for one in found.values())]

    measures: dict[str, Callable] = {
        task: (lambda task=task: measure_task(task)) for task in given.tasks if task != BLIMP
    }
    return measures | ({BLIMP: measure_pairs} if BLIMP in given.tasks else {})


def pairs_step(given: argparse.Namespace, name: str) -> int:
    """Return n if every nth of BLiMP's pairs is scored."""
    return given.bert_pairs if name == subword_control.MASKED else 1


def remembered(measure: Callable[[], list[float]], file: Path) -> list[float]:
    """Return what the file has, or measure it."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(measure()))
        part.rename(file)
        print(f"{file.stem}: {file.read_text()}", file=sys.stderr, flush=True)
    return json.loads(file.read_text())


def fingerprint(folder: Path) -> str:
    return hashlib.sha256((folder / subword_control.WEIGHTS).read_bytes()).hexdigest()[:12]


def measure_all(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Yield each model's name and its scores by column."""
    for name, load in subword_control.load_sources(given.folder).items():
        vectors, key = load(), fingerprint(given.folder / name)
        found = {}
        for column, measure in make_measures(given, name, vectors).items():
            step = pairs_step(given, name) if column == BLIMP else 1
            part = f"-every-{step}" if step > 1 else ""
            file = given.work / f"{column}-{key}-{given.limit}{part}.json"
            found[column] = remembered(measure, file)
        yield vectors.name, found


def describe_training(folder: Path) -> str:
    """Return each model's passes over the words, and the minutes that they took."""
    parts = []
    for name in (*subword_control.MODELS, subword_control.MASKED):
        file = folder / name / "trainer_state.json"
        if file.is_file():
            state = json.loads(file.read_text())
            seconds = sum(entry.get("train_runtime", 0) for entry in state["log_history"])
            parts.append(f"{name} {state['epoch']:.3g}, in {seconds / 60:.0f} minutes")
    return "; ".join(parts)


def cell(scores: list[float]) -> str:
    mean = f"{100 * fmean(scores):.1f}"
    return f"{mean} ± {100 * stdev(scores):.1f}" if len(scores) > 1 else mean


def table(models: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """Yield the table, a column for each model."""

    def row(name: str, scores: list[list[float]]) -> str:
        return f"| {name} | " + " | ".join(map(cell, scores)) + " |"

    columns = [*next(iter(models.values()))]
    yield "| | " + " | ".join(models) + " |"
    yield "| --- |" + " ---: |" * len(models)
    tasks = [column for column in columns if column != BLIMP]
    for task in tasks:
        yield row(task, [scores[task] for scores in models.values()])
    if tasks:
        means = [[fmean(fmean(scores[task]) for task in tasks)] for scores in models.values()]
        yield row(f"mean of the {len(tasks)} tasks", means)
    if BLIMP in columns:
        yield row("BLiMP", [scores[BLIMP] for scores in models.values()])


def markdown(results: dict) -> str:
    """Return the page."""
    made, models = results["made"], results["models"]
    step = made["bert_pairs"]
    pairs = f", 1 pair of {step}" if step > 1 else ""
    lines = [
        "# Characters, WordPieces, and a masked BERT",
        "",
        "Three models of the same size, trained on the same words: the biLM of characters, the "
        "same biLM of WordPieces, and a masked language model of the same WordPieces, ModernBERT. "
        f"{made['sizes']}. Passes over the words: {made['training']}.",
        "",
        *table(models),
        "",
        f"Tasks: a linear head on a learned mix of the frozen layers, {STEPS} steps of {BATCH} "
        f"sentences, mean ± standard deviation of {len(SEEDS)} seeds of the head, F1 or accuracy "
        "of the test part in percent. A word's vector is the mean of its pieces'. BLiMP: percent "
        "of the pairs whose good sentence is more probable, mean of the paradigms; biLMs by the "
        f"sum of both directions, BERT by pseudo-log-likelihoods (Kauf and Ivanova 2023){pairs}. "
        "There is one seed of each model.",
        "",
        NOT_COMPARABLE,
        "",
        f"Made on {made['machine']['processor']} by `{made['command']}`.",
        "",
    ]
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the trained models")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("controls_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument(
        "--tasks", nargs="+", choices=[*CHOSEN, BLIMP], default=[*CHOSEN, BLIMP], metavar="NAME"
    )
    parser.add_argument(
        "--bert_pairs",
        type=int,
        default=1,
        metavar="N",
        help="BERT scores every Nth pair of BLiMP only; it needs a pass for each piece of a word",
    )
    parser.add_argument("--limit", type=int, help="use only so many examples, to try it out")
    given = parser.parse_args(arguments)
    if given.bert_pairs < 1:
        parser.error(f"--bert_pairs is {given.bert_pairs}; expected 1 or more")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    command = "python benchmarks/controls.py " + shlex.join(arguments or sys.argv[1:])
    try:
        models = dict(measure_all(given))
        sizes = subword_control.describe(given.folder)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made = {"command": command, "machine": speed_machine.describe(), "sizes": sizes}
    made |= {"training": describe_training(given.folder), "bert_pairs": given.bert_pairs}
    results = {"models": models, "made": made}
    given.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    given.output.write_text(text := markdown(results), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
