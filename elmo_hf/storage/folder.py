# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""A folder of shards: written in parts, continued after an interruption, finished by an index."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..batches import Sentence
from .files import new_file
from .rows import Vectorizer
from .shards import NAME, Shard, ShardFile, cut_into_shards, shard_name, write_shard

INDEX = "index.json"
NO_SENTENCES = "the input has no sentences, so there is nothing to write"
OF_ONE_SHARD = ("text", "is_last", "first", "last", "run")
Progress = Callable[[int, int | None], object]


class UnfinishedError(ValueError):
    """Error: a folder lacks shards."""


class FolderWriter:
    """
    Class that writes the shards of one part of an input; arguments as in `write_vectors`.

    Raises:
        FileExistsError: the folder has files and `resume` is False.
        ValueError: its shards were made from other settings or another input.
    """

    def __init__(
        self,
        folder: Path,
        vectorizer: Vectorizer,
        sentences_per_shard: int,
        resume: bool,
        part: tuple[int, int],
        has_words: bool,
        progress: Progress,
    ) -> None:
        self.folder, self.vectorizer, self.size = folder, vectorizer, sentences_per_shard
        self.index, self.parts = part
        self.has_words, self.progress = has_words, progress
        self.others: list[tuple[str, dict[str, Any]]] = []  # names and facts of the other shards
        self.settings = {
            "sentences_per_shard": sentences_per_shard,
            "has_words": has_words,
            **vectorizer.settings(),
        }
        self._check_folder(resume)

    def write(self, sentences: Iterable[Sentence]) -> bool:
        """Write the shards of this part that are missing; return whether the folder is finished."""
        waiting: deque[tuple[Shard, list[list[str]]]] = deque()

        def feed() -> Iterator[list[str]]:
            for shard in self._missing(sentences):
                words = self.vectorizer.split(shard.sentences)
                waiting.append((shard, words))
                yield from words

        self.folder.mkdir(parents=True, exist_ok=True)  # before anything is computed
        try:
            with closing(self.vectorizer.embed(feed())) as vectors:
                for first in vectors:
                    shard, words = waiting.popleft()
                    own = chain([first], islice(vectors, len(words) - 1))
                    self.folder.mkdir(exist_ok=True)  # another part, which failed, may remove it
                    with new_file(self.folder / shard.name) as path:
                        described = shard.describe(self.settings)
                        write_shard(path, words, self._count(own, words), described, self.has_words)
            for name, facts in self.others:  # other parts may have written them in the meantime
                self._check_shard(name, facts)
            return finish(self.folder)
        except BaseException:
            with suppress(OSError):  # it has files
                self.folder.rmdir()
            raise

    def _missing(self, sentences: Iterable[Sentence]) -> Iterator[Shard]:
        """Yield the shards of this part without a file, and check the files that are there."""
        shard = None
        for shard in cut_into_shards(sentences, self.size):
            is_mine = shard.number % self.parts == self.index
            if is_mine and not (self.folder / shard.name).exists():
                yield shard
                continue
            facts = {name: json.loads(v) for name, v in shard.describe(self.settings).items()}
            self._check_shard(shard.name, facts)
            self.others.append((shard.name, facts))
            self.progress(len(shard.sentences), None)
        if shard is None:
            raise ValueError(NO_SENTENCES)
        if beyond := [number for number in find_shards(self.folder) if number > shard.number]:
            raise ValueError(
                f"{self.folder / shard_name(beyond[0])} lies after the end of this input, which "
                f"has {shard.number + 1:,} shards; resume with what it was made from, or write to "
                "another folder"
            )

    def _count(self, vectors: Iterable[np.ndarray], words: list[list[str]]) -> Iterator[np.ndarray]:
        for one, sentence in zip(vectors, words, strict=True):
            yield one
            self.progress(1, len(sentence))

    def _check_folder(self, resume: bool) -> None:
        numbers = find_shards(self.folder)
        mine = [number for number in numbers if number % self.parts == self.index]
        others = self.parts == 1 and self.folder.exists() and any(self.folder.iterdir())
        if not resume and (mine or others):
            raise FileExistsError(
                f"{self.folder} exists already; continue it with resume=True (--resume), delete "
                "it, or pass another folder"
            )
        if numbers:
            path = self.folder / shard_name(numbers[0])
            self._explain(path, ShardFile(path).facts, self.settings)

    def _check_shard(self, name: str, facts: dict[str, Any]) -> None:
        if (path := self.folder / name).exists():
            self._explain(path, ShardFile(path).facts, facts)

    def _explain(self, path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
        """Raise ValueError if a shard was made from something else; say from what."""
        for name, value in expected.items():
            if name == "run" or found.get(name) == value:
                continue
            what = f"{name} {found.get(name)!r}, now {value!r}"
            if name == "model":
                what = "another model, tokenizer or mix"
            if name in ("text", "is_last", "first", "last"):
                what = f"other sentences {found.get('first'):,} to {found.get('last'):,}"
            raise ValueError(
                f"{path} was made from {what}; resume with what it was made from, or write to "
                "another folder"
            )


def finish(folder: Path) -> bool:
    """
    Write the index of a folder if all of its shards are there; return whether they are.

    Several processes may finish the same folder: they write the same index.

    Raises:
        ValueError: a shard is damaged, or the shards come from several runs.
    """
    try:
        index = make_index(folder)
    except UnfinishedError:
        return False
    try:
        with new_file(folder / INDEX) as path:
            path.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except FileNotFoundError:  # another process wrote the index at the same time
        if not (folder / INDEX).exists():
            raise
    return True


def read_index(folder: Path) -> dict[str, Any]:
    """
    Return the index of a finished folder; without one, the index of its shards.

    Raises:
        ValueError: the folder is unfinished, damaged or not written by elmo-hf.
    """
    path = folder / INDEX
    if not path.exists():
        return make_index(folder)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        sizes = {shard["file"]: shard["bytes"] for shard in index["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or not written by elmo-hf; delete it: it is made again"
        ) from error
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise ValueError(f"{folder / name} {state}; write it again with --resume")
    return index


def make_index(folder: Path) -> dict[str, Any]:
    """
    Return what the shards of a folder say about it.

    Raises:
        UnfinishedError: shards are missing.
        ValueError: a shard is damaged, or the shards come from several runs.
    """
    names = _complete_names(folder)
    settings: dict[str, Any] = {}
    shards = []
    dimension = 0
    for name in names:
        shard = ShardFile(folder / name)
        facts, dimension = shard.facts, shard.shape[-1]
        own = {key: value for key, value in facts.items() if key not in OF_ONE_SHARD}
        settings = settings or own
        if own != settings:
            raise ValueError(
                f"{folder / name} and {names[0]} come from different runs: {own} and {settings}; "
                "delete those of one"
            )
        size = (folder / name).stat().st_size
        words = int(shard.offsets[-1])
        sums = {"sentences": len(shard), "words": words, "bytes": size, "text": facts["text"]}
        shards.append({"file": name, **sums})
    totals = {key: sum(shard[key] for shard in shards) for key in ("sentences", "words")}
    return {"version": 1, **settings, "dimension": dimension, **totals, "shards": shards}


def _complete_names(folder: Path) -> list[str]:
    """Return the names of a folder's shards; raise UnfinishedError if some are missing."""
    numbers = find_shards(folder)
    missing = sorted({*range(max(numbers, default=0) + 1)} - {*numbers})
    if missing:
        named = ", ".join(map(str, missing[:5])) + (", .." if len(missing) > 5 else "")
        what = f"shards {named}"
    elif not ShardFile(folder / shard_name(numbers[-1])).facts["is_last"]:
        what = f"all after shard {numbers[-1]}"
    else:
        return [shard_name(number) for number in numbers]
    raise UnfinishedError(
        f"{folder} is unfinished, of its shards these are missing: {what}; write them with --resume"
    )


def find_shards(folder: Path) -> list[int]:
    """Return the sorted numbers of the shards in a folder."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for match in map(NAME.fullmatch, names) if match)


__all__ = ["INDEX", "NO_SENTENCES", "FolderWriter", "Progress", "finish", "read_index"]
