"""Align the vectors of an English and a Portuguese checkpoint, and measure the alignment.

    python benchmarks/cross_lingual.py checkpoints/elmo-mini-en checkpoints/elmo-mini-pt

Learns a rotation per layer from words that both languages spell alike (Schuster et al. 2019).
Measures the translation of words of a list that was written by hand, and the tagging of Portuguese
by a tagger that has seen English vectors only. Writes benchmarks/cross_lingual.md and .json. The
folder --work keeps the anchors and the alignment.
"""

import argparse
import dataclasses
import datetime
import functools
import itertools
import json
import os
import random
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cross_lingual_report
import cross_lingual_words as dictionary
import mixed_heads as heads
import numpy as np
import speed_machine
import torch
from mixed_texts import Item, Task, parts_of_speech, read_treebank

from elmo_hf import ElmoTokenizer
from elmo_hf.analysis import (
    Anchors,
    ElmoVectors,
    Estimate,
    Vectors,
    find_anchors,
    learn_alignment,
    translate,
)
from elmo_hf.analysis.estimates import share
from elmo_hf.conversion.alignment import align, load_alignment, store_alignment
from elmo_hf.extras import require
from elmo_hf.text_files import read_lines

DATA = ROOT.parent / "shared" / "data"
REPORT = ROOT / "benchmarks" / "cross_lingual.md"
TEXTS = {
    "en": ["pretrain_books_en/valid.txt.xz", "pretrain_books_en/test.txt.xz"],
    "pt": ["pretrain_novels_pt/train-00.txt.xz"],
}
TREEBANKS = {"en": "ud_en_ewt/en_ewt", "pt": "ud_pt_bosque/pt_bosque"}
ROUNDS = 15
REGULARIZATION = 3e-3  # scikit-learn's C of the taggers
TAGS = Task("", "accuracy", parts_of_speech(""), "")
Pairs = list[tuple[str, str]]
Alignment = dict[int, torch.Tensor]
Measured = dict[str, dict[str, Estimate]]  # by row, then by column


def read_text(folder: str, files: Sequence[Path], count: int) -> list[list[str]]:
    """Return the first sentences of files, with so many words together, split by the model."""
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    sentences: list[list[str]] = []
    for line in itertools.chain.from_iterable(map(read_lines, files)):
        if line:
            sentences.append(tokenizer(line, add_special_tokens=False).tokens())
            count -= len(sentences[-1])
        if count <= 0:
            break
    return sentences


def load_anchors(file: Path, folder: str, sentences: list[list[str]]) -> Anchors:
    """Return the anchors of a text; they are computed unless there is the file."""
    if not file.is_file():
        found = find_anchors(ElmoVectors(folder), sentences)
        part = file.with_suffix(".part.npz")
        np.savez(part, words=np.array(found.words), vectors=found.vectors)
        part.rename(file)
    with np.load(file) as stored:
        return Anchors(stored["words"].tolist(), stored["vectors"])


def find_seeds(
    anchors: dict[str, Anchors], texts: dict[str, list[list[str]]]
) -> tuple[Pairs, Pairs]:
    """Return identical words and relatives, without the words of the test list."""
    listed = dictionary.read_list()
    inverse = dictionary.invert(listed)
    words = anchors["pt"].words, anchors["en"].words
    names = dictionary.find_names(texts["pt"]) & dictionary.find_names(texts["en"])
    identical, relatives = (
        [(a, b) for a, b in found if a not in inverse and b not in listed]
        for found in (
            dictionary.find_identical(*words, names),
            dictionary.find_relatives(*words),
        )
    )
    return identical, [pair for pair in relatives if pair not in {*identical}]


def align_all(
    anchors: dict[str, Anchors], identical: Pairs, relatives: Pairs
) -> dict[str, Alignment | None]:
    """Return the alignments of Portuguese to English that are compared."""
    learn = functools.partial(learn_alignment, anchors["pt"], anchors["en"])
    seeds = [*identical, *relatives]
    return {
        "not aligned": None,
        "identical words": learn(identical),
        "identical words and relatives": learn(seeds),
        f"the same, {ROUNDS} more rounds": learn(seeds, rounds=ROUNDS),
        f"the same, {ROUNDS} more rounds, directions apart": learn(
            seeds, rounds=ROUNDS, directions=True
        ),
    }


def measure_with_list(anchors: dict[str, Anchors], seeds: Pairs) -> dict[str, Estimate]:
    """Return precisions if half of the list is learned from and the other half is translated."""
    own, other = anchors["pt"], anchors["en"]
    listed = sorted(dictionary.read_list().items())
    halves: list[dict[str, Estimate]] = []
    for half in (0, 1):
        learned = [(b, a) for a, found in listed[half::2] for b in sorted(found)]
        known = {word for word, _ in learned}
        gold = dictionary.invert(dict(listed[1 - half :: 2]))
        words = [word for word in answerable(gold, own, other) if word not in known]
        alignment = learn_alignment(own, other, [*seeds, *learned])
        halves.append({})
        for layer in range(len(own.vectors)):
            nearest = translate(own, other, words, layer, alignment)
            halves[-1].update(precisions(layer, words, nearest, gold))
    return {name: together(halves[0][name], halves[1][name]) for name in halves[0]}


def together(first: Estimate, second: Estimate) -> Estimate:
    """Return the share of the items of both shares."""
    right = [round(one.value * one.n) for one in (first, second)]
    return share(np.arange(first.n + second.n) < sum(right))


def measure_translation(anchors: dict[str, Anchors], alignments: dict) -> Measured:
    """Return the precision at 1 and 5 of each layer, from Portuguese to English."""
    own, other = anchors["pt"], anchors["en"]
    gold = dictionary.invert(dictionary.read_list())
    words = answerable(gold, own, other)
    found: Measured = {}
    for name, alignment in alignments.items():
        for layer in range(len(own.vectors)):
            nearest = translate(own, other, words, layer, alignment)
            found.setdefault(name, {}).update(precisions(layer, words, nearest, gold))
    return found


def precisions(
    layer: int, words: Sequence[str], nearest: list[list[str]], gold: dict[str, set[str]]
) -> Iterator[tuple[str, Estimate]]:
    """Yield the share of words with a right translation at first, and among the first five."""
    for count, name in ((1, "first"), (5, "of five")):
        right = [not gold[w].isdisjoint(x[:count]) for w, x in zip(words, nearest, strict=True)]
        yield f"layer {layer} {name}", share(np.array(right))


def answerable(gold: dict[str, set[str]], own: Anchors, other: Anchors) -> list[str]:
    """Return the words of the list that have an anchor and a translation with an anchor."""
    known, targets = {*own.words}, {*other.words}
    return [word for word, right in gold.items() if word in known and right & targets]


def measure_spelling(anchors: dict[str, Anchors]) -> dict[str, Estimate]:
    """Return the precision of the words with the most similar letters."""
    gold = dictionary.invert(dictionary.read_list())
    words = answerable(gold, anchors["pt"], anchors["en"])
    nearest = similar_spelling(words, anchors["en"].words)
    layers = range(len(anchors["pt"].vectors))
    return dict(itertools.chain.from_iterable(precisions(k, words, nearest, gold) for k in layers))


def similar_spelling(words: Sequence[str], targets: Sequence[str]) -> list[list[str]]:
    """Return the five targets with the highest cosine of n-grams of one to three letters."""
    text = require("sklearn.feature_extraction.text", "analysis")
    grams = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), strip_accents="unicode")
    table = grams.fit_transform(targets)
    scores = (grams.transform(words) @ table.T).toarray()
    return [[targets[i] for i in row] for row in np.argsort(-scores, axis=1)[:, :5]]


def measure_tagging(given: argparse.Namespace, alignments: dict) -> Measured:
    """Return the accuracy of taggers of Portuguese, by layer, and with all layers together."""
    train, test = ({k: read_items(given, k, p) for k in TREEBANKS} for p in ("train", "test"))
    models = {"en": ElmoVectors(given.english), "pt": ElmoVectors(given.portuguese)}
    english = Embedded(models["en"], train["en"], test["en"])
    read = Embedded(models["en"], train["pt"], test["pt"])
    portuguese = Embedded(models["pt"], train["pt"], test["pt"])
    taggers = Taggers(english)
    found = {
        "English test part, English model": taggers.measure(english),
        "Portuguese read by the English model": taggers.measure(read),
    }
    for name, alignment in alignments.items():
        found[f"Portuguese, {name}"] = taggers.measure(portuguese, alignment)
    found["tagger trained on Portuguese"] = Taggers(portuguese).measure(portuguese)
    return found


def read_items(given: argparse.Namespace, language: str, part: str) -> list[Item]:
    """Return sentences of a treebank with parts of speech: some to learn from, all to test."""
    items = [
        Item([row[1] for row in rows], [row[3] for row in rows])
        for _, rows in read_treebank(given.data, TREEBANKS[language], part)
    ]
    if part == "train":
        random.Random(0).shuffle(items)
        ends = np.cumsum([len(item.words) for item in items])
        items = items[: int(np.searchsorted(ends, given.tagged)) + 1]
    return items


class Embedded:
    """
    Class that holds the vectors of a treebank's two parts, `(layers, words, dimension)` each.

    The mean of the training part is subtracted; this uses no labels.
    """

    def __init__(self, vectors: Vectors, train: list[Item], test: list[Item]) -> None:
        self.items = {"train": train, "test": test}
        self.layers = {
            part: np.concatenate([*vectors(item.words for item in items)], axis=1)
            for part, items in self.items.items()
        }
        mean = self.layers["train"].mean(1, keepdims=True)
        self.layers = {part: layers - mean for part, layers in self.layers.items()}

    def features(self, part: str, alignment: Alignment | None = None) -> dict[str, np.ndarray]:
        """Return the vectors of each layer, and of all layers side by side."""
        layers = align([*torch.from_numpy(self.layers[part])], alignment or {})
        found = {f"layer {i}": rows.numpy() for i, rows in enumerate(layers)}
        return {**found, "all layers": torch.cat(layers, -1).numpy()}

    def labels(self, part: str) -> list[list[str]]:
        return [item.labels for item in self.items[part]]


class Taggers:
    """Class that holds a linear tagger of each layer, and one of all layers side by side."""

    def __init__(self, embedded: Embedded) -> None:
        linear = require("sklearn.linear_model", "analysis")
        preprocessing = require("sklearn.preprocessing", "analysis")
        pipeline = require("sklearn.pipeline", "analysis")
        labels = [*itertools.chain.from_iterable(embedded.labels("train"))]
        self._heads = {
            name: pipeline.make_pipeline(
                preprocessing.StandardScaler(),
                linear.LogisticRegression(C=REGULARIZATION, max_iter=200, tol=1e-3),
            ).fit(rows, labels)
            for name, rows in embedded.features("train").items()
        }

    def measure(
        self, embedded: Embedded, alignment: Alignment | None = None
    ) -> dict[str, Estimate]:
        """Return the accuracy of each tagger; the floor is that of the most frequent label."""
        gold = embedded.labels("test")
        ends = np.cumsum([*map(len, gold)])[:-1]
        frequent = heads.most_frequent(itertools.chain.from_iterable(embedded.labels("train")))
        floor = float(np.mean([label == frequent for labels in gold for label in labels]))
        found = {}
        for name, rows in embedded.features("test", alignment).items():
            predicted = [one.tolist() for one in np.split(self._heads[name].predict(rows), ends)]
            estimate = heads.estimate(TAGS, heads.count_right(gold, predicted))
            found[name] = dataclasses.replace(estimate, floor=floor)
        return found


def store(folder: Path, model: str, alignment: Alignment) -> Alignment:
    """Store the alignment with the model's configuration, and load it again."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(model) / "config.json", folder)
    store_alignment(folder, alignment)
    return load_alignment(folder)


def measure(given: argparse.Namespace) -> dict:
    """Return all results."""
    models = {"en": given.english, "pt": given.portuguese}
    texts = {
        language: read_text(model, [given.data / file for file in TEXTS[language]], given.words)
        for language, model in models.items()
    }
    anchors = {
        language: load_anchors(given.work / f"anchors-{language}.npz", model, texts[language])
        for language, model in models.items()
    }
    listed = dictionary.read_list()
    identical, relatives = find_seeds(anchors, texts)
    alignments = align_all(anchors, identical, relatives)
    for i, (name, alignment) in enumerate(alignments.items()):
        if alignment:
            alignments[name] = store(given.work / f"aligned-{i}", given.portuguese, alignment)
    return {
        "words": {k: sum(map(len, sentences)) for k, sentences in texts.items()},
        "anchors": {k: len(found.words) for k, found in anchors.items()},
        "seeds": {
            "identical": len(identical),
            "relatives": len(relatives),
            "endings": len(dictionary.ENDINGS),
        },
        "listed": [len(found) for found in (listed, dictionary.invert(listed))],
        "examples": [*map(list, identical[:8]), *map(list, relatives[:12])],
        "translation": {
            "the most similar spelling": measure_spelling(anchors),
            **measure_translation(anchors, alignments),
            "the seeds and half of the list": measure_with_list(anchors, [*identical, *relatives]),
        },
        "tagged": given.tagged,
        "tagging": measure_tagging(given, alignments),
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("english", help="folder of an English ELMo")
    parser.add_argument("portuguese", help="folder of a Portuguese ELMo of the same sizes")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--words", type=int, default=600_000, help="words of text per language")
    parser.add_argument("--tagged", type=int, default=20_000, help="training words of a tagger")
    parser.add_argument("--work", type=Path, default=Path("cross_lingual_work"))
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--threads", type=int, default=speed_machine.cores())
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse_arguments(arguments)
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        results = measure(given)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results["made"] = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/cross_lingual.py " + shlex.join(arguments or sys.argv[1:]),
        "machine": speed_machine.describe(),
    }
    text = json.dumps(results, default=dataclasses.asdict, indent=1, ensure_ascii=False)
    given.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    given.output.write_text(cross_lingual_report.markdown(json.loads(text)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
