"""Read the test data of language models: held-out text, WikiText and BLiMP."""

import json
import lzma
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# WikiText splits some words in its own way: "two @-@ part", "1 @,@ 000"; "didn 't".
SPLIT_MARK = re.compile(r" @(\W)@ ")
SPLIT_NOT = re.compile(r"(?<=\w)n 't(?= )")
# These names in BLiMP's files differ from the paper's tables of 4 fields and 12 phenomena.
PUBLISHED_NAMES = {"syntax/semantics": "syntax_semantics", "s-selection": "argument_structure"}
SENTENCE_ENDS = {".", "!", "?"}


class DataError(ValueError):
    """Error in a data file: it is missing, or its content is not as expected."""


@dataclass(frozen=True)
class Pair:
    """Class for a minimal pair of BLiMP: a good and a bad sentence."""

    paradigm: str
    term: str
    field: str
    good: str
    bad: str


def read_text(file: Path) -> list[str]:
    """Return the sentences of a file, one per line, plain or .xz."""
    opener = lzma.open if file.suffix == ".xz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig") as lines:
            return [line.strip() for line in lines if line.strip()]
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from error


def read_wikitext(file: Path, unknown: str) -> list[list[str]]:
    """
    Return the sentences of a WikiText file as lists of words, without its headings.

    Its tokens become those of ordinary text: "two @-@ part" becomes "two-part", "didn 't" becomes
    "did n't", and <unk>, which replaces rare words, becomes the vocabulary's unknown word.
    """
    sentences = []
    for line in read_text(file):
        if line.startswith("= ") and line.endswith(" ="):
            continue
        line = SPLIT_NOT.sub(" n't", SPLIT_MARK.sub(r"\1", f" {line} "))
        words = line.split()
        sentences += split_sentences([unknown if word == "<unk>" else word for word in words])
    return sentences


def split_sentences(words: list[str]) -> Iterator[list[str]]:
    """Yield a paragraph's sentences: each ends after . ! or ? and a closing quotation mark."""
    start, is_quoted = 0, False
    for end, word in enumerate(words, 1):
        if word == '"':
            is_quoted = not is_quoted
        stop = word in SENTENCE_ENDS
        closing = stop and is_quoted and words[end : end + 1] == ['"']
        closed = word == '"' and not is_quoted and end > 1 and words[end - 2] in SENTENCE_ENDS
        if (stop and not closing) or closed or end == len(words):
            yield words[start:end]
            start = end


def read_blimp(file: Path) -> list[Pair]:
    """Return the pairs of BLiMP's zip: one JSON object per line, one file per paradigm."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".jsonl"))
            lines = [line for name in names for line in archive.read(name).splitlines()]
        found = [read_pair(json.loads(line)) for line in lines if line.strip()]
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, KeyError, ValueError) as error:
        raise DataError(f"{file} is not a valid zip of BLiMP's pairs: {error!r}") from error
    if not found:
        raise DataError(f"{file} contains no .jsonl file of pairs")
    return found


def read_pair(line: dict) -> Pair:
    term, field = line["linguistics_term"], line["field"]
    return Pair(
        paradigm=line["UID"],
        term=PUBLISHED_NAMES.get(term, term),
        field=PUBLISHED_NAMES.get(field, field),
        good=line["sentence_good"],
        bad=line["sentence_bad"],
    )
