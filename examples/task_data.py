"""Read labelled data from local files or Hub datasets, and write predictions.

A source is a local file (CoNLL columns, CoNLL-U, CSV, TSV or JSON lines, recognized by its suffix)
or a Hub dataset as NAME:SPLIT or NAME,CONFIG:SPLIT, such as "nyu-mll/glue,sst2:train[:1000]".
Every error in the data is a `DataError` that names the file and the line.
"""

import contextlib
import csv
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from elmo_hf.extras import require

Example = dict[str, Any]
WHERE = "\0where"  # key of a row's file and line; no column has this name
CONLLU = ["id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]


class DataError(ValueError):
    """Error in the data; the message begins with the file and, if known, the line."""


def read_examples(source: str, columns: Sequence[str]) -> list[Example]:
    """
    Read the rows of a CSV, TSV or JSON lines file, or of a Hub dataset.

    Args:
        source: as described at the top of this module.
        columns: columns that every row must have.

    Returns:
        The rows; the key `WHERE` has the file and line of each row for messages.
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


def read_tagged(
    source: str, words_column: str, tags_column: str, with_tags: bool = True
) -> list[Example]:
    """
    Read sentences with one tag per word.

    Args:
        source: as described at the top of this module. Files other than .conllu, .jsonl and .json
            are read as CoNLL columns: one word per line, its tag last, blank lines between
            sentences, comments such as "# sent_id = 1" before a sentence.
        words_column, tags_column: columns with the lists of words and tags; for CoNLL-U,
            `tags_column` is the name of a field, such as upos.
        with_tags: False for data without tags.

    Returns:
        Sentences with "words", "tags", and in "where" the file and line of each word.
    """
    if _has_columns(Path(source)):
        return _not_empty(source, _read_columns(Path(source), tags_column, with_tags))
    columns = [words_column, tags_column] if with_tags else [words_column]
    sentences = []
    for row in read_examples(source, columns):
        lists = [row[column] for column in columns]
        if not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
            raise DataError(
                f"{row[WHERE]}: expected {' and '.join(map(repr, columns))} to be lists of "
                f"equal length, found {' and '.join(map(_shorten, lists))}"
            )
        words, tags = lists[0], [str(tag) for tag in lists[-1]]
        if wrong := [word for word in words if not isinstance(word, str)]:
            raise DataError(f"{row[WHERE]}: expected words, found {_shorten(wrong[0])}")
        sentences.append({"words": words, "tags": tags, "where": [row[WHERE]] * len(words)})
    return sentences


def predictions_path(source: str, folder: str, target: str | None) -> Path:
    """Return `target`, or else a path in `folder` that is named after `source`."""
    if target:
        return Path(target)
    path = Path(source)
    name = f"{path.stem}.predicted{path.suffix}" if path.is_file() else "predictions.jsonl"
    return Path(folder, name)


def write_tagged(
    source: str, target: Path, words_column: str, tags_column: str, tags: list[list[str]]
) -> None:
    """
    Copy sentences to a new file, with a predicted tag for each word.

    Args:
        source, words_column, tags_column: as for `read_tagged`.
        target: the new file. CoNLL columns get another column, CoNLL-U gets the tags in
            `tags_column`, JSON lines and Hub rows get a list "predicted".
        tags: the predicted tags of each sentence.
    """
    path = Path(source)
    if not _has_columns(path):
        rows = read_examples(source, [words_column])
        return write_rows(target, rows, [{"predicted": one} for one in tags])
    left = iter([tag for sentence in tags for tag in sentence])
    place, lines = _places(path, tags_column)[1], []
    for _, line, fields in _column_lines(path, least=1):
        if fields and path.suffix == ".conllu":
            line = "\t".join([*fields[:place], next(left), *fields[place + 1 :]])
        elif fields or line.startswith("-DOCSTART-"):
            tag = next(left) if fields else "O"
            line += ("\t" if "\t" in line else " ") + tag
        lines.append(line)
    with _written_whole(target) as file:
        file.writelines(f"{line}\n" for line in lines)
    return None


def write_rows(target: Path, rows: list[Example], predictions: list[Example]) -> None:
    """Write rows with their predictions, as CSV, TSV or JSON lines by the target's suffix."""
    merged = [row | new for row, new in zip(rows, predictions, strict=True)]
    for row in merged:
        row.pop(WHERE)
    with _written_whole(target) as file:
        if target.suffix in (".csv", ".tsv"):
            _write_table(file, target, merged)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in merged)


def _write_table(file: TextIO, target: Path, rows: list[Example]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, names, restval="", **_dialect(target))
    try:
        writer.writeheader()
        writer.writerows(rows)
    except csv.Error as error:
        raise DataError(
            f"{target}: a field has a tab or a line break, which TSV cannot hold ({error}); name "
            "a .csv or .jsonl file with --predictions"
        ) from None


@contextlib.contextmanager
def _written_whole(target: Path) -> Iterator[TextIO]:
    """Open a file that gets its name only when it is complete."""
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _has_columns(path: Path) -> bool:
    return path.is_file() and path.suffix not in (".jsonl", ".json")


def read_answers(source: str) -> list[Example]:
    """
    Read questions with their contexts and answers, in SQuAD's columns.

    Args:
        source: as described at the top of this module; in CSV and TSV the answers are JSON.

    Returns:
        Rows with "question", "context", `WHERE` and "answers": pairs of a text and the index of
        its first character in the context; an empty list if there is no answer.
    """
    rows = read_examples(source, ["question", "context", "answers"])
    for row in rows:
        try:
            answers = row["answers"]
            answers = json.loads(answers) if isinstance(answers, str) else answers
            row["answers"] = list(zip(answers["text"], answers["answer_start"], strict=True))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f'{row[WHERE]}: expected answers like {{"text": ["..."], "answer_start": [0]}}, '
                f"found {row['answers']!r}"
            ) from None
        check_text(row, ["question", "context"])
        for text, start in row["answers"]:
            if not (isinstance(text, str) and type(start) is int):
                raise DataError(f"{row[WHERE]}: expected a text and a number, found {text, start}")
            if not text.strip() or row["context"][start : start + len(text)] != text:
                raise DataError(
                    f"{row[WHERE]}: {text!r} is not at character {start} of the context"
                )
    return rows


def check_text(row: Example, columns: Iterable[str]) -> None:
    """Raise DataError unless these columns of a row are texts."""
    for column in columns:
        if not isinstance(row[column], str):
            found = _shorten(row[column])
            raise DataError(f"{row[WHERE]}: expected {column!r} to be a text, found {found}")


def label_names(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels, "O" first, the others sorted."""
    return sorted(set(labels), key=lambda label: (label != "O", label))


def label_id(label: str, names: Sequence[str], where: str) -> int:
    """Return a label's index in `names`, the labels of the training data."""
    if label not in names:
        known = ", ".join(names[:20])
        raise DataError(f"{where}: label {label!r} is not one of the training data's ({known})")
    return names.index(label)


def read_number(value: Any, where: str) -> float:
    """Return a label as a number, or raise DataError."""
    try:
        if math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError):
        pass
    raise DataError(f"{where}: expected a number, found {value!r}")


def recode_spans(tags: Sequence[str], scheme: str, where: Sequence[str]) -> list[str]:
    """
    Convert the span tags of a sentence to another scheme.

    Args:
        tags: the tags of one sentence, in IOB1, IOB2 (BIO), IOE or BIOES.
        scheme: "BIO" or "BIOES".
        where: the file and line of each word, for messages.
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
    """Yield type, start and end (exclusive) of each span, as the CoNLL evaluation reads them."""
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


def _read_columns(path: Path, tags_column: str, with_tags: bool) -> Iterator[Example]:
    word, tag = _places(path, tags_column)
    sentence: Example = {"words": [], "tags": [], "where": []}
    for number, line, fields in [*_column_lines(path, least=1 + with_tags), (0, "", None)]:
        if fields:
            sentence["words"].append(fields[word])
            sentence["tags"].append(fields[tag])
            sentence["where"].append(f"{path}:{number}")
        elif _ends_sentence(line) and sentence["words"]:
            yield sentence
            sentence = {"words": [], "tags": [], "where": []}


def _places(path: Path, tags_column: str) -> tuple[int, int]:
    """Return the column indices of the word and of the tag."""
    if path.suffix != ".conllu":
        return 0, -1
    if tags_column not in CONLLU:
        raise DataError(f"{path}: CoNLL-U has no column {tags_column!r}; it has {CONLLU}")
    return 1, CONLLU.index(tags_column)


def _column_lines(path: Path, least: int) -> Iterator[tuple[int, str, list[str] | None]]:
    """Yield each line's number, text, and columns; None for lines without a word."""
    conllu, before_sentence = path.suffix == ".conllu", True
    lines = [line.rstrip("\n") for line in _lines(path)]
    data = (line for line in lines if not _ends_sentence(line) and not line.startswith("#"))
    first = next(data, "")
    separator = "\t" if conllu or "\t" in first else None
    width = len(CONLLU) if conllu else max(len(first.split(separator)), least)
    for number, line in enumerate(lines, 1):
        fields = line.split(separator)
        if _ends_sentence(line):
            before_sentence = True
            yield number, line, None
        elif before_sentence and _is_comment(line, conllu, len(fields) == width):
            yield number, line, None
        elif len(fields) != width:
            raise DataError(f"{path}:{number}: expected {width} columns, found {_shorten(line)}")
        else:
            before_sentence = False
            # CoNLL-U also has lines of contractions (1-2) and empty nodes (1.1).
            yield number, line, fields if not conllu or fields[0].isdigit() else None


def _ends_sentence(line: str) -> bool:
    return not line.strip() or line.startswith("-DOCSTART-")


def _is_comment(line: str, conllu: bool, has_all_columns: bool) -> bool:
    """True for a comment such as "# sent_id = 7"; a line can also begin with the word "#"."""
    if conllu or not line.startswith("# ") or not has_all_columns:
        return line.startswith("#" if conllu else "# ")
    return re.match(r"#\s+([A-Za-z]\S*\s+=(\s|$)|new(doc|par)\b)", line) is not None


def _read_table(path: Path, columns: Sequence[str]) -> Iterator[Example]:
    csv.field_size_limit(sys.maxsize)  # a field may be a long document
    reader = csv.DictReader(_lines(path), **_dialect(path))
    try:
        header = reader.fieldnames or []
        if twice := {name for name in header if header.count(name) > 1}:
            raise DataError(f"{path}:1: two columns are named {', '.join(sorted(twice))}")
        missing = [column for column in columns if column not in header]
        if missing:
            _lack(f"{path}:1", missing, header)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():  # more fields than names, or fewer
                raise DataError(f"{where}: expected {len(header)} fields, as in the first line")
            yield {**row, WHERE: where}
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: {error}; in CSV a field with quotes is itself quoted, and "
            "its quotes are doubled"
        ) from None


def _dialect(path: Path) -> dict[str, Any]:
    """Return the options of `csv`: quotes are characters like others in TSV, one row per line."""
    if path.suffix == ".tsv":
        return {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    return {"strict": True}


def _read_json_lines(path: Path, columns: Sequence[str]) -> Iterator[Example]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: expected one JSON object per line; {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, found {_shorten(row)}")
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            _lack(where, missing, row)
        yield {**row, WHERE: where}


def _read_hub(source: str, columns: Sequence[str]) -> Iterator[Example]:
    parts = re.fullmatch(r"([^,]+)(?:,(.+))?:([^:\[\]]+(?:\[.*\])?)", source)
    if parts is None:
        raise DataError(
            f"{source}: there is no such file; to read a Hub dataset, write NAME:SPLIT or "
            "NAME,CONFIG:SPLIT"
        )
    load_dataset = require("datasets", "train").load_dataset
    name, config, split = parts.groups()
    data = load_dataset(name, config, split=split)
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        _lack(source, missing, data.column_names)
    names = {column: _class_names(data.features[column]) for column in columns}
    for number, row in enumerate(data.select_columns(list(columns))):
        named = {column: _name(value, names[column]) for column, value in row.items()}
        yield {**named, WHERE: f"{source}, row {number}"}


def _class_names(feature: Any) -> list[str] | None:
    """Return the class names of a column of ids or of lists of ids; None for other columns."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _name(value: Any, names: list[str] | None) -> Any:
    if names is None:
        return value
    return [names[one] for one in value] if isinstance(value, list) else names[value]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        advice = "convert the file, for instance with iconv -f LATIN1 -t UTF-8"
        raise DataError(f"{path} is not UTF-8 at byte {error.start}; {advice}") from None
    # Not splitlines: texts may contain other line separators, such as U+2028.
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
