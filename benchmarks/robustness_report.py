"""Write the page of benchmarks/robustness.py."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from elmo_hf.analysis.estimates import RESAMPLES, Estimate

CLEAN = "none"  # the name of no noise
TASKS = {
    "tagging": (
        "Parts of speech",
        "Accuracy on the test part of the English Web Treebank ({n:,} sentences, 17 universal "
        "parts of speech). The classifier learns from {size:,} words.",
    ),
    "sentiment": (
        "Sentiment",
        "Accuracy on the test part of SST-2 ({n:,} sentences, positive or negative). The "
        "classifier reads the mean and the maximum of a sentence's word vectors, and learns from "
        "{size:,} sentences.",
    ),
}
TABLES = {
    "clean": "Learned from clean text:",
    "lead": "The same: by how many points the first is more accurate than the second:",
    "saved": "How many points fewer the first loses to the noise than the second; below 0 it loses "
    "more:",
    "noisy": "Learned from text with the same kind of noise:",
    "changed": "The changed words only, learned from clean text:",
    "layers": "The layers of {checkpoint}, learned from clean text:",
}
Part = dict[str, np.ndarray]
Table = dict[str, dict[str, Estimate]]  # by noise, then by source or layer


# --- Figures ---


def estimate(parts: dict[str, dict[str, Part]]) -> dict[str, dict[str, Table]]:
    """
    Return the tables of each task.

    Args:
        parts: what `robustness.measure` returns, by task and source; the first source is the
            checkpoint.
    """
    return {task: _tables(task, sources) for task, sources in parts.items() if sources}


def _tables(task: str, sources: dict[str, Part]) -> dict[str, Table]:
    own = next(iter(sources))
    noises = [name.partition("/")[2] for name in sources[own] if name.startswith("changed/")]
    all_noises = [CLEAN, *noises]
    layers = {
        source: [name.split("/")[2] for name in part if name.startswith(f"clean/{CLEAN}/")]
        for source, part in sources.items()
    }

    def right(source: str, noise: str, learned: str = "clean", layer: str = "") -> np.ndarray:
        return sources[source][f"{learned}/{noise}/{layer or layers[source][-1]}"]

    def share(right: np.ndarray) -> Estimate:
        return _ratio(right, sources[own]["labels"])

    def changed(source: str, noise: str) -> Estimate:
        return _ratio(sources[source][f"right/{noise}"], sources[source][f"changed/{noise}"])

    def lead(pair: tuple[str, str], noise: str) -> np.ndarray:
        return right(pair[0], noise) - right(pair[1], noise)

    pairs = {f"{base} against {other}": (base, other) for base, other in _pairs([*sources])}
    tables = {
        "clean": {n: {s: share(right(s, n)) for s in sources} for n in all_noises},
        "lead": {n: {p: share(lead(pairs[p], n)) for p in pairs} for n in all_noises},
        "saved": {
            n: {p: share(lead(pairs[p], n) - lead(pairs[p], CLEAN)) for p in pairs} for n in noises
        },
        "noisy": {n: {s: share(right(s, n, "noisy")) for s in sources} for n in noises},
        "changed": {n: {s: changed(s, n) for s in sources} for n in noises},
        "layers": {
            n: {layer: share(right(own, n, layer=layer)) for layer in layers[own]}
            for n in all_noises
        },
        "share": {n: {"words": share(sources[own][f"changed/{n}"])} for n in noises},
    }
    if task == "sentiment":  # its labels are not those of words
        del tables["changed"]
    return tables


def _pairs(sources: list[str]) -> list[tuple[str, str]]:
    """Return what to compare: the checkpoint with the others, WordPieces with their control."""
    own, *others = sources
    control = next((source for source in others if source.startswith("characters,")), own)
    return [
        (control if source.startswith(("WordPiece", "masked BERT")) else own, source)
        for source in others
        if source != control
    ]


def _ratio(numbers: np.ndarray, counts: np.ndarray) -> Estimate:
    """Return the ratio of the sums, with an interval over the sentences."""
    if not counts.any():
        return Estimate(*[float("nan")] * 3, 0)

    weights = _resamples(len(counts))
    values = (weights @ numbers) / (weights @ counts).clip(1e-9)
    low, high = np.percentile(values, [2.5, 97.5]).tolist()
    return Estimate(float(numbers.sum() / counts.sum()), low, high, len(counts))


@functools.cache
def _resamples(n: int) -> np.ndarray:
    """Return how often each of n sentences is drawn in each bootstrap resample `(999, n)`."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)


# --- Page ---


def write(results: dict, page: Path) -> None:
    """Write the page and its JSON file."""
    text = json.dumps(results, default=dataclasses.asdict, indent=1)
    page.with_suffix(".json").write_text(text + "\n")
    page.write_text(markdown(results), encoding="utf-8")


def read(file: Path) -> dict:
    """Return the results of a JSON file."""
    results = json.loads(file.read_text())
    for tables in results["tasks"].values():
        for table in tables.values():
            for row in table.values():
                row.update({name: Estimate(**values) for name, values in row.items()})
    return results


def markdown(results: dict) -> str:
    """Return the page."""
    made, tasks = results["made"], results["tasks"]
    lines = [
        "# What noise does to tagging and sentiment",
        "",
        "Do characters make a model robust to misspellings? Each cell is an accuracy, times 100, "
        "with its 95 % interval (999 bootstrap resamples of the test sentences). The vectors are "
        "frozen: a logistic regression (C = 0.01 for all, which was not tuned here, standardized "
        "vectors) learns from the average of the layers, or from the single layer of word2vec. "
        "Each figure is the mean over three seeds, which draw the training sentences and the "
        "noise; every model reads the same noise. "
        "word2vec (skip-gram) is trained on a sample of the checkpoint's text, without noise; a "
        "word that it lacks has the mean of all vectors.",
        "",
        *_control(made["subwords"]),
        "## In short",
        "",
        *summary(results),
        "",
        *findings(results),
        "",
        "## The noise",
        "",
        *_noise(results),
        "",
        "characters: insertions, deletions, substitutions and swaps by textnoisr, the rate is that "
        "of the characters within words. codespell, TOEFL-Spell and charNMT are lists of "
        "misspellings that people made; every word with a listed misspelling is replaced, or "
        'every fifth in "codespell, 20%". Many entries of codespell are rare ones. A misspelling '
        "can be another word.",
        "",
    ]
    for task, tables in tasks.items():
        lines += _task(task, tables, made)
    return "\n".join([*lines, _origin(made), ""])


def summary(results: dict) -> list[str]:
    """Return a table of accuracies without intervals for each task; learned from clean text."""
    lines: list[str] = []
    for task, tables in results["tasks"].items():
        sources = [*tables["clean"][CLEAN]]
        lines += ["", f"{TASKS[task][0]}:", "", _row(["noise", *sources])]
        lines.append("| --- |" + " ---: |" * len(sources))
        for noise, row in tables["clean"].items():
            lines.append(_row([noise, *(f"{100 * row[source].value:.1f}" for source in sources)]))
    return lines[1:]


def _control(subwords: str | None) -> list[str]:
    if subwords is None:
        return []
    masked = ", and a masked BERT by `benchmarks/masked_control.py`" if "BERT" in subwords else ""
    return [
        "Characters against WordPieces: two biLMs with the same LSTMs, trained by the same recipe "
        f"on the same words by `benchmarks/subword_control.py`{masked}; a word's vector is the "
        f"mean of its pieces. {subwords}.",
        "",
    ]


def _noise(results: dict) -> Iterator[str]:
    """Yield the table of how many words each noise changes."""
    tasks, listed = results["tasks"], results["listed"]
    names = [TASKS[task][0].lower() for task in tasks]
    header = [f"{name}: {what}" for name in names for what in ("words changed", "listed")]
    yield _row(["noise", *header])
    yield "| --- |" + " ---: |" * len(header)
    for noise in next(iter(tasks.values()))["share"]:
        cells = []
        for task, tables in tasks.items():
            found = listed[task].get(noise)
            share = tables["share"][noise]["words"].value
            cells += [f"{100 * share:.1f} %", "-" if found is None else f"{100 * found:.1f} %"]
        yield _row([noise, *cells])


def _task(task: str, tables: dict[str, Table], made: dict) -> Iterator[str]:
    title, text = TASKS[task]
    n = next(iter(tables["clean"][CLEAN].values())).n
    yield from (f"## {title}", "", text.format(n=n, size=made["sizes"][task]), "")
    for name, heading in TABLES.items():
        if name in tables and any(tables[name].values()):
            yield from (heading.format(**made), "")
            yield from _table(tables[name], signed=name in ("lead", "saved"))
            yield ""


def _table(table: Table, signed: bool) -> Iterator[str]:
    columns = [*next(iter(table.values()))]
    yield _row(["noise", *columns])
    yield "| --- |" + " --- |" * len(columns)
    for noise, row in table.items():
        yield _row([noise, *(cell(row[column], signed) for column in columns)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(found: Estimate, signed: bool = False) -> str:
    style = "+.1f" if signed else ".1f"
    value, low, high = (format(100 * x, style) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def findings(results: dict) -> Iterator[str]:
    """Yield, for each task and pair, where the intervals of the differences exclude 0."""
    for task, tables in results["tasks"].items():
        for pair in next(iter(tables["lead"].values())):
            lead = _where(tables["lead"], pair, "is more accurate", "is less accurate")
            saved = _where(tables["saved"], pair, "loses less", "loses more")
            yield f"- {TASKS[task][0]}, {pair}: the first {lead}. It {saved}."


def _where(table: Table, pair: str, better: str, worse: str) -> str:
    """Say with which noise the interval lies above 0, and below 0."""
    found: dict[str, list[str]] = {better: [], worse: []}
    for noise, row in table.items():
        if row[pair].low > 0 or row[pair].high < 0:
            found[better if row[pair].low > 0 else worse].append(noise)
    sure = sum(map(len, found.values()))
    parts = [f"{name} with {_join(some, len(table))}" for name, some in found.items() if some]
    if sure < len(table):
        parts.append(f"cannot be told apart with {'the others' if sure else 'any noise'}")
    return ", and ".join(parts)


def _join(noises: list[str], total: int) -> str:
    if len(noises) == total:
        return "every noise"
    names = ["no noise" if noise == CLEAN else f"*{noise}*" for noise in noises]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _origin(made: dict) -> str:
    machine = made["machine"]
    return (
        f"Made on {made['date']} by `{made['command']}` on {machine['processor']}, "
        f"{machine['cores']} cores; checkpoint {made['sha256']} (SHA-256). Results are kept "
        "between runs, so some may come from an earlier run of the same measures."
    )
