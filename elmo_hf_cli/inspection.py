# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The commands info, words and similar, which show what a model and its vectors are."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .failures import CommandError, check_exists, check_model, one_line_errors
from .texts import Input, Model, check_text, hide_loading, numbered_sentences, words_of

if TYPE_CHECKING:
    import numpy as np

    from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoTokenizer

RUN_FILE = "pretraining.json"  # as in elmo_hf.pretraining.runs, whose packages may be missing
WORDS_AT_ONCE = 20  # words per sentence; layer 0 does not depend on the other words


def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model folder, or a name on the Hub.")
    ],
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Show how well the model covers the words of this file."),
    ] = None,
    input: Input = "text",
) -> None:
    """Show the size, origin and licence of a model.

    With --text: which share of the words and of the different words of a file is in the vocabulary
    of the language model, has only characters that occur in the vocabulary, and is read whole.

    \b
    Examples:
      elmo-hf info checkpoints/elmo-small-en
      elmo-hf info checkpoints/elmo-small-en --text text.txt
    """
    check_model(model)
    check_text(text)
    from elmo_hf import ElmoTokenizer
    from elmo_hf.loading import find_source

    with one_line_errors(ValueError):
        source = find_source(model)
        config, folder = source.config(), source.folder()
        tokenizer = ElmoTokenizer.from_pretrained(folder)
        facts = {
            "model": f"{model}, {', '.join(config.architectures or ['ElmoModel'])}",
            **_describe_config(config),
            **_describe_weights(folder),
            "splitter": tokenizer.word_splitter or "own rules, in tokenizer.json",
            "vocabulary": f"{tokenizer.lm_vocab_size:,} words"
            if tokenizer.lm_vocab_size
            else "none",
            **_describe_origin(folder),
        }
        if text is not None:
            facts |= _describe_cover(tokenizer, text, input)
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:{width}}  {fact}")


def words(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model folder, or a name on the Hub.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The new file or folder to write.")],
    listed: Annotated[
        Path | None,
        typer.Option(
            "--words",
            metavar="FILE",
            help="The words, one per line; default: the vocabulary of the language model.",
        ),
    ] = None,
    to: Annotated[
        Literal["text", "keyedvectors", "static"],
        typer.Option(
            metavar="FORMAT",
            help="text: the text format of word2vec; keyedvectors: a file for gensim; static: a "
            "folder for sentence-transformers and model2vec.",
        ),
    ] = "text",
) -> None:
    """Write context-free vectors of words.

    They are those of layer 0, which is computed from the characters of a word alone, so any word
    has one. Like all layers, layer 0 has a forward and a backward half; there, they are equal.

    \b
    Examples:
      elmo-hf words checkpoints/elmo-small-en vectors.txt
      elmo-hf words checkpoints/elmo-small-en vectors.txt --words words.txt
      elmo-hf words checkpoints/elmo-small-en vectors.kv --words words.txt --to keyedvectors
    """
    check_model(model)
    check_exists(listed)
    if output.exists():
        raise CommandError(f"{output} exists already; name a new file, or remove it first")
    from elmo_hf import ElmoEmbedder
    from elmo_hf.text_files import read_lines

    hide_loading()
    with one_line_errors(ValueError, RuntimeError):
        embedder = ElmoEmbedder(model, layers=0)
        if listed is not None:
            chosen = [*dict.fromkeys(line for line in read_lines(listed) if line)]
        else:
            chosen = embedder.tokenizer.lm_vocab or []
        if not chosen:
            what = listed or f"{model} has no vocabulary, and --words"
            raise CommandError(f"{what} names no words")
        if to == "text":
            groups = (chosen[i : i + WORDS_AT_ONCE] for i in range(0, len(chosen), WORDS_AT_ONCE))
            rows = (row for group in embedder.embed(groups) for row in group)
            _write_text(output, chosen, rows, embedder.dimension)
        elif to == "keyedvectors":
            _write_keyed_vectors(output, embedder, chosen)
        else:
            from elmo_hf.integrations.static import to_static

            to_static(embedder, chosen, output)
    print(f"wrote {output}: {len(chosen):,} words, {embedder.dimension} numbers each")


def similar(
    word: Annotated[str, typer.Argument(metavar="WORD", help="A word of the sentence.")],
    sentence: Annotated[
        str, typer.Option(metavar="SENTENCE", help="The sentence in which WORD stands.")
    ],
    text: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to search; - for the standard input.")
    ],
    model: Model,
    input: Input = "text",
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Number of words to show.")] = 10,
    layers: Annotated[
        str, typer.Option(metavar="LAYERS", help="average, top, mix, or the number of a layer.")
    ] = "average",
    same_word: Annotated[
        bool, typer.Option("--same-word", help="Search other places of WORD only.")
    ] = False,
) -> None:
    """Find similar words in a file, in context.

    WORD, in its sentence, is compared with each word of the file, in its own sentence, by the
    cosine of their vectors. The last row is the mean cosine of all words that were compared. The
    file may be of any size.

    \b
    Examples:
      elmo-hf similar bank --sentence "The bank lent." --text text.txt -m checkpoints/elmo-small-en
      elmo-hf similar ran --sentence "It ran." --text text.txt --top 3 -m checkpoints/elmo-small-en
    """
    check_model(model)
    check_text(text)
    from elmo_hf import ElmoEmbedder
    from elmo_hf.analysis.neighbors import Nearest

    hide_loading()
    with one_line_errors(ValueError, RuntimeError):
        embedder = ElmoEmbedder(model, layers=_one_layer(layers))
        tokenizer = embedder.tokenizer
        places = [i for i, other in enumerate(words_of(tokenizer, sentence)) if other == word]
        if not places:
            split = " ".join(words_of(tokenizer, sentence))
            raise CommandError(f"{word!r} is not a word of the sentence: {split}")
        if len(places) > 1:
            print(f"note: {word!r} stands {len(places)} times; the first is taken", file=sys.stderr)
        query = next(embedder.embed([sentence]))[places[0]]
        given, shown = tee(numbered_sentences(text, input))
        vectors = embedder.embed(one for _, one in given)
        sentences = ((number, words_of(tokenizer, one)) for number, one in shown)
        nearest = Nearest(query, top, word if same_word else None)
        for (number, others), rows in zip(sentences, vectors, strict=True):
            nearest.add(number, others, rows)
    if not nearest.compared:
        raise CommandError(f"the file has no other place of {word!r}; omit --same-word")
    for cosine, number, (others, position) in nearest.neighbors:
        marked = [f"[{other}]" if i == position else other for i, other in enumerate(others)]
        print(f"{cosine:.3f}  {number}: {' '.join(marked)}")
    print(f"{nearest.mean:.3f}  mean of {nearest.compared:,} words")


def _one_layer(name: str) -> Any:
    if name == "all":
        raise CommandError("--layers is all; pass average, top, mix or the number of a layer", 2)
    return int(name) if re.fullmatch("-?[0-9]+", name) else name


def _write_text(
    path: Path, words: Sequence[str], rows: "Iterable[np.ndarray]", dimension: int
) -> None:
    """Write the text format of word2vec; on failure no file stays."""
    for word in words:
        if len(word.split()) != 1:
            raise CommandError(f"the word {word!r} has white space, which this format cannot hold")
    numbers = " ".join(["%.6g"] * dimension)
    with _whole(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(f"{len(words)} {dimension}\n")
        for word, row in zip(words, rows, strict=True):
            file.write(f"{word} {numbers % (*row.tolist(),)}\n")


def _write_keyed_vectors(path: Path, embedder: "ElmoEmbedder", words: Sequence[str]) -> None:
    from elmo_hf.integrations.static import to_keyed_vectors

    keyed = to_keyed_vectors(embedder, words)
    with _whole(path) as part:
        keyed.save(str(part), sep_limit=sys.maxsize)  # no second file for the vectors


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield the path of a file that becomes `path` if the block ends without an error."""
    part = path.with_name(f"{path.name}.part")
    if not path.parent.is_dir():
        raise CommandError(f"there is no folder {path.parent} for {path.name}; make it first")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _describe_config(config: "ElmoConfig") -> dict[str, str]:
    parts = []
    if config.uses_characters:
        widths = ", ".join(str(width) for width, _ in config.filters)
        parts.append(
            f"characters ({config.max_characters_per_token} symbols per word, {config.num_filters} "
            f"filters of widths {widths})"
        )
    if config.word_vocab_size:
        parts.append(f"words (table of {config.word_vocab_size:,})")
    above = ", then the output embeddings of words" if config.output_embedding_layer else ""
    kind = "biLSTM" if config.bidirectional else "forward LSTM"
    return {
        "reads": " and ".join(parts),
        "layers": f"{config.num_hidden_states}: layer 0 without context, then "
        f"{config.num_hidden_layers} {kind} layers (cell {config.cell_dim}, projection "
        f"{config.projection_dim}){above}",
        "vectors": f"{config.hidden_size} wide",
    }


def _describe_weights(folder: Path) -> dict[str, str]:
    """Count the parameters in the headers of the safetensors files."""
    from safetensors import safe_open

    from elmo_hf.loading import damage_explained

    files, sizes, dtypes = sorted(folder.glob("*.safetensors")), Counter[str](), Counter[str]()
    for file in files:
        with damage_explained(folder), safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dict)
                tensor = tensors.get_slice(name)
                count = 1
                for size in tensor.get_shape():
                    count *= size
                sizes[name.partition(".")[0]] += count
                dtypes[tensor.get_dtype()] += count
    if not files:
        return {"weights": "no safetensors file"}
    named = {"elmo": "biLM", "lm_head": "softmax of the language model"}
    parts = [f"{count:,} in {named.get(name, name)}" for name, count in sizes.most_common()]
    size = sum(file.stat().st_size for file in files)
    return {
        "parameters": f"{sum(sizes.values()):,}: {', '.join(parts)}",
        "weights": f"{' and '.join(dtypes)} on disk, {size / 1e6:,.1f} MB",
    }


def _describe_origin(folder: Path) -> dict[str, str]:
    """Read conversion.json, pretraining.json and the model card, if they are there."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    from elmo_hf.conversion.records import RECORD, read_record
    from elmo_hf.conversion.tables import WeightsError

    facts = {}
    if (folder / RECORD).is_file():
        try:
            record = read_record(folder)
            largest = max(one["largest"] for one in record["verification"]["differences"])
            facts["converted"] = (
                f"from {record['source']['format']}; {largest:.1e} from the original"
            )
        except WeightsError as error:
            facts["converted"] = str(error)
    if (folder / RUN_FILE).is_file():
        facts["trained"] = f"by elmo_hf; the settings are in {folder / RUN_FILE}"
    card = folder / "README.md"
    try:
        metadata = (metadata_load(card) if card.is_file() else None) or {}
    except YAMLError:
        metadata = {"license": f"unknown, {card} begins with invalid YAML"}
    for key, name in (("license", "licence"), ("language", "language")):
        if value := metadata.get(key):
            facts[name] = ", ".join(value) if isinstance(value, list) else str(value)
    return facts


def _describe_cover(tokenizer: "ElmoTokenizer", path: Path, input: str) -> dict[str, str]:
    """Count which words of a file the vocabulary and the spelling cover."""
    counts: Counter[str] = Counter()
    for _, sentence in numbered_sentences(path, input):
        counts.update(words_of(tokenizer, sentence))
    facts = {"text": f"{counts.total():,} words, {len(counts):,} different ones, in {path}"}
    vocabulary = set(tokenizer.lm_vocab or [])
    if vocabulary:
        seen = set().union(*vocabulary)
        facts["in vocabulary"] = _share(counts, [w for w in counts if w in vocabulary])
        facts["familiar characters"] = _share(counts, [w for w in counts if seen.issuperset(w)])
        strange = Counter[str]()
        for word, count in counts.items():
            strange.update(dict.fromkeys(set(word) - seen, count))
        if strange:
            facts["familiar characters"] += "; most frequent others: " + " ".join(
                character for character, _ in strange.most_common(10)
            )
    if tokenizer.use_characters:
        whole = [word for word, read in _read_back(tokenizer, list(counts)) if word == read]
        facts["read whole"] = _share(counts, whole)
    return facts


def _read_back(tokenizer: "ElmoTokenizer", words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each word, and what is left of it in the ids that the model reads."""
    rest = iter(words)
    while some := list(islice(rest, WORDS_AT_ONCE)):
        yield from zip(
            some, tokenizer.convert_ids_to_tokens(tokenizer.words_to_ids(some)), strict=True
        )


def _share(counts: Counter[str], words: Iterable[str]) -> str:
    words = list(words)
    running = sum(counts[word] for word in words)
    return (
        f"{running / counts.total():.2%} of words, {len(words) / len(counts):.2%} of different ones"
    )


__all__ = ["info", "similar", "words"]
