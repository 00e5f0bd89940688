"""Measure what the layers of a checkpoint know about words, their contexts and their senses.

    python benchmarks/understanding.py CHECKPOINT [--models MODEL ...] [--text 'text/*.txt']

Measures the checkpoint layer by layer, its random weights, word2vec of --text (use text of the
checkpoint) and any other model that AutoModel opens. Writes benchmarks/understanding.md and
understanding.json. The folder --work keeps the results, which are not measured again.
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

import numpy as np
import speed_machine
import task_models
import torch
import understanding_report
import understanding_texts as texts

from elmo_hf import ElmoConfig, ElmoTokenizer
from elmo_hf.analysis.estimates import Estimate
from elmo_hf.analysis.geometry import measure_geometry
from elmo_hf.analysis.probes import Labelled, probe
from elmo_hf.analysis.senses import SenseVectors, score_senses
from elmo_hf.analysis.similarity import (
    embed_pairs,
    pair_cosines,
    rating_change_correlation,
    rating_correlation,
    same_sense_accuracy,
    same_sense_auc,
)
from elmo_hf.analysis.sources import (
    ElmoVectors,
    StaticVectors,
    TransformerVectors,
    Vectors,
    WithAverages,
)
from elmo_hf.layers import mix_factors
from elmo_hf.loading import find_source, load_shared

DATA = ROOT.parent / "shared" / "data"
REPORT = ROOT / "benchmarks" / "understanding.md"
SEEDS = (0, 1, 2)
Measured = dict[str, dict[str, Estimate]]  # by measure, then by layer


@dataclasses.dataclass(frozen=True)
class Plan:
    """
    Class with what the measures need.

    Args:
        data: folder of the data sets.
        wordnet: WordNet's file index.sense, for the first sense of lemmas that SemCor lacks.
        words: number of training words of a probe.
        sentences: use only so many sentences of each large part, in tests; None: all.
    """

    data: Path
    wordnet: Path | None
    words: int
    sentences: int | None


def word_in_context(vectors: Vectors, plan: Plan) -> Measured:
    tune, pairs = (texts.wic(plan.data, part)[: plan.sentences] for part in ("dev", "test"))
    test = pair_cosines(vectors, pairs)
    same_form = np.array([pair.has_one_form() for pair in pairs])
    return {
        "wic": same_sense_accuracy(pair_cosines(vectors, tune), test),
        "wic_one_form": same_sense_auc(test.select(same_form)),
    }


def ratings(vectors: Vectors, plan: Plan) -> Measured:
    tokenizer = ElmoTokenizer()

    def split(text: str) -> list[str]:
        return tokenizer(text, add_special_tokens=False).tokens()

    scws = embed_pairs(vectors, texts.scws(plan.data)[: plan.sentences])
    first, second = texts.cosimlex(plan.data, split)
    return {
        "scws": rating_correlation(scws.cosines()),
        "scws_centered": rating_correlation(scws.cosines(center=True)),
        "cosimlex": rating_change_correlation(
            pair_cosines(vectors, first), pair_cosines(vectors, second)
        ),
    }


def senses(vectors: Vectors, plan: Plan) -> Measured:
    test = texts.wsd_test(plan.data)[: plan.sentences]
    tagged = [one for sentence in test for one in sentence.tagged]
    model = SenseVectors(vectors, texts.semcor_senses(plan.data)[: plan.sentences])
    frequent = model.most_frequent()
    most_frequent = [frequent.get(one.lemma) for one in tagged]
    back_offs = {"wsd": {}}
    if plan.wordnet:
        back_offs["wsd_first_sense"] = texts.first_senses(plan.wordnet)
    predictions = dict(zip(vectors.layers, model.predict(test), strict=True))
    found: Measured = {}
    for name, back_off in back_offs.items():
        floor = score_senses(most_frequent, tagged, back_off).value
        found[name] = {
            layer: score_senses(predicted, tagged, back_off, floor)
            for layer, predicted in predictions.items()
        }
    return found


def probes(vectors: Vectors, plan: Plan) -> Measured:
    parts: dict[str, tuple[list[Labelled], list[Labelled]]] = {
        "pos": tuple(texts.parts_of_speech(plan.data, part) for part in ("train", "test")),
        "entity": tuple(texts.entity_types(plan.data, part) for part in ("train", "test")),
        "supersense": tuple(texts.supersenses(plan.data, test=test) for test in (False, True)),
    }
    found: Measured = {}
    for name, (train, test) in parts.items():
        measured = probe(vectors, train, test[: plan.sentences], words=plan.words, seeds=SEEDS)
        for part in ("task", "selectivity"):
            found[f"{name}_{part}"] = {layer: getattr(one, part) for layer, one in measured.items()}
    return found


def geometry(vectors: Vectors, plan: Plan) -> Measured:
    sentences = [one.words for one in texts.parts_of_speech(plan.data, "test")]
    return measure_geometry(vectors, sentences[: plan.sentences])._asdict()


MEASURES: dict[str, Callable[[Vectors, Plan], Measured]] = {
    "word_in_context": word_in_context,
    "ratings": ratings,
    "geometry": geometry,
    "probes": probes,
    "senses": senses,
}


def measure(
    vectors: Vectors, plan: Plan, measures: Sequence[str], folder: Path
) -> Iterator[Measured]:
    """Yield the measures of a source, one more each time; those that the folder has are read."""
    # The vectors of one sentence tell sources apart.
    (rows,) = vectors([["The", "bank", "rose", "."]])
    settings = f"{vectors.name} {[*vectors.layers]} {plan} {np.round(rows, 3).tolist()}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    found: Measured = {}
    for name in measures:
        file = folder / f"{key}-{name}.json"
        if not file.is_file():
            start = time.perf_counter()
            write(file, MEASURES[name](vectors, plan))
            seconds = time.perf_counter() - start
            print(f"{vectors.name}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
        found |= read(file)
        yield found


def write(file: Path, measured: Measured) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(measured, default=dataclasses.asdict))
    part.rename(file)


def read(file: Path) -> Measured:
    measures = json.loads(file.read_text())
    return {
        name: {layer: Estimate(**values) for layer, values in layers.items()}
        for name, layers in measures.items()
    }


def make_sources(given: argparse.Namespace) -> list[Callable[[], Vectors]]:
    """Return functions that load each source."""
    elmo = functools.partial(ElmoVectors, given.checkpoint)
    return [
        lambda: WithAverages(elmo(), learned_mixes(given.checkpoint)),
        lambda: WithAverages(elmo(random=True, name="random weights")),
        *([functools.partial(word2vec, given)] if given.text else []),
        *(lambda model=model: WithAverages(TransformerVectors(model)) for model in given.models),
    ]


def learned_mixes(checkpoint: str) -> dict[str, list[float]]:
    """Return the learned scalar mixes that a checkpoint holds; often there is none."""
    loaded = load_shared(find_source(checkpoint).pin(), None, None)
    mixes = [loaded.mix] if loaded.mix else loaded.recorded
    return {f"learned mix {i}": mix_factors(mix) for i, mix in enumerate(mixes)}


def word2vec(given: argparse.Namespace) -> Vectors:
    """Return word2vec of the text; it is trained unless the work folder has it."""
    from gensim.models import KeyedVectors

    file = given.work / "word2vec.kv"
    if not file.is_file():
        width = ElmoConfig.from_pretrained(given.checkpoint).projection_dim
        trained = task_models.train_word2vec(given.text, width, given.work / "words", 1)
        trained.save(str(file))
    vectors = KeyedVectors.load(str(file))
    count = sum(vectors.get_vecattr(word, "count") for word in vectors.index_to_key)
    return StaticVectors(vectors, name=f"word2vec of {count / 1e6:.1f} million words")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of an ELMo model")
    parser.add_argument(
        "--models", nargs="+", default=[], help="other models that AutoModel opens, such as BERT"
    )
    parser.add_argument(
        "--text", nargs="+", default=[], help="training text of word2vec; without it, no such row"
    )
    parser.add_argument(
        "--wordnet",
        type=Path,
        help="WordNet 3.0's file index.sense, for the first sense as back-off",
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("understanding_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--threads", type=int, default=speed_machine.cores())
    parser.add_argument("--words", type=int, default=3000, help="training words of a probe")
    parser.add_argument("--sentences", type=int, help="only so many of each part, to try it out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    torch.set_num_threads(given.threads)
    plan = Plan(given.data, given.wordnet, given.words, given.sentences)
    given.work.mkdir(parents=True, exist_ok=True)
    results: dict = {"rows": {}, "made": describe(given, arguments)}
    try:
        for load in make_sources(given):
            vectors = load()
            for found in measure(vectors, plan, given.measures, given.work / "results"):
                results["rows"][vectors.name] = found
                report(results, given.output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(given.output.read_text(encoding="utf-8"))
    return 0


def describe(given: argparse.Namespace, arguments: Sequence[str] | None) -> dict:
    """Return what was measured, when, how and where."""
    weights = (Path(given.checkpoint) / "model.safetensors").read_bytes()
    return {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/understanding.py " + shlex.join(arguments or sys.argv[1:]),
        "machine": speed_machine.describe(),
        "checkpoint": Path(given.checkpoint).name,
        "sha256": hashlib.sha256(weights).hexdigest()[:12],
    }


def report(results: dict, page: Path) -> None:
    """Write the page and its JSON file."""
    text = json.dumps(results, default=dataclasses.asdict, indent=1)
    page.with_suffix(".json").write_text(text + "\n")
    page.write_text(understanding_report.markdown(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
