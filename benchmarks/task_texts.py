"""Write the labelled data of benchmarks/tasks.py as files that the examples read."""

import json
import lzma
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Rows = Iterable[dict]
Split = Literal["train", "test"]
NOT_COMPARABLE = (
    "Not comparable with published figures: the training part of uner_en_ewt is an early version "
    "that its authors did not release (it has 2,873 of the 2,874 persons, 2,698 of the 2,712 "
    "places and 1,434 of the 1,436 organizations); xquad learns from four fifths of XQuAD's "
    "English articles and is tested on the others; sentence_polarity and subjectivity have no "
    "official split, and a tenth is the test part."
)
COMMENT = re.compile(r"# \w+ = ")  # "# # I-NP" is a word


class DataError(ValueError):
    """Error in a data file: it is missing, or its content is not as expected."""


@dataclass(frozen=True)
class Task:
    """
    Class that describes a data set, the example that trains on it, and the metric.

    Args:
        example: module in examples/ that trains on it.
        metric: the metric of the example that is reported.
        write: writes the training and the test part into a folder and returns their files.
        flags: options of the example, added to those of the row.
        language: the language of the text.
    """

    example: str
    metric: str
    write: Callable[[Path, Path], tuple[Path, Path]]
    flags: tuple[str, ...] = ()
    language: str = "en"


def read_lines(file: Path, encoding: str = "utf-8") -> list[str]:
    """Return the lines of a file, plain or .xz."""
    found = next((path for path in (file, Path(f"{file}.xz")) if path.is_file()), None)
    if found is None:
        raise DataError(f"{file} is missing; name the folder of the data sets with --data DIR")
    opener = lzma.open if found.suffix == ".xz" else open
    try:
        with opener(found, "rt", encoding=encoding, newline="\n") as lines:
            return [line.rstrip("\r\n") for line in lines]
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{found} cannot be read as text: {error}") from error


def columns(train: str, test: str) -> Callable[[Path, Path], tuple[Path, Path]]:
    """Return a function that writes column files without comments."""

    def write(data: Path, folder: Path) -> tuple[Path, Path]:
        written = []
        for name in (train, test):
            lines = [line for line in read_lines(data / name) if not COMMENT.match(line)]
            path = folder / Path(name).name
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            written.append(path)
        return written[0], written[1]

    return write


def rows(read: Callable[[Path, Split], Rows]) -> Callable[[Path, Path], tuple[Path, Path]]:
    """Return a function that writes the rows of `read` as JSON lines."""

    def write(data: Path, folder: Path) -> tuple[Path, Path]:
        written = []
        for split in ("train", "test"):
            path = folder / f"{split}.jsonl"
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in read(data, split))
            path.write_text("".join(lines), encoding="utf-8")
            written.append(path)
        return written[0], written[1]

    return write


def two_files(folder: str, files: dict[str, str]) -> Callable[[Path, Split], Rows]:
    """Read two classes, one file each; a random tenth of each is the test part."""

    def read(data: Path, split: Split) -> Iterator[dict]:
        for label, name in files.items():
            texts = [line.strip() for line in read_lines(data / folder / name, "utf-8")]
            texts = sorted({text for text in texts if text})
            random.Random(0).shuffle(texts)
            tenth = len(texts) // 10
            for text in texts[:tenth] if split == "test" else texts[tenth:]:
                yield {"text": text, "label": label}

    return read


def sentiment_trees(classes: Literal[2, 5]) -> Callable[[Path, Split], Rows]:
    """Read the Stanford Sentiment Treebank's sentences; 2 classes leave out neutral ones."""

    def read(data: Path, split: Split) -> Iterator[dict]:
        for tree in read_lines(data / "sst" / f"{split}.txt"):
            label = int(tree[1])
            if classes == 5 or label != 2:
                words = re.findall(r"\(\d ([^()]+)\)", tree)
                yield {"text": " ".join(words), "label": str(label if classes == 5 else label // 3)}

    return read


def questions(data: Path, split: Split) -> Iterator[dict]:
    """Yield TREC's questions with the coarse class of their answer."""
    for line in read_lines(data / "trec_qc" / f"{split}.txt", "latin-1"):
        label, _, text = line.partition(" ")
        if text:
            yield {"text": text.strip(), "label": label.partition(":")[0]}


def answers(data: Path, split: Split) -> Iterator[dict]:
    """Yield XQuAD's English questions; every fifth article is in the test part."""
    articles = json.loads("\n".join(read_lines(data / "xquad" / "xquad.en.json")))["data"]
    for number, article in enumerate(articles):
        if (number % 5 == 4) != (split == "test"):
            continue
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                found = [(one["text"], one["answer_start"]) for one in question["answers"]]
                texts, starts = zip(*found, strict=True)
                yield {
                    "question": question["question"],
                    "context": paragraph["context"],
                    "answers": {"text": texts, "answer_start": starts},
                }


def _tags(train: str, test: str, **more) -> Task:
    return Task("train_ner", "f1", columns(train, test), **more)


def _parts_of_speech(folder: str, prefix: str, language: str, **more) -> Task:
    flags = ("--scheme", "none", "--tags_column", "upos")
    files = (f"{folder}/{prefix}-ud-{split}.conllu" for split in ("train", "test"))
    return Task("train_ner", "accuracy", columns(*files), flags, language=language, **more)


def _classes(read: Callable[[Path, Split], Rows], **more) -> Task:
    return Task("train_classifier", "accuracy", rows(read), **more)


TASKS = {
    "conll2000": _tags("conll2000/train.txt", "conll2000/test.txt"),
    "uner_en_ewt": _tags("uner_en_ewt/train.iob2", "uner_en_ewt/test.iob2"),
    "wnut17": _tags("wnut17/train.conll", "wnut17/test.conll"),
    "bc5cdr": _tags("bc5cdr/train.tsv", "bc5cdr/test.tsv"),
    "ncbi_disease": _tags("ncbi_disease/train.tsv", "ncbi_disease/test.tsv"),
    "ud_en_ewt": _parts_of_speech("ud_en_ewt", "en_ewt", "en"),
    "ud_fr_sequoia": _parts_of_speech("ud_fr_sequoia", "fr_sequoia", "fr"),
    "ud_pt_bosque": _parts_of_speech("ud_pt_bosque", "pt_bosque", "pt"),
    "sentence_polarity": _classes(
        two_files(
            "sentence_polarity", {"negative": "rt-polarity.neg", "positive": "rt-polarity.pos"}
        )
    ),
    "subjectivity": _classes(
        two_files(
            "subjectivity",
            {"objective": "plot.tok.gt9.5000", "subjective": "quote.tok.gt9.5000"},
        )
    ),
    "sst2": _classes(sentiment_trees(2)),
    "sst5": _classes(sentiment_trees(5)),
    "trec": _classes(questions),
    "xquad": Task("train_qa", "f1", rows(answers), ("--per_device_train_batch_size", "8")),
}
