"""Labelled data for the training examples: local files, or data sets of the Hub by name.

A source is a local file (CoNLL columns, CoNLL-U, CSV, TSV or JSON lines, told by its ending), or
a data set of the Hub as NAME:SPLIT or NAME,CONFIG:SPLIT, such as "nyu-mll/glue,sst2:train[:1000]".
Whatever is wrong with the data is one `DataError` that names the file and the line.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

Example = dict[str, Any]
CONLLU = ["id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]


class DataError(ValueError):
    """Data that cannot be used; the message begins with the file and, if there is one, the line."""


def read_examples(source: str, columns: Sequence[str]) -> list[Example]:
    """
    Read the named columns of a CSV, TSV or JSON lines file, or of a data set of the Hub.

    Args:
        source: as in the head of this file.
        columns: names that every row must have; the others are left.

    Returns:
        For each row its columns, and under "where" its file and line for messages.
    """
    path = Path(source)
    if not path.is_file():
        return _not_empty(source, _read_hub(source, columns))
    if path.suffix in (".csv", ".tsv"):
        rows = _read_table(path, columns)
    elif path.suffix in (".jsonl", ".json"):
        rows = _read_json_lines(path, columns)
    else:
        raise DataError(f"{path}: expected a file that ends in .csv, .tsv, .jsonl or .json")
    return _not_empty(source, rows)


def read_tagged(source: str, words_column: str, tags_column: str) -> list[Example]:
    """
    Read sentences of words with a tag each.

    Args:
        source: as in the head of this file. A file that ends neither in .conllu nor in .jsonl
            or .json is read as CoNLL columns: one word a line, its tag last, blank lines
            between sentences.
        words_column, tags_column: names of the lists of words and tags; in CoNLL-U the tags'
            column is the name of its field, such as upos.

    Returns:
        Sentences with "words", "tags", and for each word under "where" its file and line.
    """
    path = Path(source)
    if path.is_file() and path.suffix == ".conllu":
        return _not_empty(source, _read_columns(path, tags_column))
    if path.is_file() and path.suffix not in (".jsonl", ".json"):
        return _not_empty(source, _read_columns(path))
    sentences = []
    for row in read_examples(source, [words_column, tags_column]):
        words, tags = row[words_column], row[tags_column]
        if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
            raise DataError(
                f"{row['where']}: expected {words_column!r} and {tags_column!r} to be lists of "
                f"equal length, found {_shorten(words)} and {_shorten(tags)}"
            )
        tags = [str(tag) for tag in tags]
        sentences.append({"words": words, "tags": tags, "where": [row["where"]] * len(words)})
    return sentences


def read_answers(source: str) -> list[Example]:
    """
    Read questions with their contexts and answers, in SQuAD's columns.

    Args:
        source: as in the head of this file; in a table the answers are JSON.

    Returns:
        Rows with "question", "context", "where", and under "answers" pairs of a text and the
        place of its first character in the context; none where there is no answer.
    """
    rows = read_examples(source, ["question", "context", "answers"])
    for row in rows:
        try:
            answers = row["answers"]
            answers = json.loads(answers) if isinstance(answers, str) else answers
            row["answers"] = list(zip(answers["text"], answers["answer_start"], strict=True))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f'{row["where"]}: expected answers like {{"text": ["..."], "answer_start": [0]}}, '
                f"found {row['answers']!r}"
            ) from None
        for text, start in row["answers"]:
            if not text.strip() or row["context"][start : start + len(text)] != text:
                raise DataError(f"{row['where']}: {text!r} is not at place {start} of the context")
    return rows


def label_names(labels: Iterable[str]) -> list[str]:
    """Return the labels that occur, "O" first."""
    return sorted(set(labels), key=lambda label: (label != "O", label))


def label_id(label: str, names: Sequence[str], where: str) -> int:
    """Return a label's place among the names of the training data's labels."""
    if label not in names:
        known = ", ".join(names[:20])
        raise DataError(f"{where}: label {label!r} is not one of the training data's ({known})")
    return names.index(label)


def read_number(value: Any, where: str) -> float:
    """Return a label that is a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected a number, found {value!r}") from None


def recode_spans(tags: Sequence[str], scheme: str, where: Sequence[str]) -> list[str]:
    """
    Write tags of spans in another scheme.

    Args:
        tags: of one sentence, in IOB1, IOB2 (BIO), IOE or BIOES.
        scheme: "BIO" or "BIOES".
        where: file and line of each, for messages.
    """
    recoded = ["O"] * len(tags)
    for kind, start, end in _spans(tags, where):
        recoded[start:end] = [f"I-{kind}"] * (end - start)
        if scheme == "BIOES":
            recoded[end - 1] = f"E-{kind}"
        recoded[start] = f"B-{kind}"
        if scheme == "BIOES" and end - start == 1:
            recoded[start] = f"S-{kind}"
    return recoded


def _spans(tags: Sequence[str], where: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Kind, first and behind last word of each span, as the CoNLL evaluation reads them."""
    start, before = 0, "O"
    for t, tag in enumerate([*tags, "O"]):
        if t < len(tags) and tag != "O" and not (tag[:1] in set("BIES") and tag[1:2] == "-"):
            raise DataError(f"{where[t]}: expected a tag O, B-X, I-X, E-X or S-X, found {tag!r}")
        begins = tag[0] in "BS" or before[0] in "ES" or tag[1:] != before[1:]
        if before != "O" and (begins or tag == "O"):
            yield before[2:], start, t
        if begins:
            start = t
        before = tag


def _read_columns(path: Path, conllu_field: str | None = None) -> Iterator[Example]:
    if conllu_field is not None and conllu_field not in CONLLU:
        raise DataError(f"{path}: CoNLL-U has no column {conllu_field!r}; it has {CONLLU}")
    sentence: Example = {"words": [], "tags": [], "where": []}
    width = len(CONLLU) if conllu_field else None
    for number, line in enumerate([*_lines(path), ""], 1):
        line = line.rstrip("\n")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentence["words"]:
                yield sentence
            sentence = {"words": [], "tags": [], "where": []}
            continue
        if conllu_field and line.startswith("#"):
            continue
        fields = line.split("\t") if conllu_field else line.split()
        width = width or max(len(fields), 2)
        if len(fields) != width:
            raise DataError(f"{path}:{number}: expected {width} columns, found {_shorten(line)}")
        if conllu_field and not fields[0].isdigit():
            continue  # a contraction such as 1-2, or an empty node such as 1.1
        sentence["words"].append(fields[1 if conllu_field else 0])
        sentence["tags"].append(fields[CONLLU.index(conllu_field) if conllu_field else -1])
        sentence["where"].append(f"{path}:{number}")


def _read_table(path: Path, columns: Sequence[str]) -> Iterator[Example]:
    reader = csv.DictReader(_lines(path), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        header = reader.fieldnames or []
        missing = [column for column in columns if column not in header]
        if missing:
            _lack(f"{path}:1", missing, header)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():  # more fields than names, or fewer
                raise DataError(f"{where}: expected {len(header)} fields as in the first line")
            yield {**{column: row[column] for column in columns}, "where": where}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from None


def _read_json_lines(path: Path, columns: Sequence[str]) -> Iterator[Example]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: expected one JSON object a line; {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, found {_shorten(row)}")
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            _lack(where, missing, row)
        yield {**{column: row[column] for column in columns}, "where": where}


def _read_hub(source: str, columns: Sequence[str]) -> Iterator[Example]:
    parts = re.fullmatch(r"([^,]+)(?:,(.+))?:([^:\[\]]+(?:\[.*\])?)", source)
    if parts is None:
        raise DataError(
            f"{source}: there is no such file; a data set of the Hub is written NAME:SPLIT or "
            "NAME,CONFIG:SPLIT"
        )
    from datasets import load_dataset

    name, config, split = parts.groups()
    data = load_dataset(name, config, split=split)
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        _lack(source, missing, data.column_names)
    names = {column: _class_names(data.features[column]) for column in columns}
    for number, row in enumerate(data.select_columns(list(columns))):
        named = {column: _name(value, names[column]) for column, value in row.items()}
        yield {**named, "where": f"{source}, row {number}"}


def _class_names(feature: Any) -> list[str] | None:
    """Names of the classes that a column of ids, or of lists of ids, stands for."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _name(value: Any, names: list[str] | None) -> Any:
    if names is None:
        return value
    return [names[one] for one in value] if isinstance(value, list) else names[value]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path}: expected UTF-8, which it is not at byte {error.start}"
        raise DataError(message) from None
    # Not splitlines: texts may hold line separators that are none of the file's.
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _not_empty(source: str, rows: Iterable[Example]) -> list[Example]:
    rows = list(rows)
    if not rows:
        raise DataError(f"{source}: the data set is empty")
    return rows


def _lack(where: str, missing: Sequence[str], found: Iterable[str]) -> NoReturn:
    raise DataError(f"{where}: no column {', '.join(missing)}; found {', '.join(found) or 'none'}")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
