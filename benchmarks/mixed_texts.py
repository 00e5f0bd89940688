"""Read the code-mixed and the biomedical data sets of benchmarks/mixed_text.py."""

import csv
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from task_texts import COMMENT, DataError, read_lines

PARTS = ("train", "dev", "test")
Rows = list[list[str]]


class Item(NamedTuple):
    """A sentence's words, and a label for each word or one label for the sentence."""

    words: list[str]
    labels: list[str]


class Parts(NamedTuple):
    """The three parts of a data set."""

    train: list[Item]
    dev: list[Item]
    test: list[Item]


@dataclass(frozen=True)
class Task:
    """
    Class that describes a task.

    Args:
        title: the heading of its column.
        metric: what is reported.
        read: returns the three parts, from the folder of the data sets.
        text: name of its training text; tasks of the same sentences share one.
    """

    title: str
    metric: Literal["accuracy", "span F1", "macro F1"]
    read: Callable[[Path], Parts]
    text: str
    by_sentence: bool = False


def parts_of_speech(prefix: str) -> Callable[[Path], Parts]:
    """Return a function that reads the universal parts of speech of a treebank."""
    return lambda data: _three(
        [Item(*_columns(rows, 1, 3)) for _, rows in read_treebank(data, prefix, part)]
        for part in PARTS
    )


def sagt_languages(data: Path) -> Parts:
    """Return SAGT with the language of each word: DE, TR, MIXED, LANG3 or OTHER."""

    def language(row: list[str]) -> str:
        return dict(pair.split("=") for pair in row[9].split("|"))["CSID"]

    return _three(
        [
            Item([row[1] for row in rows], [language(row) for row in rows])
            for _, rows in read_treebank(data, "ud_qtd_sagt/qtd_sagt", part)
        ]
        for part in PARTS
    )


def arabizi(layer: str) -> Callable[[Path], Parts]:
    """
    Return a function that reads NArabizi's sentences with a label layer, sentiment or topic.

    The labels' ids are those of an older version of the treebank; id_map.tsv has the changes. The
    halves of a sentence that was cut in two are joined, and a sentence without words is left out.
    """

    def read(data: Path, part: str) -> list[Item]:
        folder = data / "narabizi_labels"
        words = {
            name: [row[1] for row in rows]
            for name, rows in read_treebank(data, "ud_qaf_arabizi/qaf_arabizi", part)
        }
        changes = [line.split("\t") for line in read_lines(folder / "id_map.tsv")[1:]]
        renamed = {old: new.split() for split, old, new in changes if split == part}
        items = []
        for line in read_lines(folder / f"{part}_Narabizi_{layer}.txt")[1:]:
            name, label = line.removeprefix("# sent_id = ").split("\t")
            ids = [one for one in renamed.get(name, [name]) if one != "-"]
            missing = [one for one in ids if one not in words]
            if missing:
                raise DataError(f"the label of sentence {name} ({part}) has no sentence {missing}")
            if ids:
                items.append(Item([word for one in ids for word in words[one]], [label]))
        return items

    return lambda data: _three(read(data, part) for part in PARTS)


def read_treebank(data: Path, prefix: str, part: str) -> Iterator[tuple[str, Rows]]:
    """Yield the id and the words' rows of each sentence of a CoNLL-U file."""
    name = ""
    for line, rows in _blocks(read_lines(data / f"{prefix}-ud-{part}.conllu")):
        for comment in line:
            if comment.startswith("# sent_id"):
                name = comment.partition("= ")[2]
        # Ranges (1-2) and empty nodes (1.1) are no words.
        yield name, [row for row in rows if row[0].isdigit()]


def _blocks(lines: Iterable[str]) -> Iterator[tuple[list[str], Rows]]:
    """Yield comments and rows of each sentence; empty lines separate sentences."""
    for filled, block in itertools.groupby(lines, key=bool):
        if filled:
            found = list(block)
            comments = [line for line in found if COMMENT.match(line)]
            yield comments, [line.split("\t") for line in found if not COMMENT.match(line)]


def spans(folder: str, names: Sequence[str] = ("train.tsv", "dev.tsv", "test.tsv")):
    """Return a function that reads column files of words and span tags (IOB2)."""
    return lambda data: _three(
        [Item(*_columns(rows, 0, -1)) for _, rows in _blocks(read_lines(data / folder / name))]
        for name in names
    )


def _columns(rows: Rows, first: int, second: int) -> tuple[list[str], list[str]]:
    return [row[first] for row in rows], [row[second] for row in rows]


def hinglish_entities(data: Path) -> Parts:
    """
    Return the Hindi-English tweets with names, split 80/10/10 at random with seed 0.

    The set has no split. Blank words are left out, and so are tweets that occur twice.
    """
    rows = csv.reader(read_lines(data / "hinglish_ner" / "annotatedData.csv"))
    tweets: dict[tuple[str, ...], list[str]] = {}
    for filled, block in itertools.groupby([*rows][1:], key=lambda row: len(row) == 3):
        pairs = [(word.strip(), tag) for _, word, tag in block if word.strip()] if filled else []
        if pairs:
            words, tags = zip(*pairs, strict=True)
            tweets.setdefault(words, ["O" if tag == "Other" else tag for tag in tags])
    items = [Item([*words], tags) for words, tags in tweets.items()]
    random.Random(0).shuffle(items)
    tenth = len(items) // 10
    return Parts(items[2 * tenth :], items[tenth : 2 * tenth], items[:tenth])


def sentimix(language: str) -> Callable[[Path], Parts]:
    """
    Return a function that reads the tweets of SemEval-2020 task 9 with their sentiment.

    The trial part is the test part, because the set has no labels of the test part. Training tweets
    that occur in it are left out (all 2,000 Spanish-English ones do), and so are repeated ones. A
    random tenth of the others is the development part.
    """

    def read(data: Path) -> Parts:
        folder = data / "sentimix"
        test = _tweets(read_lines(folder / f"{language}_trial.txt"))
        known = {tuple(item.words) for item in test}
        train = []
        for item in _tweets(read_lines(folder / f"train_conll_{language}.txt")):
            if tuple(item.words) not in known:
                known.add(tuple(item.words))
                train.append(item)
        random.Random(0).shuffle(train)
        tenth = len(train) // 10
        return Parts(train[tenth:], train[:tenth], test)

    return read


def _tweets(lines: Iterable[str]) -> list[Item]:
    """Return tweets: a line `meta, number, sentiment`, then a word and its language per line."""
    items: list[Item] = []
    for line in lines:
        fields = line.split("\t")
        if fields[0] == "meta" and len(fields) == 3:
            items.append(Item([], [fields[2]]))
        elif fields[0].strip():
            items[-1].words.append(fields[0].strip())
    return items


def _three(parts: Iterable[list[Item]]) -> Parts:
    return Parts(*parts)


MIXED = {
    "sagt": Task("SAGT", "accuracy", parts_of_speech("ud_qtd_sagt/qtd_sagt"), "sagt"),
    "sagt_language": Task("SAGT, language of a word", "accuracy", sagt_languages, "sagt"),
    "arabizi": Task(
        "NArabizi", "accuracy", parts_of_speech("ud_qaf_arabizi/qaf_arabizi"), "arabizi"
    ),
    "arabizi_sentiment": Task(
        "NArabizi, sentiment", "accuracy", arabizi("sentiment"), "arabizi", by_sentence=True
    ),
    "arabizi_topic": Task(
        "NArabizi, topic", "accuracy", arabizi("topic"), "arabizi", by_sentence=True
    ),
    "hinglish_ner": Task("Hinglish names", "span F1", hinglish_entities, "hinglish_ner"),
    "sentimix_hi": Task(
        "SentiMix, Hindi-English", "macro F1", sentimix("hinglish"), "sentimix_hi", by_sentence=True
    ),
    "sentimix_es": Task(
        "SentiMix, Spanish-English",
        "macro F1",
        sentimix("spanglish"),
        "sentimix_es",
        by_sentence=True,
    ),
}
BIOMEDICAL = {
    "bc5cdr": Task("BC5CDR", "span F1", spans("bc5cdr"), "biomedical"),
    "ncbi_disease": Task("NCBI disease", "span F1", spans("ncbi_disease"), "biomedical"),
}
TASKS = MIXED | BIOMEDICAL
