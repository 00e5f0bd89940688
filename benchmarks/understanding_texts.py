"""Read the labelled data of benchmarks/understanding.py."""

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

from task_texts import DataError, read_lines

from elmo_hf.analysis.probes import Labelled
from elmo_hf.analysis.senses import SenseSentence, SenseTagged
from elmo_hf.analysis.similarity import Pair, WordInSentence

Split = Callable[[str], list[str]]  # splits a text into words
POS = {"1": "NOUN", "2": "VERB", "3": "ADJ", "4": "ADV", "5": "ADJ"}  # by WordNet's number
ENDS = (".", "!", "?")  # of sentences
HELD_OUT = 10  # of SemCor's documents, every tenth tests the probe


def wic(data: Path, part: str) -> list[Pair]:
    """Return WiC's pairs: a word in two sentences; gold 1: in the same sense."""
    rows = read_lines(data / "wic" / part / f"{part}.data.txt")
    labels = read_lines(data / "wic" / part / f"{part}.gold.txt")
    pairs = []
    for row, label in zip(rows, labels, strict=True):
        _, _, places, *sentences = row.split("\t")
        found = (
            WordInSentence(sentence.split(), int(index))
            for sentence, index in zip(sentences, places.split("-"), strict=True)
        )
        pairs.append(Pair(*found, label == "T"))
    return pairs


def scws(data: Path) -> list[Pair]:
    """Return SCWS' word pairs, each word in its sentence, with the mean rating."""
    pairs = []
    for line in read_lines(data / "scws" / "ratings.txt"):
        fields = line.split("\t")
        pairs.append(Pair(*map(_between_b, fields[5:7]), float(fields[7])))
    return pairs


def _between_b(context: str) -> WordInSentence:
    """Return the marked word in its sentence; the context is about a hundred words long."""
    before, _, rest = context.partition("<b>")
    word, _, after = rest.partition("</b>")
    left, right = before.split(), after.split()
    starts = [i + 1 for i, other in enumerate(left) if other in ENDS]
    left = left[starts[-1] if starts else 0 :]
    stop = next((i + 1 for i, other in enumerate(right) if other in ENDS), len(right))
    return WordInSentence([*left, word.strip(), *right[:stop]], len(left))


def cosimlex(data: Path, split: Split) -> tuple[list[Pair], list[Pair]]:
    """Return CoSimLex' word pairs in their first context, and in their second one."""
    lines = read_lines(data / "cosimlex" / "cosimlex_en.csv")
    rows = [*csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    first, second = (
        [Pair(*_strong(row[f"context{i}"], split), float(row[f"sim{i}"])) for row in rows]
        for i in (1, 2)
    )
    return first, second


def _strong(context: str, split: Split) -> list[WordInSentence]:
    """Return the two marked words; which is which makes no difference to a cosine."""
    words: list[str] = []
    marked = []
    for i, part in enumerate(re.split(r"</?strong>", context)):
        if i % 2:
            marked.append(len(words))
        words += [part] if i % 2 else split(part)
    return [WordInSentence(words, index) for index in marked]


def semcor(data: Path, documents: Callable[[int, str], bool]) -> Iterator[list[list[str]]]:
    """Yield the rows of each sentence of SemCor's documents that `documents` accepts."""
    number, accepted, rows = -1, False, []
    for line in read_lines(data / "semcor3" / "semcor3.tsv"):
        if line.startswith("# newdoc"):
            number += 1
            accepted = documents(number, line.rpartition(" = ")[2])
        elif line and not line.startswith("# sent_id"):
            rows.append(line.split("\t"))
        elif rows:
            if accepted:
                yield rows
            rows = []
    if rows and accepted:
        yield rows


def semcor_senses(data: Path) -> list[SenseSentence]:
    """Return SemCor with WordNet's sense keys; multiwords are split into their words."""
    made = []
    for rows in semcor(data, lambda *_: True):
        words: list[str] = []
        tagged = []
        for form, lemma, _, keys, *_ in rows:
            parts = _split(form)
            if keys != "_":
                senses = keys.split(" ")
                stop = len(words) + len(parts)
                tagged.append(SenseTagged(len(words), stop, _lemma(lemma, senses[0]), senses))
            words += parts
        made.append(SenseSentence(words, tagged))
    return made


def wsd_test(data: Path) -> list[SenseSentence]:
    """Return the five test sets of Raganato et al. (2017) together."""
    keys = read_lines(data / "wsd_eval" / "ALL" / "ALL.gold.key.txt")
    gold = {name: senses for name, *senses in map(str.split, keys)}
    xml = "\n".join(read_lines(data / "wsd_eval" / "ALL" / "ALL.data.xml"))
    made = []
    for sentence in ElementTree.fromstring(xml.encode()).iter("sentence"):
        words: list[str] = []
        tagged = []
        for one in sentence:
            parts = re.split(r"[ _]+", one.text.strip())
            if one.tag == "instance":
                lemma = f"{one.get('lemma').lower()} {one.get('pos')}"
                stop = len(words) + len(parts)
                tagged.append(SenseTagged(len(words), stop, lemma, gold[one.get("id")]))
            words += parts
        made.append(SenseSentence(words, tagged))
    return made


def first_senses(index: Path) -> dict[str, str]:
    """Return WordNet's first sense of each lemma, from its file index.sense."""
    found = {}
    for line in read_lines(index):
        try:
            key, _, number, _ = line.split(" ")
        except ValueError:
            raise DataError(f"{index} is no index.sense of WordNet: {line!r:.60}") from None
        if number == "1":
            found[_lemma(key.partition("%")[0], key)] = re.sub(r"\((a|p|ip)\)", "", key)
    return found


def _lemma(lemma: str, key: str) -> str:
    return f"{lemma} {POS[key.partition('%')[2][0]]}"


def supersenses(data: Path, *, test: bool) -> list[Labelled]:
    """
    Return SemCor's nouns and verbs with WordNet's 41 supersenses, such as noun.person.

    The documents with all words tagged are used, and every tenth of them is the test part.
    Multiwords and names have no label.
    """

    def wanted(number: int, name: str) -> bool:
        return name != "brownv" and (number % HELD_OUT == 0) == test

    made = []
    for rows in semcor(data, wanted):
        parts = [(part, _supersense(*row[:4])) for row in rows for part in _split(row[0])]
        made.append(Labelled(*map(list, zip(*parts, strict=True))))
    return made


def _split(form: str) -> list[str]:
    """Return the words of a multiword, which are joined by `_`."""
    return [part for part in form.split("_") if part] or [form]


def _supersense(form: str, lemma: str, pos: str, keys: str) -> str | None:
    """Return the first two numbers of the sense key: part of speech and supersense."""
    if keys == "_" or pos == "NNP" or "_" in form:
        return None
    found = keys.split(" ")[0].partition("%")[2][:4]
    return found if found[0] in "12" else None


def parts_of_speech(data: Path, part: str) -> list[Labelled]:
    """Return the English Web Treebank with its universal parts of speech."""
    lines = read_lines(data / "ud_en_ewt" / f"en_ewt-ud-{part}.conllu")
    return _columns([line for line in lines if not line.startswith("# ")], 1, 3, str.isdigit)


def entity_types(data: Path, part: str) -> list[Labelled]:
    """Return the English Web Treebank's names with their types; other words have no label."""
    lines = read_lines(data / "uner_en_ewt" / f"{part}.iob2")
    rows = _columns([line for line in lines if not line.startswith("# sent_id")], 0, 1)
    return [
        Labelled(words, [None if tag == "O" else tag[2:] for tag in tags]) for words, tags in rows
    ]


def _columns(
    lines: list[str], form: int, label: int, numbered: Callable[[str], bool] = bool
) -> list[Labelled]:
    """Return the sentences of a file of columns, of the rows whose first field is `numbered`."""
    made, rows = [], []
    for line in [*lines, ""]:
        fields = line.split("\t")
        if line and numbered(fields[0]):
            rows.append(fields)
        elif not line and rows:
            made.append(Labelled([row[form] for row in rows], [row[label] for row in rows]))
            rows = []
    return made
