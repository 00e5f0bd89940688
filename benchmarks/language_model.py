"""Measure a checkpoint's language model: perplexity of held-out text, and accuracy on BLiMP.

    python benchmarks/language_model.py CHECKPOINT [--data DIR] [--output FILE.md] [--card FILE.md]

The perplexity is that of every test part in the data folder and of WikiText-2, in each direction,
sentence by sentence and as running text. In BLiMP's minimal pairs (Warstadt et al. 2020) the score
of a sentence is the sum of its words' log-probabilities forward, backward, or both.
"""

import argparse
import datetime
import fnmatch
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import speed_machine
from language_model_texts import DataError, Pair, read_blimp, read_text, read_wikitext

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.scoring import SentenceScores, perplexity, score_sentences, score_text

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
REPORT = ROOT / "benchmarks" / "language_model.md"
BEGIN, END = "<!-- language model: begin -->", "<!-- language model: end -->"
MODES = ("sentences", "text")
DIRECTIONS = ("forward", "backward", "both")
MEASURED = (*DIRECTIONS, *(f"{name}_ties" for name in DIRECTIONS), "unknown")
ROUNDING = 1e-3  # in nats: sums of log-probabilities that differ by less are a tie


def evaluate(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    texts: dict[str, Sequence],
    pairs: Sequence[Pair],
    streams: int,
) -> dict:
    """Measure everything; return the results as JSON values."""
    perplexities = {}
    for name, sentences in texts.items():
        print(f"{name}: {len(sentences)} sentences", file=sys.stderr, flush=True)
        scores = (
            score_sentences(model, tokenizer, sentences),
            score_text(model, tokenizer, sentences, streams=streams),
        )
        perplexities[name] = {
            mode: asdict(perplexity(scored)) for mode, scored in zip(MODES, scores, strict=True)
        }
    if pairs:
        print(f"BLiMP: {len(pairs)} pairs", file=sys.stderr, flush=True)
    return {
        "perplexity": perplexities,
        "blimp": evaluate_pairs(model, tokenizer, pairs),
        "streams": streams,
    }


def evaluate_pairs(
    model: ElmoForPreTraining, tokenizer: ElmoTokenizer, pairs: Iterable[Pair]
) -> dict[str, dict]:
    """Return, per paradigm, the shares of correct pairs and of pairs with unknown words."""
    pairs = list(pairs)
    sentences = (sentence for pair in pairs for sentence in (pair.good, pair.bad))
    scores = score_sentences(model, tokenizer, sentences)
    outcomes: dict[str, list[dict]] = {}
    for pair, good, bad in zip(pairs, scores, scores, strict=True):
        outcomes.setdefault(pair.paradigm, []).append(compare(good, bad))
    of = {pair.paradigm: pair for pair in pairs}
    return {
        paradigm: {
            "field": of[paradigm].field,
            "term": of[paradigm].term,
            "pairs": len(found),
            **{key: fmean(outcome[key] for outcome in found) for key in found[0]},
        }
        for paradigm, found in sorted(outcomes.items())
    }


def compare(good: SentenceScores, bad: SentenceScores) -> dict[str, bool]:
    """Return, per direction, whether the good sentence wins or ties; whether a word is unknown."""
    leads = {"forward": good.forward.sum() - bad.forward.sum()}
    if good.backward is not None and bad.backward is not None:
        leads["backward"] = good.backward.sum() - bad.backward.sum()
        leads["both"] = leads["forward"] + leads["backward"]
    outcome = {name: lead > ROUNDING for name, lead in leads.items()}
    outcome |= {f"{name}_ties": abs(lead) <= ROUNDING for name, lead in leads.items()}
    outcome["unknown"] = good.unknown.any() or bad.unknown.any()
    return {key: bool(value) for key, value in outcome.items()}


def summarize(blimp: dict[str, dict], group: str | None = None) -> dict[str, dict]:
    """Return means over paradigms, as published: of all ("all"), or per field or term."""
    groups: dict[str, list[dict]] = {}
    for result in blimp.values():
        groups.setdefault(result[group] if group else "all", []).append(result)
    return {
        name: {
            "paradigms": len(found),
            **{key: fmean(r[key] for r in found) for key in MEASURED if key in found[0]},
        }
        for name, found in sorted(groups.items())
    }


def markdown(results: dict) -> str:
    """Return the tables and their explanation."""
    parts = []
    if results["perplexity"]:
        parts.append(perplexity_table(results["perplexity"]))
        parts.append(
            "Perplexity of the full softmax over the checkpoint's vocabulary. Every word and one "
            "boundary per sentence are predicted. Unknown: share of words outside the vocabulary; "
            "they count as one class, so perplexities with different vocabularies are not "
            "comparable. Mean: exp of the mean loss of both directions. Running text: the LSTM "
            "states are carried from sentence to sentence, in "
            f"{results['streams']} parts that are read in parallel."
        )
    if any(name.startswith("wikitext") for name in results["perplexity"]):
        parts[-1] += (
            " WikiText-2: the sentences of its test text without headings; its split marks (`@-@`) "
            "are removed and its `<unk>` is the unknown word. Not comparable with figures for its "
            "own tokens."
        )
    if results["blimp"]:
        parts.append(blimp_table(results["blimp"]))
        parts.append(
            "BLiMP: percent of minimal pairs whose good sentence is more probable, mean of the "
            "paradigms. Ties: percent of pairs whose sentences are equally probable, up to "
            f"{ROUNDING:g} nats; they do not count as success. Unknown: percent of pairs with an "
            "unknown word. In Warstadt et al. (2020): 5-gram 61.2, LSTM 69.8, GPT-2 83.0, humans "
            "88.6."
        )
    made = results["made"]
    machine = made["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    parts.append(
        f"Made on {made['date']} by `{made['command']}` on {machine['processor']}, "
        f"{machine['cores']} cores, with {versions}."
    )
    return "\n\n".join(parts) + "\n"


def perplexity_table(perplexities: dict) -> str:
    rows = [
        ["text", "words", "unknown", "forward", "backward", "mean"]
        + [f"running text, {name}" for name in ("forward", "backward", "mean")]
    ]
    for name, modes in perplexities.items():
        known = modes["sentences"]
        row = [name, f"{known['words']:,}", f"{known['unknown_rate']:.1%}"]
        for mode in MODES:
            row += [number(modes[mode][key], 1) for key in ("forward", "backward", "mean")]
        rows.append(row)
    return table(rows)


def blimp_table(blimp: dict) -> str:
    ties = [f"ties, {name}" for name in DIRECTIONS]
    rows = [["BLiMP", "paradigms", *DIRECTIONS, *ties, "unknown"]]
    groups = {f"**{name}**": found for name, found in summarize(blimp).items()}
    groups |= {f"*{name}*": found for name, found in summarize(blimp, "field").items()}
    groups |= summarize(blimp, "term")
    for name, found in groups.items():
        percents = [number(100 * found[key] if key in found else None, 1) for key in MEASURED]
        rows.append([name.replace("_", " "), str(found["paradigms"]), *percents])
    return table(rows)


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def put_in_card(card: Path, text: str) -> None:
    """Replace the text between the card's two marks; without marks, append it with them."""
    old = card.read_text(encoding="utf-8")
    section = f"{BEGIN}\n{text}{END}"
    before, found, rest = old.partition(BEGIN)
    if found and END not in rest:
        raise DataError(f"{card} has {BEGIN} but no {END} after it; add it, or remove the first")
    after = rest.partition(END)[2] if found else "\n"
    if not found:
        before = old.rstrip("\n") + "\n\n## Language model\n\n"
    write(card, before + section + after)


def write(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def read_data(
    folder: Path, unknown: str, only: Sequence[str], limit: int | None
) -> tuple[dict[str, Sequence], list[Pair]]:
    """Return the texts by name, and the pairs, at most `limit` of each text and paradigm."""

    def is_selected(name: str) -> bool:
        return not only or any(fnmatch.fnmatch(name, pattern) for pattern in only)

    texts: dict[str, Sequence] = {}
    for file in sorted(folder.glob("*/test.txt*")):
        name = file.parent.name
        if name.startswith("pretrain_") and is_selected(name):
            texts[name] = read_text(file)[:limit]
        elif name == "wikitext2_valid_test" and is_selected(name):
            texts[name] = read_wikitext(file, unknown)[:limit]
    pairs: list[Pair] = []
    blimp = folder / "blimp" / "blimp_data.zip"
    if blimp.is_file() and is_selected("blimp"):
        counts: dict[str, int] = {}
        for pair in read_blimp(blimp):
            counts[pair.paradigm] = counts.get(pair.paradigm, 0) + 1
            if limit is None or counts[pair.paradigm] <= limit:
                pairs.append(pair)
    if not texts and not pairs:
        raise DataError(f"{folder} has no test data; name the folder of the data with --data DIR")
    return texts, pairs


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder or Hub name of a checkpoint with a softmax")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=REPORT, help="tables; JSON goes beside them")
    parser.add_argument("--card", type=Path, help="model card that also gets the tables")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="only these data folders, or blimp"
    )
    parser.add_argument("--limit", type=int, help="most sentences per text and pairs per paradigm")
    parser.add_argument(
        "--streams", type=int, default=32, help="parts of running text that are read in parallel"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    command = "python benchmarks/language_model.py " + shlex.join(arguments or sys.argv[1:])
    try:
        tokenizer = ElmoTokenizer.from_pretrained(given.checkpoint)
        model = ElmoForPreTraining.from_pretrained(given.checkpoint).eval()
        data = read_data(given.data, tokenizer.word_unk_token, given.only, given.limit)
        results = evaluate(model, tokenizer, *data, given.streams)
        results["made"] = {
            "date": datetime.date.today().isoformat(),
            "command": command,
            "machine": speed_machine.describe(),
            "versions": speed_machine.versions(allennlp=False),
        }
        text = markdown(results)
        if given.card:
            put_in_card(given.card, text)
        write(given.output.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
        write(given.output, "# Language model\n\n" + text)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
