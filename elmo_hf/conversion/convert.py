"""Converts original ELMo weights to a verified folder, or a folder back to original files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError

from .. import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoModel,
    ElmoPreTrainedModel,
    ElmoTokenizer,
    __version__,
)
from ..loading import find_source
from . import verification
from .alignment import find_alignments, save_alignments
from .allennlp import write_allennlp
from .bilm_hdf5 import write_original
from .formats import recognise
from .originals import OpenModel, describe
from .outputs import new_folder
from .records import write_record
from .sources import ALIGNMENT, open_source
from .tables import WeightsError, one_line

FORGET_BIASES = "original_forget_biases.safetensors"


def convert(
    source: Path | None,
    output: Path,
    options: Path | None = None,
    weights: Path | None = None,
    vocab: Path | None = None,
    prefix: str | None = None,
    alignments: Mapping[int, Path] | None = None,
    word_splitter: str | None = None,
) -> dict[str, Any]:
    """
    Convert original weights to a folder for `from_pretrained`, and verify it.

    Supported are HDF5 files and TensorFlow checkpoints of bilm-tf, TensorFlow Hub modules, state
    dicts of AllenNLP and folders of ELMoForManyLangs; see `formats.FORMATS`.

    Args:
        source: folder or archive with the files, or a state dict; None if `weights` is set.
        output: folder to write; on failure it is not created.
        options, weights, vocab: files to use instead of those in `source`.
        prefix: name prefix of one ELMo, if an AllenNLP model has several.
        alignments: matrices of a cross-lingual alignment, by layer, added to those in `source`.
        word_splitter: rules that split raw text into words, as in `ElmoTokenizer`; default: those
            in options.json (written by `convert_back`), else those of most models of the format.

    Returns:
        The content of conversion.json: source files with their sha256, notes, the largest
        difference in every layer, and the sha256 of every verified file.

    Raises:
        WeightsError: the files are damaged, ambiguous or contradictory, the result differs from
            the original, or the folder cannot be written.
        MissingExtraError: a package that reads this format is not installed.
    """
    with (
        new_folder(output) as folder,
        open_source(source, options, weights, vocab, prefix) as files,
    ):
        format, original, notes = recognise(files)
        model = format.open_original(original)
        set_splitter(model.tokenizer, word_splitter or model.word_splitter or format.WORD_SPLITTER)
        save(model, folder)
        model.state_dict.clear()  # the verification needs the memory
        expected = model.expected(verification.SENTENCES)
        layers = {**find_alignments(files.of_kind(ALIGNMENT)), **(alignments or {})}
        size = (model.config.num_hidden_layers + 1, model.config.hidden_size)
        record = {
            "source": {
                "format": format.FORMAT,
                "weights": describe(original.weights),
                "data": [describe(path) for path in model.data_files],
                **model.source,
            },
            "word_splitter": model.tokenizer.word_splitter,
            "notes": notes + model.notes + save_alignments(folder, layers, *size),
            **model.extra,
        }
        del model  # the verification loads the folder again
        record["verification"] = verification.report(verification.compare(expected, folder))
        record["files"] = {p.name: describe(p)["sha256"] for p in sorted(folder.iterdir())}
        record["versions"] = {
            "elmo_hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        return write_record(folder, record)


def set_splitter(tokenizer: ElmoTokenizer, name: str) -> None:
    """Set a tokenizer's word splitter; WeightsError if there is none of this name."""
    try:
        tokenizer.word_splitter = name
    except (TypeError, ValueError) as error:
        raise WeightsError(str(error)) from error


def save(model: OpenModel, folder: Path) -> None:
    """Write a folder for `from_pretrained`: tokenizer, configuration, weights and code."""
    model.tokenizer.save_pretrained(folder)
    with torch.device("meta"):
        ours = model_class(model.config)(model.config)
    prefix = "" if model.config.lm_vocab_size else "elmo."
    renamed = {name.removeprefix(prefix): tensor for name, tensor in model.state_dict.items()}
    ours.load_state_dict(renamed, assign=True)  # does not copy the tensors
    ours.save_pretrained(folder)
    if model.forget_biases:
        safetensors.torch.save_file(model.forget_biases, folder / FORGET_BIASES)


def convert_back(source: Path, output: Path) -> None:
    """
    Write a model as weights.hdf5 and options.json; `convert` restores it from them bit for bit.

    Args:
        source: a folder or repository name for `from_pretrained`.
        output: folder to write; on failure it is not created.

    Raises:
        WeightsError: the source is not a complete model, the format cannot represent the model, or
            the written files do not restore it.
    """
    with new_folder(output) as folder:
        source = local_folder(source)
        config, state_dict = load_folder(source)
        biases, vocab = Path(source) / FORGET_BIASES, Path(source) / "vocab.txt"
        try:
            forget_biases = safetensors.torch.load_file(biases) if biases.exists() else {}
        except SafetensorError as error:
            raise WeightsError(f"{biases} is damaged: {error}; convert the model again") from error
        tokenizer = load_tokenizer(source)
        splitter = tokenizer.word_splitter if tokenizer else None
        is_used = config.lm_vocab_size or config.word_vocab_size
        vocab_file = vocab if vocab.exists() and is_used else None
        write_original(folder, config, state_dict, forget_biases, vocab_file, splitter)


def convert_to_allennlp(source: Path, output: Path) -> None:
    """
    Write a model as a state dict for AllenNLP; `convert` restores it from that bit for bit.

    Args:
        source: a converted folder; its conversion.json keeps the original prefix and scalar mixes.
        output: file to write; on failure it is not created.

    Raises:
        WeightsError: the source is not a complete model, AllenNLP cannot represent the model, or
            the file exists.
    """
    source = local_folder(source)
    write_allennlp(source, output, *load_folder(source, softmax=False))


def local_folder(source: Path) -> Path:
    """Return the folder, or the local copy of the Hub repository, that the user named."""
    try:
        found = find_source(source)
        return Path(found.name) if found.is_folder else found.pin().folder()
    except (FileNotFoundError, ValueError) as error:
        raise WeightsError(str(error)) from error


def load_folder(source: Path, softmax: bool = True) -> tuple[ElmoConfig, dict[str, torch.Tensor]]:
    """
    Load a model's configuration and its weights under the names of `ElmoForPreTraining`.

    A folder of an `ElmoModel` or of a head has no softmax, whatever its configuration says; with
    `softmax=False` none is loaded. The configuration that is returned has one only if it is loaded.

    Raises:
        WeightsError: the folder is not an ELMo model, or its files are damaged or incomplete.
            transformers itself only warns about missing weights, and initializes them randomly.
    """
    try:
        # Without this check, a folder without config.json would load the default configuration.
        kind = ElmoConfig.get_config_dict(source)[0].get("model_type")
        if kind != ElmoConfig.model_type:
            raise ValueError(f"its config.json is missing or has model_type {kind!r}, not 'elmo'")
        config = ElmoConfig.from_pretrained(source)
        if not (softmax and _has_softmax(source, config)):
            config.lm_vocab_size = 0
        made = model_class(config)
        model, info = made.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise many types for damaged files
        raise WeightsError(
            f"{source} cannot be opened as an ELMo model: {one_line(error)[:300]}; pass a folder "
            "that convert or save_pretrained has written"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(
            f"{source} is not a complete ELMo model: {missing[0]} is missing (and "
            f"{len(missing) - 1} more); convert or save the model again"
        )
    prefix = "" if made is ElmoForPreTraining else "elmo."
    return config, {prefix + name: tensor for name, tensor in model.state_dict().items()}


def _has_softmax(source: Path, config: ElmoConfig) -> bool:
    """Whether the folder should hold a softmax; other models than language models may have none."""
    if "ElmoForPreTraining" in (config.architectures or []):
        return bool(config.lm_vocab_size)
    files = [*Path(source).glob("model*.safetensors")]
    headers = (safetensors.safe_open(file, "pt").keys() for file in files)
    return any(name.startswith("lm_head.") for names in headers for name in names)


def load_tokenizer(source: Path) -> ElmoTokenizer | None:
    """Load the tokenizer of a folder; None if it has none, WeightsError if it is damaged."""
    if not (Path(source) / "tokenizer_config.json").exists():
        return None
    try:
        return ElmoTokenizer.from_pretrained(source)
    except Exception as error:  # tokenizers raises plain exceptions
        raise WeightsError(f"the tokenizer of {source} is damaged: {one_line(error)}") from error


def model_class(config: ElmoConfig) -> type[ElmoPreTrainedModel]:
    """Return the model class with all weights that this configuration describes."""
    return ElmoForPreTraining if config.lm_vocab_size else ElmoModel
