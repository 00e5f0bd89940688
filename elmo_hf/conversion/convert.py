"""Convert original ELMo weights to a Hub folder, verified; or a folder back to original files."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from tqdm import tqdm

from .. import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoModel,
    ElmoPreTrainedModel,
    ElmoTokenizer,
    __version__,
)
from ..extras import require
from . import tfhub, verification
from .alignment import find_alignments, save_alignments
from .allennlp import open_allennlp, write_allennlp
from .bilm_checkpoint import is_checkpoint, is_part, open_checkpoint
from .bilm_hdf5 import WeightsError, dump_arrays, load_arrays, original_forget_biases
from .bilm_options import config_from_options, options_from_config
from .manylangs import is_manylangs, open_manylangs
from .sources import Original, is_vectors, new_folder, open_source
from .torch_files import is_torch_file, same_bits

FORGET_BIASES = "original_forget_biases.safetensors"
RECORD = "conversion.json"

bar = partial(tqdm, desc="Reading weights", unit="dataset", delay=1)


def convert(
    source: Path | None,
    output: Path,
    options: Path | None = None,
    weights: Path | None = None,
    vocab: Path | None = None,
    prefix: str | None = None,
    alignments: Mapping[int, Path] | None = None,
) -> dict[str, Any]:
    """
    Convert original weights and their options.json to a folder for `from_pretrained`, verified.

    The weights are bilm-tf's (an HDF5 file or a TensorFlow checkpoint), a TensorFlow Hub module's,
    AllenNLP's (a state dict) or ELMoForManyLangs' (its folder).

    Args:
        source: folder or archive that holds the files, or a state dict; None where they are named.
        output: folder to write; it appears complete or not at all.
        options, weights, vocab: files that are named instead of looked for in `source`.
        prefix: which ELMo of an AllenNLP model that has several.
        alignments: matrices of a cross-lingual alignment, by layer, beside those in `source`.

    Returns:
        What is stored as conversion.json: source files with their sha256, notes, the largest
        difference of every layer, and the sha256 of every file that was verified.

    Raises:
        WeightsError: the files are damaged, unclear or contradictory, or the result differs.
    """
    with open_source(source, options, weights, vocab) as original, new_folder(output) as folder:
        if is_torch_file(original.weights):
            record = convert_tensors(original, folder, prefix)
        else:
            record = convert_arrays(original, folder)
        config = ElmoConfig.from_pretrained(folder)
        layers = {**find_alignments(original.files), **(alignments or {})}
        size = (config.num_hidden_layers + 1, config.hidden_size)
        record["notes"] += save_alignments(folder, layers, *size)
        record["files"] = {p.name: describe(p)["sha256"] for p in sorted(folder.iterdir())}
        record["versions"] = versions()
        write_json(folder / RECORD, record)
    return record


def convert_arrays(original: Original, folder: Path) -> dict[str, Any]:
    """Convert weights that have the names of the HDF5 format; return the record."""
    with open_weights(original.weights) as opened:
        arrays, notes, described = opened.arrays, [*original.notes, *opened.notes], {}
        if original.options is None:
            original_options, more_notes = tfhub.infer_options(arrays)
            notes += more_notes
        else:
            original_options, described = original.read_options(), describe(original.options)
        config, more_notes = config_from_options(original_options, arrays)
        notes += more_notes
        state_dict, more_notes = load_arrays(config, arrays, progress=bar)
        notes += more_notes
        notes += save_tokenizer(config, original, folder)
        save_model(config, state_dict, folder)
        del state_dict  # the verification needs the room
        forget_biases = original_forget_biases(config, arrays)
        safetensors.torch.save_file(forget_biases, folder / FORGET_BIASES)
        return {
            "source": {
                "format": opened.format,
                "weights": describe(original.weights),
                "data": [describe(path) for path in opened.data_files],
                "options": described | {"content": original_options},
            },
            "notes": notes,
            "verification": verification.report(
                verification.verify(original_options, arrays, folder)
            ),
            **opened.extra,
        }


def convert_tensors(original: Original, folder: Path, prefix: str | None) -> dict[str, Any]:
    """Convert a PyTorch program's weights; return the record."""
    if is_manylangs(original.weights):
        model = open_manylangs(original)
    else:
        model = open_allennlp(original, prefix)
    model.tokenizer.save_pretrained(folder)
    save_model(model.config, model.state_dict, folder)
    model.state_dict.clear()  # the verification needs the room
    record = {
        "source": {
            "format": model.format,
            "weights": describe(original.weights),
            "data": [describe(path) for path in model.data_files],
            **model.source,
        },
        "notes": [*original.notes, *model.notes],
        **model.extra,
    }
    expected = model.expected(verification.SENTENCES)
    del model  # and so does the reloaded one
    record["verification"] = verification.report(verification.compare(expected, folder))
    return record


def convert_back(source: Path, output: Path) -> None:
    """
    Write a model as weights.hdf5 and options.json, which convert back to it bit for bit.

    Args:
        source: a folder or repository name for `from_pretrained`.
        output: folder to write; it appears complete or not at all.

    Raises:
        WeightsError: the format cannot hold the model, or the files written do not give it back.
    """
    h5py = require("h5py", "convert")
    config = ElmoConfig.from_pretrained(source)
    options = options_from_config(config)
    state_dict = full_state_dict(model_class(config).from_pretrained(source, dtype=torch.float32))
    biases = Path(source) / FORGET_BIASES
    forget_biases = safetensors.torch.load_file(biases) if biases.exists() else None
    with new_folder(output) as folder:
        write_json(folder / "options.json", options)
        with h5py.File(folder / "weights.hdf5", "w") as file:
            for name, array, attributes in dump_arrays(config, state_dict, forget_biases):
                file[name] = array
                file[name].attrs.update(attributes)
        vocab = Path(source) / "vocab.txt"
        if vocab.exists():
            shutil.copyfile(vocab, folder / "vocab.txt")
        with open_hdf5(folder / "weights.hdf5") as arrays:
            restored, _ = load_arrays(config_from_options(options, arrays)[0], arrays)
        differing = [name for name in state_dict if not same_bits(state_dict[name], restored[name])]
        if differing:
            raise WeightsError(f"the files written do not give {differing[0]} back bit for bit")


def convert_to_allennlp(source: Path, output: Path) -> None:
    """
    Write a model as a state dict for AllenNLP, which converts back bit for bit.

    Args:
        source: a converted folder; the prefix and the scalar mixes it was read with come back.
        output: file to write; it appears complete or not at all.

    Raises:
        WeightsError: AllenNLP cannot describe the model, or the file exists.
    """
    config = ElmoConfig.from_pretrained(source)
    model = model_class(config).from_pretrained(source, dtype=torch.float32)
    write_allennlp(source, output, full_state_dict(model))


@dataclass
class OpenWeights:
    """Weights under the names of the HDF5 format, whatever they come from."""

    format: str
    arrays: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    data_files: list[Path] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@contextmanager
def open_weights(path: Path) -> Iterator[OpenWeights]:
    """Open original weights, of whichever format they are; WeightsError unless they are sound."""
    if tfhub.is_module(path):
        arrays, notes, data_files, mixes = tfhub.open_module(path)
        extra = {"scalar_mixes": mixes}
        yield OpenWeights(tfhub.FORMAT, arrays, notes, data_files, extra)
    elif is_checkpoint(path):
        yield OpenWeights("bilm-tf TensorFlow checkpoint", *open_checkpoint(path))
    elif is_part(path.name):
        raise WeightsError(f"{path.name} is a part of a TensorFlow checkpoint; name its .index")
    else:
        with open_hdf5(path) as datasets:
            check_model(path, datasets)
            yield OpenWeights("bilm-tf HDF5", datasets)


def check_model(path: Path, arrays: Mapping[str, Any]) -> None:
    """Refuse a file of vectors that a model made, saying what it is."""
    if not is_vectors(path):
        return
    if "embedding" in arrays:
        raise WeightsError(
            f"{path.name} is a dump of word vectors (bilm-tf's dump_token_embeddings), one of "
            f"shape {tuple(arrays['embedding'].shape)}, without the LSTMs that read them: not the "
            "weights of a model. Give the file that dump_weights wrote, which spells words itself"
        )
    raise WeightsError(
        f"{path.name} holds the vectors of {len(arrays)} sentences (what a program that embeds a "
        "corpus writes), not the weights of a model; give the weights that made them"
    )


@contextmanager
def open_hdf5(path: Path) -> Iterator[dict[str, Any]]:
    """Give a file's datasets by their full names; WeightsError unless it is sound and safe."""
    h5py = require("h5py", "convert")
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path.name} is no complete HDF5 file: {error}") from error
    with file:
        yield find_datasets(path, file)


def find_datasets(path: Path, file: Any) -> dict[str, Any]:
    """The datasets of an open file by their full names, each checked."""
    arrays: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            check_storage(path, name, item)
            arrays[name] = item

    try:
        file.visititems(visit)
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path.name} is a damaged HDF5 file: {error}") from error
    return arrays


def check_storage(path: Path, name: str, dataset: Any) -> None:
    """Refuse data that stand in other files, or that the file only claims to hold."""
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"{path.name}: dataset {name} points to another file: refused")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > 1000 * stored:
        raise WeightsError(
            f"{path.name}: dataset {name} claims {dataset.nbytes} bytes but {stored} are stored"
        )


def save_model(config: ElmoConfig, state_dict: dict[str, torch.Tensor], folder: Path) -> None:
    """Save the weights as safetensors, with the configuration and the code, without a copy."""
    with torch.device("meta"):
        model = model_class(config)(config)
    prefix = "" if config.lm_vocab_size else "elmo."
    model.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}, assign=True
    )
    model.save_pretrained(folder)


def save_tokenizer(config: ElmoConfig, original: Original, folder: Path) -> list[str]:
    """Save the tokenizer, with the word vocabulary where the model has words; return notes."""
    rows = config.lm_vocab_size or max(0, config.word_vocab_size - 1)
    notes = []
    vocab = str(original.vocab) if rows and original.vocab else None
    if vocab is not None:
        check_vocabulary(Path(vocab), rows)
    elif config.word_vocab_size:
        raise WeightsError(
            "this model takes words from a table and needs its vocabulary, one word a line; "
            "name it with --vocab FILE"
        )
    elif rows:
        notes.append("no vocabulary found: the softmax's words have no names; give --vocab FILE")
    elif original.vocab is not None:
        notes.append(f"{original.vocab.name} is left out: these weights hold no softmax")
    if config.uses_characters:
        tokenizer = ElmoTokenizer(
            max_characters_per_token=config.max_characters_per_token, lm_vocab_file=vocab
        )
    else:
        tokenizer = ElmoTokenizer(use_characters=False, use_word_ids=True, lm_vocab_file=vocab)
    tokenizer.save_pretrained(folder)
    return notes


def check_vocabulary(path: Path, rows: int) -> None:
    """Raise WeightsError unless the file is a vocabulary with one word for each row."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = sum(1 for _ in file)
        ElmoTokenizer(lm_vocab_file=str(path))
    except ValueError as error:
        raise WeightsError(f"{path.name} is no vocabulary: {error}") from error
    if lines != rows:
        raise WeightsError(f"{path.name} has {lines} words, but the weights have {rows} rows")


def model_class(config: ElmoConfig) -> type[ElmoPreTrainedModel]:
    """The class that holds everything a configuration describes."""
    return ElmoForPreTraining if config.lm_vocab_size else ElmoModel


def full_state_dict(model: ElmoPreTrainedModel) -> dict[str, torch.Tensor]:
    """A model's weights under the names of `ElmoForPreTraining`."""
    prefix = "" if isinstance(model, ElmoForPreTraining) else "elmo."
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def describe(path: Path) -> dict[str, str]:
    """A source file's name and sha256."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"file": path.name, "sha256": digest.hexdigest()}


def versions() -> dict[str, str]:
    """Versions of what made a conversion."""
    return {
        "elmo_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
