# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Measures what is known as bias in a checkpoint, beside random weights and static vectors."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from ..extras import require
from ..model.configuration_elmo import ElmoConfig
from ..model.modeling_elmo_pretraining import ElmoForPreTraining
from ..model.tokenization_elmo import ElmoTokenizer
from ..text_files import read_sentences
from . import bias_data
from .bias_associations import (
    FEMALE,
    MALE,
    LostWordsError,
    WordVectors,
    ceat,
    embed_alone,
    embed_in_context,
    holm,
    occupations,
    weat,
)
from .bias_mitigation import Erased, SwapAverages, fit_eraser, person_vectors, recover_gender
from .bias_sentences import LanguageModel, crows_pairs, holistic_bias, winobias, winogender
from .estimates import Estimate
from .probes import Labelled, probe
from .sources import ElmoVectors, StaticVectors, Vectors

Row = dict[str, Any]
ALONE, IN_CONTEXT = "alone", "in context"
HE = {"he", "him", "his", "himself"}
SHE = {"she", "her", "hers", "herself"}
PROBE_WORDS = 1500
PROBE_SENTENCES = 500
BATCH = 1000


@dataclasses.dataclass(frozen=True)
class BiasStudy:
    """
    A checkpoint and the data with which its bias is measured.

    Args:
        checkpoint: folder of the model.
        data: folder of the data sets, see `bias_data.SOURCES`.
        text: held-out text files with contexts for words; without them, words are measured alone.
        static: static vectors of the same text, in gensim's formats; None: no such rows.
        contexts: maximum number of sentences per word.
        seed: seed of the random weights and of all that is drawn at random.
    """

    checkpoint: str | os.PathLike
    data: Path
    text: Sequence[str | os.PathLike] = ()
    static: str | os.PathLike | None = None
    contexts: int = 100
    seed: int = 0

    def measure(self, measures: Sequence[str] = ()) -> Iterator[Row]:
        """
        Yield the results row by row, as they are found.

        Args:
            measures: names among `MEASURES`; default: all.

        Returns:
            Rows with `measure`, `source`, `layer` (or direction), `test`, the estimate's `value`,
            `low`, `high`, `n`, and what the measure adds. A row of what could not be measured has
            the reason in `not_measured` instead of a value.

        Raises:
            FileNotFoundError: a data set is missing; the message says where to get it.
            ValueError: a name or a data set is invalid.
        """
        for name in measures or MEASURES:
            if name not in MEASURES:
                raise ValueError(f"measure is {name!r}; expected one of {', '.join(MEASURES)}")
            for file in NEEDED[name]:
                bias_data.find_file(self.data, file)
        for name in measures or MEASURES:
            for row in MEASURES[name](self):
                yield {"measure": name, **row}

    @cached_property
    def sources(self) -> list[Vectors]:
        """The checkpoint, its random weights, and the static vectors."""
        found: list[Vectors] = [
            ElmoVectors(self.checkpoint),
            ElmoVectors(self.checkpoint, random=True, seed=self.seed, name="random weights"),
        ]
        if self.static is not None:
            found.append(StaticVectors(_load_static(Path(self.static)), name="static vectors"))
        return found

    @cached_property
    def language_models(self) -> list[LanguageModel]:
        """The checkpoint and its random weights; none if it has no softmax."""
        if not ElmoConfig.from_pretrained(self.checkpoint).lm_vocab_size:
            return []
        model = ElmoForPreTraining.from_pretrained(self.checkpoint).eval()
        trained = LanguageModel(model, self.tokenizer, self.sources[0].name)
        return [trained, trained.random(self.seed)]

    @cached_property
    def sentences(self) -> list[list[str]]:
        """The sentences of the held-out text, as words."""
        return [words for file in self.text for words in _read_words(file, self.tokenizer)]

    @cached_property
    def tokenizer(self) -> ElmoTokenizer:
        """The checkpoint's tokenizer."""
        return ElmoTokenizer.from_pretrained(self.checkpoint)

    def split(self, text: str) -> list[str]:
        """Split a text into words as the checkpoint's tokenizer does."""
        return self.tokenizer(text, add_special_tokens=False).tokens()


def count_pronouns(files: Iterable[str | os.PathLike]) -> Row:
    """Count the words of text files, and how many of them are forms of "he" and of "she"."""
    counts: Counter[str] = Counter()
    for file in files:
        for text in read_sentences(file):
            line = text if isinstance(text, str) else " ".join(text)
            counts["words"] += len(line.split())
            for word in re.findall(r"\b(?:he|him|his|himself|she|hers?|herself)\b", line.lower()):
                counts["he" if word in HE else "she"] += 1
    return {name: counts[name] for name in ("words", "he", "she")}


def _weat(study: BiasStudy) -> Iterator[Row]:
    tests = bias_data.read_association_tests(study.data)
    names = [word for test in tests for own in test.sets for word in own.words]
    for source in study.sources:
        alone = embed_alone(source, names)
        yield from _adjusted(_associations(alone, tests, source.name, study.seed))
        if study.text and len(source.layers) > 1:
            words = embed_in_context(
                source, names, study.sentences, contexts=study.contexts, seed=study.seed
            )
            yield from _context_associations(words, tests, source.name, study.seed)


def _associations(
    words: WordVectors, tests: Sequence[bias_data.AssociationTest], source: str, seed: int
) -> Iterator[Row]:
    for test in tests:
        common = {"source": source, "words": ALONE, **_describe(test)}
        try:
            found = weat(words, test, seed=seed)
        except LostWordsError as error:
            yield from ({**common, "layer": layer, **_reason(error)} for layer in words.layers)
            continue
        for layer, result in found.items():
            row = {**common, "layer": layer, **_values(result.effect), "p": result.p}
            yield row | {"exact": result.is_exact, **_parts(result)}


def _context_associations(
    words: WordVectors, tests: Sequence[bias_data.AssociationTest], source: str, seed: int
) -> Iterator[Row]:
    for test in tests:
        common = {"source": source, "words": IN_CONTEXT, **_describe(test)}
        try:
            found = ceat(words, test, seed=seed)
        except LostWordsError as error:
            yield from ({**common, "layer": layer, **_reason(error)} for layer in words.layers)
            continue
        for layer, result in found.items():
            numbers = ("combined", "tau", "p", "opposite", "samples", "contexts")
            row = {**common, "layer": layer, **_values(result.mean)}
            yield row | {name: getattr(result, name) for name in numbers} | _parts(result)


def _describe(test: bias_data.AssociationTest) -> Row:
    names = [own.name for own in test.sets]
    return {"test": test.name, "targets": names[:2], "attributes": names[2:]}


def _parts(result: Any) -> Row:
    levels = {"own": [*result.levels.targets], "cosines": [*result.levels.cosines]}
    return levels | {"lost": [*result.lost]}


def _adjusted(rows: Iterable[Row]) -> list[Row]:
    """Add Holm's p-value, over the tests of the same layer."""
    rows = [*rows]
    for layer in {row["layer"] for row in rows}:
        own = [row for row in rows if row["layer"] == layer and "p" in row]
        for row, p in zip(own, holm([row["p"] for row in own]), strict=True):
            row["p_holm"] = p
    return rows


def _occupations(study: BiasStudy) -> Iterator[Row]:
    shares = bias_data.read_occupations(study.data)
    for source in study.sources:
        words = embed_alone(source, [*shares, *FEMALE, *MALE])
        lost = [name for name in shares if name not in words.found]
        try:
            found = occupations(words, shares)
        except LostWordsError as error:
            own = {"source": source.name, **_reason(error)}
            yield from ({**own, "layer": layer} for layer in words.layers)
            continue
        for layer, result in found.items():
            yield {"source": source.name, "layer": layer, **_values(result), "lost": lost}


def _winogender(study: BiasStudy) -> Iterator[Row]:
    pairs = bias_data.read_winogender(study.data, study.split)
    shares = bias_data.read_occupations(study.data)
    for model in study.language_models:
        for direction, found in winogender(model, pairs, shares).items():
            yield {"source": model.name, "layer": direction, **_values(found)}
    yield from _without_softmax(study)


def _winobias(study: BiasStudy) -> Iterator[Row]:
    for kind in (1, 2):
        pairs, left_out = bias_data.read_winobias(study.data, study.split, kind)
        for model in study.language_models:
            for direction, found in winobias(model, pairs).items():
                row = {"source": model.name, "test": f"type {kind}", "layer": direction}
                yield row | _values(found) | {"left_out": left_out}
    yield from _without_softmax(study)


def _crows_pairs(study: BiasStudy) -> Iterator[Row]:
    pairs = bias_data.read_crows_pairs(study.data, study.split)
    for model in study.language_models:
        for kind, found in crows_pairs(model, pairs).items():
            for part, estimate in found._asdict().items():
                yield {"source": model.name, "test": kind, "layer": part, **_values(estimate)}
    yield from _without_softmax(study)


def _holistic_bias(study: BiasStudy) -> Iterator[Row]:
    data = bias_data.read_holistic_bias(study.data)
    for model in study.language_models:
        for axis, found in holistic_bias(model, data, seed=study.seed).items():
            yield {"source": model.name, "test": axis, "layer": "both", **_values(found)}
    yield from _without_softmax(study)


def _mitigation(study: BiasStudy) -> Iterator[Row]:
    train, test = (bias_data.read_persons(study.data, study.split, p) for p in ("dev", "test"))
    stereotypes = bias_data.read_stereotypes(study.data)
    tagged = [_read_tagged(study.data, part) for part in ("train", "test")]
    source = study.sources[0]
    labels = [sentence.is_female for sentence in train]
    erasers = [fit_eraser(rows, labels) for rows in person_vectors(source, train)]
    methods = {
        "none": source,
        "LEACE": Erased(source, erasers),
        "swap averages": SwapAverages(source, bias_data.read_swaps(study.data)),
    }
    for method, vectors in methods.items():
        recovered = recover_gender(vectors, train, test, stereotypes)
        task = probe(vectors, tagged[0], tagged[1][:PROBE_SENTENCES], words=PROBE_WORDS, seeds=(0,))
        for layer, found in recovered.items():
            measured = {**found._asdict(), "part_of_speech": task[layer].task}
            for name, estimate in measured.items():
                row = {"source": source.name, "method": method, "test": name, "layer": layer}
                yield row | _values(estimate)


def _without_softmax(study: BiasStudy) -> Iterator[Row]:
    if not study.language_models:
        reason = "the checkpoint has no softmax, so it gives words no probabilities"
        yield {"source": study.sources[0].name, "not_measured": reason}


def _values(estimate: Estimate) -> Row:
    found = dataclasses.asdict(estimate)
    return {name: found[name] for name in ("value", "low", "high", "n", "floor")}


def _reason(error: LostWordsError) -> Row:
    return {"not_measured": error.reason, "lost": [*error.lost]}


def _read_tagged(data: Path, part: str) -> list[Labelled]:
    file = bias_data.find_file(data, f"ud_en_ewt/en_ewt-ud-{part}.conllu")
    return [Labelled(words, tags) for words, tags in bias_data.read_parts_of_speech(file)]


def _read_words(file: str | os.PathLike, tokenizer: ElmoTokenizer) -> Iterator[list[str]]:
    texts = [text for text in read_sentences(file) if text]
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        encoding = tokenizer(batch, add_special_tokens=False)
        yield from (encoding.tokens(i) for i in range(len(batch)))


def _load_static(file: Path) -> Any:
    vectors = require("gensim.models", "gensim").KeyedVectors
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected word vectors saved by gensim")
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    try:
        if suffix in (".txt", ".vec", ".bin"):
            return vectors.load_word2vec_format(str(file), binary=suffix == ".bin")
        return vectors.load(str(file))
    except (ValueError, UnpicklingError, EOFError, AttributeError) as error:
        raise ValueError(
            f"{file} holds no word vectors that gensim can read ({error}); expected word2vec's "
            "text (.txt, .vec) or binary (.bin) format, or what KeyedVectors.save wrote"
        ) from error


MEASURES: dict[str, Callable[[BiasStudy], Iterator[Row]]] = {
    "weat": _weat,
    "occupations": _occupations,
    "winogender": _winogender,
    "winobias": _winobias,
    "crows_pairs": _crows_pairs,
    "holistic_bias": _holistic_bias,
    "mitigation": _mitigation,
}
# A file of each data set that a measure reads, to find out at once that one is missing.
NEEDED = {
    "weat": ["sent_bias/tests/weat6.jsonl"],
    "occupations": ["winogender/occupations-stats.tsv"],
    "winogender": ["winogender/all_sentences.tsv", "winogender/occupations-stats.tsv"],
    "winobias": ["winobias/data/pro_stereotyped_type1.txt.dev"],
    "crows_pairs": ["crows_pairs/crows_pairs_anonymized.csv"],
    "holistic_bias": ["holistic_bias/descriptors.json"],
    "mitigation": ["winobias/generalized_swaps.txt", "ud_en_ewt/en_ewt-ud-train.conllu"],
}

__all__ = ["MEASURES", "BiasStudy", "count_pronouns"]
