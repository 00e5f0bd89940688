"""Measure how well and how fast word splitters find the word boundaries of UD English EWT.

    python benchmarks/word_boundaries.py [--data DIR] [--split dev]

Prints a Markdown table and, for the test split, writes it to benchmarks/word_boundaries.md. The
input is the "# text" of each sentence. Precision, recall and F1 compare the spans of syntactic
words ("don't" is two, "do" and "n't"): a word is correct if both its ends are.
"""

import argparse
import datetime
import importlib.metadata
import lzma
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Span = tuple[int, int]
Splitter = Callable[[str], list[Span]]

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "ud_en_ewt"
REPORT = ROOT / "benchmarks" / "word_boundaries.md"


def read_sentences(file: Path) -> list[tuple[str, list[Span]]]:
    """Return raw text and word spans of each sentence of an xz-compressed CoNLL-U file."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        blocks = lines.read().strip().split("\n\n")
    return [read_sentence(block.splitlines()) for block in blocks]


def read_sentence(lines: list[str]) -> tuple[str, list[Span]]:
    text = next(line for line in lines if line.startswith("# text = "))[len("# text = ") :]
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    # Ids such as 5-6 are contractions, and 8.1 is a word that the text does not contain.
    words = [row[1] for row in rows if row[0].isdigit()]
    return text, locate(words, text)


def locate(words: list[str], text: str) -> list[Span]:
    """Return the spans of words in their order; words that the text lacks are left out."""
    spans, end = [], 0
    for word in words:
        # Penn Treebank splitters replace quotation marks.
        spellings = [word, '"', "''"] if word in ("``", "''") else [word]
        starts = [(text.find(s, end), len(s)) for s in spellings]
        starts = [found for found in starts if found[0] >= 0]
        if starts:
            start, length = min(starts)
            end = start + length
            spans.append((start, end))
    return spans


def agreement(splitter: Splitter, sentences: list[tuple[str, list[Span]]]) -> dict[str, float]:
    """Return precision, recall and F1 of the word spans, between 0 and 1."""
    right = given = expected = 0
    for text, gold in sentences:
        found = splitter(text)
        right += len(set(found) & set(gold))
        given += len(found)
        expected += len(gold)
    return {
        "precision": right / given,
        "recall": right / expected,
        "f1": 2 * right / (given + expected),
    }


def words_per_second(run: Callable[[], int], repeats: int = 3) -> float:
    """Return the best of a few runs; `run` returns its number of words."""
    best = 0.0
    for _ in range(repeats):
        start = time.process_time()
        words = run()
        best = max(best, words / (time.process_time() - start))
    return best


def splitters(texts: list[str]) -> Iterator[tuple[str, Splitter | str, Callable[[], int] | None]]:
    """Yield the name, the splitter (or the reason it is missing) and the timed run of each."""
    for name in ("treebank", "billion-words", "whitespace"):
        yield f"elmo_hf {name}", *ours(name, texts)
    for name, make in (
        ("sacremoses MosesTokenizer", moses),
        ("sacremoses penn_tokenize", moses_penn),
        ("spaCy blank English", spacy_english),
        ("NLTK TreebankWordTokenizer", nltk_treebank),
        ("NLTK NLTKWordTokenizer", nltk_word),
    ):
        try:
            split = make()
            split('He said: "I don\'t."')
        except ImportError as error:
            yield name, f"missing: {error}", None
        except Exception as error:
            yield name, f"fails: {type(error).__name__}: {error}", None
        else:
            yield name, split, lambda split=split: sum(len(split(text)) for text in texts)


def ours(name: str, texts: list[str]) -> tuple[Splitter, Callable[[], int]]:
    from tokenizers import Tokenizer, models

    from elmo_hf.model.tokenization_splitter import word_splitter

    pre_tokenizer = word_splitter(name)
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizer
    return (
        lambda text: [span for _, span in pre_tokenizer.pre_tokenize_str(text)],
        lambda: sum(len(encoding) for encoding in tokenizer.encode_batch(texts)),
    )


def moses() -> Splitter:
    from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer(lang="en")
    return lambda text: locate(tokenizer.tokenize(text, escape=False), text)


def moses_penn() -> Splitter:
    from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer(lang="en")
    return lambda text: locate(
        [tokenizer.unescape_xml(word) for word in tokenizer.penn_tokenize(text)], text
    )


def spacy_english() -> Splitter:
    import spacy

    language = spacy.blank("en")
    return lambda text: [
        (word.idx, word.idx + len(word)) for word in language(text) if not word.is_space
    ]


def nltk_treebank() -> Splitter:
    from nltk.tokenize import TreebankWordTokenizer

    tokenizer = TreebankWordTokenizer()
    return lambda text: locate(tokenizer.tokenize(text), text)


def nltk_word() -> Splitter:
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return lambda text: locate(tokenizer.tokenize(text), text)


def table(file: Path) -> str:
    sentences = read_sentences(file)
    rows = [
        "| splitter | precision | recall | F1 | words/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, split, run in splitters([text for text, _ in sentences]):
        if isinstance(split, str):
            # A message may contain characters that end a cell of the table.
            reason = re.sub(r"[|\n]", " ", split)
            rows.append(f"| {name} | {reason} | | | |")
            continue
        score = agreement(split, sentences)
        cells = " | ".join(f"{100 * score[key]:.2f}" for key in ("precision", "recall", "f1"))
        rows.append(f"| {name} | {cells} | {words_per_second(run):,.0f} |")
    return "\n".join(rows)


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in ("tokenizers", "sacremoses", "spacy", "nltk"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} missing")
    return ", ".join(found)


REPORT_TEXT = """# Word boundaries

{table}

Agreement with the syntactic words of the UD English EWT test split (2,077 sentences), in percent of
word spans. words/s: per second of CPU time on one thread, best of three runs over the same
sentences; for elmo_hf with `encode_batch` of a `tokenizers.Tokenizer` with a one-word vocabulary,
for the others with their own Python calls. spaCy caches the strings between spaces; after the first
run it has cached all.

Made on {date} by `python benchmarks/word_boundaries.py` with {versions}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of en_ewt-ud-*.conllu.xz")
    parser.add_argument("--split", choices=("train", "dev", "test"), default="test")
    arguments = parser.parse_args()
    file = arguments.data / f"en_ewt-ud-{arguments.split}.conllu.xz"
    if not file.exists():
        parser.error(f"{file} does not exist; name the folder of UD English EWT with --data DIR")
    # The thread pool of tokenizers reads this when it starts.
    os.environ["RAYON_NUM_THREADS"] = "1"
    made = table(file)
    print(made)
    if arguments.split == "test":
        report = REPORT_TEXT.format(table=made, date=datetime.date.today(), versions=versions())
        REPORT.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
