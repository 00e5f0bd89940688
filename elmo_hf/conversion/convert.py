"""Convert original ELMo weights to a Hub folder, verified; or a folder back to original files."""

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
) -> dict[str, Any]:
    """
    Convert original weights to a folder for `from_pretrained`, and verify it.

    The weights are bilm-tf's (an HDF5 file or a TensorFlow checkpoint), a TensorFlow Hub module's,
    AllenNLP's (a state dict) or ELMoForManyLangs' (its folder); `formats.FORMATS` lists them.

    Args:
        source: folder or archive that holds the files, or a state dict; None where they are named.
        output: folder to write; it appears complete or not at all.
        options, weights, vocab: files that are named instead of looked for in `source`.
        prefix: which ELMo of an AllenNLP model that has several.
        alignments: matrices of a cross-lingual alignment, by layer, beside those in `source`.

    Returns:
        The content of conversion.json: source files with their sha256, notes, the largest
        difference of every layer, and the sha256 of every file that was verified.

    Raises:
        WeightsError: the files are damaged, unclear or contradictory, the result differs from the
            original, or the folder cannot be written.
        MissingExtraError: a package that reads this format is not installed.
    """
    with (
        new_folder(output) as folder,
        open_source(source, options, weights, vocab, prefix) as files,
    ):
        format, original, notes = recognise(files)
        model = format.open_original(original)
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
        del model  # so does the reloaded one
        record["verification"] = verification.report(verification.compare(expected, folder))
        record["files"] = {p.name: describe(p)["sha256"] for p in sorted(folder.iterdir())}
        record["versions"] = {
            "elmo_hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        return write_record(folder, record)


def save(model: OpenModel, folder: Path) -> None:
    """Write a model for `from_pretrained`: tokenizer, configuration, weights and code."""
    model.tokenizer.save_pretrained(folder)
    with torch.device("meta"):
        ours = model_class(model.config)(model.config)
    prefix = "" if model.config.lm_vocab_size else "elmo."
    renamed = {name.removeprefix(prefix): tensor for name, tensor in model.state_dict.items()}
    ours.load_state_dict(renamed, assign=True)  # without a copy
    ours.save_pretrained(folder)
    if model.forget_biases:
        safetensors.torch.save_file(model.forget_biases, folder / FORGET_BIASES)


def convert_back(source: Path, output: Path) -> None:
    """
    Write a model as weights.hdf5 and options.json, which convert back to it bit for bit.

    Args:
        source: a folder or repository name for `from_pretrained`.
        output: folder to write; it appears complete or not at all.

    Raises:
        WeightsError: the source is no complete model, the format cannot hold the model, or the
            files written do not give it back.
    """
    with new_folder(output) as folder:
        config, state_dict = load_folder(source)
        biases, vocab = Path(source) / FORGET_BIASES, Path(source) / "vocab.txt"
        try:
            forget_biases = safetensors.torch.load_file(biases) if biases.exists() else {}
        except SafetensorError as error:
            raise WeightsError(f"{biases} is damaged: {error}; convert the model again") from error
        tokenizer = load_tokenizer(source)
        splitter = tokenizer.word_splitter if tokenizer else None
        vocab_file = vocab if vocab.exists() else None
        write_original(folder, config, state_dict, forget_biases, vocab_file, splitter)


def convert_to_allennlp(source: Path, output: Path) -> None:
    """
    Write a model as a state dict for AllenNLP, which converts back bit for bit.

    Args:
        source: a converted folder; the prefix and the scalar mixes it was read with come back.
        output: file to write; it appears complete or not at all.

    Raises:
        WeightsError: the source is no complete model, AllenNLP cannot describe the model, or the
            file exists.
    """
    write_allennlp(source, output, *load_folder(source))


def load_folder(source: Path) -> tuple[ElmoConfig, dict[str, torch.Tensor]]:
    """
    Load a model's configuration and its weights under the names of `ElmoForPreTraining`.

    Raises:
        WeightsError: the folder is no ELMo model, or its files are damaged or incomplete.
            transformers only warns of missing weights, and fills them with random numbers.
    """
    try:
        # Without this check, any folder would have the default configuration.
        kind = ElmoConfig.get_config_dict(source)[0].get("model_type")
        if kind != ElmoConfig.model_type:
            raise ValueError(f"its config.json is of model_type {kind!r}, or missing")
        config = ElmoConfig.from_pretrained(source)
        made = model_class(config)
        model, info = made.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # transformers and safetensors raise many types for damaged files
        raise WeightsError(
            f"{source} cannot be opened as an ELMo model: {one_line(error)[:300]}; name a folder "
            "that convert or save_pretrained has written"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(
            f"{source} is no complete ELMo model: {missing[0]} is missing (and {len(missing) - 1} "
            "more)"
        )
    prefix = "" if made is ElmoForPreTraining else "elmo."
    return config, {prefix + name: tensor for name, tensor in model.state_dict().items()}


def load_tokenizer(source: Path) -> ElmoTokenizer | None:
    """The tokenizer of a folder, None if it has none; WeightsError if it is damaged."""
    if not (Path(source) / "tokenizer_config.json").exists():
        return None
    try:
        return ElmoTokenizer.from_pretrained(source)
    except Exception as error:  # tokenizers raises plain exceptions
        raise WeightsError(f"the tokenizer of {source} is damaged: {one_line(error)}") from error


def model_class(config: ElmoConfig) -> type[ElmoPreTrainedModel]:
    """The class that holds everything a configuration describes."""
    return ElmoForPreTraining if config.lm_vocab_size else ElmoModel
