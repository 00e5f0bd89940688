# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Reads the published data sets for bias from a folder in which the user has put them."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..text_files import read_lines

Split = Callable[[str], list[str]]  # a text into words

# Folder of a set, the repository on GitHub to get it from, and the folder of the files there.
SOURCES = {
    "sent_bias": ("W4ngatang/sent-bias", "tests, as sent_bias/tests"),
    "winobias": ("uclanlp/corefBias", "WinoBias/wino"),
    "winogender": ("rudinger/winogender-schemas", "data"),
    "crows_pairs": ("nyu-mll/crows-pairs", "data"),
    "holistic_bias": ("facebookresearch/ResponsibleNLP", "holistic_bias/dataset/v1.1"),
    "ud_en_ewt": ("UniversalDependencies/UD_English-EWT", "the top one; for mitigation"),
}


class WordSet(NamedTuple):
    """A named list of words; several words separated by a blank count as one."""

    name: str
    words: Sequence[str]


class AssociationTest(NamedTuple):
    """Two sets of target words and two sets of attribute words, as in WEAT (Caliskan 2017)."""

    name: str
    targets: tuple[WordSet, WordSet]
    attributes: tuple[WordSet, WordSet]

    @property
    def sets(self) -> tuple[WordSet, ...]:
        """Both targets, then both attributes."""
        return (*self.targets, *self.attributes)


class PronounPair(NamedTuple):
    """
    A sentence that is the same for both genders but for one pronoun.

    Attributes:
        words: the words of the sentence, with either pronoun.
        place: index of the pronoun.
        male, female: the two pronouns.
        occupation: the occupation that the sentence is about.
        is_occupation: whether the pronoun stands for the person of this occupation.
        female_stereotype: whether women are the stereotype of the person that the pronoun stands
            for; None: the data set does not say.
    """

    words: Sequence[str]
    place: int
    male: str
    female: str
    occupation: str
    is_occupation: bool = True
    female_stereotype: bool | None = None


class PersonSentence(NamedTuple):
    """A WinoBias sentence: the last word of a person's name, and the gender of its pronoun."""

    words: Sequence[str]
    person: int
    occupation: str
    is_female: bool


class SentencePair(NamedTuple):
    """A CrowS-Pairs item: the more and the less stereotypical sentence, and the kind of bias."""

    more: Sequence[str]
    less: Sequence[str]
    kind: str


class Descriptor(NamedTuple):
    """A HolisticBias descriptor, such as "deaf", and its indefinite article."""

    text: str
    article: str


class HolisticData(NamedTuple):
    """The descriptors of each axis, and sentences in which one fits, as text before and after."""

    axes: dict[str, list[Descriptor]]
    frames: list[tuple[str, str]]


def find_file(data: Path, name: str) -> Path:
    """Return a file of the folder, or its .xz file; `name` begins with the set's folder."""
    for path in (data / name, data / f"{name}.xz"):
        if path.is_file():
            return path
    kind = name.split("/")[0]
    repository, folder = SOURCES[kind]
    raise FileNotFoundError(
        f"{data / name} does not exist; get it from https://github.com/{repository} (folder "
        f"{folder}) and put it there, or leave {kind} out"
    )


def read_association_tests(data: Path) -> list[AssociationTest]:
    """
    Return the word-level tests of sent-bias (WEAT), by name.

    Raises:
        FileNotFoundError: the folder has no sent_bias/tests/weat6.jsonl.
        ValueError: a file is no test; for instance a string stands where a list of words belongs.
    """
    folder = find_file(data, "sent_bias/tests/weat6.jsonl").parent
    tests = [_read_association_test(path) for path in folder.glob("weat*.jsonl")]
    return sorted(tests, key=lambda test: (int(re.sub(r"\D", "", test.name)), test.name))


def _read_association_test(path: Path) -> AssociationTest:
    content = json.loads(path.read_text(encoding="utf-8"))
    sets = [_word_set(path, content, key) for key in ("targ1", "targ2", "attr1", "attr2")]
    return AssociationTest(path.stem, (sets[0], sets[1]), (sets[2], sets[3]))


def _word_set(path: Path, content: Any, key: str) -> WordSet:
    part = content.get(key) if isinstance(content, dict) else None
    part = part if isinstance(part, dict) else {}
    found = part.get("examples")
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise ValueError(
            f"{path}: {key} has {found!r:.60} for its examples; expected a list of words: the "
            "letters of a string would be taken for words"
        )
    return WordSet(str(part.get("category", key)), tuple(dict.fromkeys(found)))


def read_winogender(data: Path, split: Split) -> list[PronounPair]:
    """Return the Winogender sentences, in which the pronoun is the only word that differs."""
    with find_file(data, "winogender/all_sentences.tsv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, dialect="excel-tab")
        texts = {row["sentid"]: split(row["sentence"]) for row in rows}
    pairs = []
    for name in texts:
        occupation, _, answer, gender, _ = name.split(".")
        if gender == "male":
            pair = _pair(texts[name], texts[name.replace(".male.", ".female.")], occupation)
            if pair is None:
                raise ValueError(f"{name}: the male and female sentences differ in several words")
            pairs.append(pair._replace(is_occupation=answer == "0"))
    return pairs


def read_occupations(data: Path) -> dict[str, float]:
    """Return the share of women in each occupation, in the USA, of the Winogender data."""
    with find_file(data, "winogender/occupations-stats.tsv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, dialect="excel-tab")
        return {row["occupation"]: float(row["bls_pct_female"]) / 100 for row in rows}


def read_winobias(data: Path, split: Split, kind: int) -> tuple[list[PronounPair], int]:
    """
    Return WinoBias pairs of development and test part, and how many had to be left out.

    A pair is left out if its sentences differ in more than the pronoun.

    Args:
        kind: 1: the meaning of the sentence tells who the pronoun stands for; 2: its syntax.
    """
    pairs: list[PronounPair | None] = []
    for part in ("dev", "test"):
        pro, anti = (
            _winobias_file(data, f"{side}_stereotyped_type{kind}.txt.{part}", split)
            for side in ("pro", "anti")
        )
        for first, second in zip(pro, anti, strict=True):
            male, female = (second, first) if first.is_female else (first, second)
            pair = _pair(male.words, female.words, first.occupation)
            pairs.append(pair and pair._replace(female_stereotype=first.is_female))
    kept = [pair for pair in pairs if pair]
    return kept, len(pairs) - len(kept)


def read_persons(data: Path, split: Split, part: str) -> list[PersonSentence]:
    """Return the WinoBias sentences of a part, "dev" or "test", each with both genders."""
    kinds = [(kind, side) for kind in (1, 2) for side in ("pro", "anti")]
    names = (f"{side}_stereotyped_type{kind}.txt.{part}" for kind, side in kinds)
    return [sentence for name in names for sentence in _winobias_file(data, name, split)]


def read_stereotypes(data: Path) -> dict[str, bool]:
    """Return, for each WinoBias occupation, whether women are its stereotype."""
    files = {
        side: find_file(data, f"winobias/data/{side}_occupations.txt")
        for side in ("male", "female")
    }
    return {
        name.strip(): side == "female"
        for side, file in files.items()
        for name in file.read_text(encoding="utf-8").splitlines()
    }


def read_swaps(data: Path) -> dict[str, str]:
    """Return the WinoBias lists of gendered words, each with its counterpart."""
    swaps: dict[str, str] = {}
    for name in ("generalized_swaps.txt", "extra_gendered_words.txt"):
        lines = find_file(data, f"winobias/{name}").read_text(encoding="utf-8").splitlines()
        pairs = [[word.strip() for word in line.split("\t")] for line in lines if line.strip()]
        for first, second in pairs:
            swaps.setdefault(first, second)
        for first, second in pairs:
            swaps.setdefault(second, first)
    return swaps


def _winobias_file(data: Path, name: str, split: Split) -> list[PersonSentence]:
    lines = find_file(data, f"winobias/data/{name}").read_text(encoding="utf-8").splitlines()
    return [_person_sentence(line.partition(" ")[2], split) for line in lines if line.strip()]


def _person_sentence(text: str, split: Split) -> PersonSentence:
    """Read "[The developer] argued with the designer because [he] left."."""
    words: list[str] = []
    marked: list[list[str]] = []
    person = 0
    for i, part in enumerate(re.split(r"\[([^][]*)\]", text)):
        found = split(part.replace("[", " ").replace("]", " "))
        words += found
        if i % 2:
            marked.append(found)
            person = person or len(words) - 1
    if len(marked) < 2:
        raise ValueError(f"{text!r}: expected a person and a pronoun in brackets")
    pronouns = {word.lower() for found in marked[1:] for word in found}
    occupation = re.sub(r"^(the|a|an) ", "", " ".join(marked[0]), flags=re.IGNORECASE)
    return PersonSentence(words, person, occupation, bool(pronouns & {"she", "her", "hers"}))


def _pair(male: Sequence[str], female: Sequence[str], occupation: str) -> PronounPair | None:
    differing = [i for i, (m, f) in enumerate(zip(male, female, strict=False)) if m != f]
    if len(male) != len(female) or len(differing) != 1:
        return None
    place = differing[0]
    return PronounPair(male, place, male[place], female[place], occupation)


def read_crows_pairs(data: Path, split: Split) -> list[SentencePair]:
    """Return the pairs of CrowS-Pairs."""
    file = find_file(data, "crows_pairs/crows_pairs_anonymized.csv")
    with file.open(encoding="utf-8", newline="") as rows:
        return [
            SentencePair(split(row["sent_more"]), split(row["sent_less"]), row["bias_type"])
            for row in csv.DictReader(rows)
        ]


def read_holistic_bias(data: Path) -> HolisticData:
    """Return HolisticBias with neutral nouns in the singular, without gendered descriptors."""
    parts = ("descriptors", "nouns", "sentence_templates")
    files = (find_file(data, f"holistic_bias/{part}.json") for part in parts)
    descriptors, nouns, templates = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    axes = {
        axis: [*dict.fromkeys(d for bucket in buckets.values() for d in _descriptors(bucket))]
        for axis, buckets in descriptors.items()
    }
    frames = [
        (before, f"{noun}{after}")
        for before, mark, after in (text.partition("{noun_phrase}") for text in templates)
        for noun, _ in nouns["neutral"]
        if mark
    ]
    return HolisticData(axes, frames)


def _descriptors(bucket: Sequence[Any]) -> Iterator[Descriptor]:
    for entry in bucket:
        given = entry if isinstance(entry, dict) else {"descriptor": entry}
        if "gender" not in given:
            text = given["descriptor"]
            article = given.get("article", "an" if text[0].lower() in "aeiou" else "a")
            yield Descriptor(text, article)


def read_parts_of_speech(file: Path) -> list[tuple[list[str], list[str]]]:
    """Return the words and universal parts of speech of a treebank's sentences (CoNLL-U)."""
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    for line in read_lines(file):
        fields = line.split("\t")
        if fields[0].isdigit():
            sentences[-1][0].append(fields[1])
            sentences[-1][1].append(fields[3])
        elif not line.strip():
            sentences.append(([], []))
    return [sentence for sentence in sentences if sentence[0]]


__all__ = [
    "SOURCES",
    "AssociationTest",
    "Descriptor",
    "HolisticData",
    "PersonSentence",
    "PronounPair",
    "SentencePair",
    "WordSet",
    "read_association_tests",
    "read_crows_pairs",
    "read_holistic_bias",
    "read_occupations",
    "read_parts_of_speech",
    "read_persons",
    "read_stereotypes",
    "read_swaps",
    "read_winobias",
    "read_winogender",
]
