"""Convert original ELMo weights to a Hub folder, verified; or a folder back to original files."""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from tqdm import tqdm

import elmo_hf
from conversion import verification
from conversion.sources import Original, new_folder, open_source
from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoPreTrainedModel, ElmoTokenizer
from elmo_hf.hdf5 import WeightsError, dump_arrays, load_arrays, original_forget_biases
from elmo_hf.options import config_from_options, options_from_config

FORGET_BIASES = "original_forget_biases.safetensors"
RECORD = "conversion.json"

bar = partial(tqdm, desc="Reading weights", unit="dataset", delay=1)


def convert(
    source: Path | None,
    output: Path,
    options: Path | None = None,
    weights: Path | None = None,
    vocab: Path | None = None,
) -> dict[str, Any]:
    """
    Convert an HDF5 file and its options.json to a folder for `from_pretrained`, and verify it.

    Args:
        source: folder or archive that holds the files; None where they are named.
        output: folder to write; it appears complete or not at all.
        options, weights, vocab: files that are named instead of looked for in `source`.

    Returns:
        What is stored as conversion.json: source files with their sha256, notes, and the largest
        difference of every layer.

    Raises:
        WeightsError: the files are damaged, unclear or contradictory, or the result differs.
    """
    with (
        open_source(source, options, weights, vocab) as original,
        open_hdf5(original.weights) as arrays,
        new_folder(output) as folder,
    ):
        original_options = original.read_options()
        config, notes = config_from_options(original_options, arrays)
        state_dict, more_notes = load_arrays(config, arrays, progress=bar)
        notes += more_notes + save_tokenizer(config, original, folder)
        save_model(config, state_dict, folder)
        del state_dict  # the verification needs the room
        forget_biases = original_forget_biases(config, arrays)
        safetensors.torch.save_file(forget_biases, folder / FORGET_BIASES)
        record = {
            "source": {
                "format": "bilm-tf HDF5",
                "weights": describe(original.weights),
                "options": describe(original.options) | {"content": original_options},
            },
            "notes": notes,
            "verification": verification.report(
                verification.verify(original_options, arrays, folder)
            ),
            "versions": versions(),
        }
        write_json(folder / RECORD, record)
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
    import h5py

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


@contextmanager
def open_hdf5(path: Path) -> Iterator[dict[str, Any]]:
    """Give a file's datasets by their full names; WeightsError unless it is sound and safe."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError('HDF5 files need h5py: pip install "elmo-hf[convert]"') from error
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
    except (OSError, RuntimeError, KeyError, TypeError) as error:
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
    """Raise WeightsError unless the file has one word for each row."""
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = sum(1 for _ in file)
    if lines != rows:
        raise WeightsError(f"{path.name} has {lines} words, but the weights have {rows} rows")


def model_class(config: ElmoConfig) -> type[ElmoPreTrainedModel]:
    """The class that holds everything a configuration describes."""
    return ElmoForPreTraining if config.lm_vocab_size else ElmoModel


def full_state_dict(model: ElmoPreTrainedModel) -> dict[str, torch.Tensor]:
    """A model's weights under the names of `ElmoForPreTraining`."""
    prefix = "" if isinstance(model, ElmoForPreTraining) else "elmo."
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality that also tells NaNs and signs of zero apart."""
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


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
        "elmo_hf": elmo_hf.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m conversion.convert", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="SOURCE OUTPUT", type=Path)
    parser.add_argument("--options", type=Path, help="options.json, instead of SOURCE")
    parser.add_argument("--weights", type=Path, help="HDF5 weights, instead of SOURCE")
    parser.add_argument("--vocab", type=Path, help="words of the softmax or table, one a line")
    parser.add_argument("--to-hdf5", action="store_true", help="write original files from a folder")
    parsed = parser.parse_intermixed_args(arguments)
    *source, parsed.output = parsed.paths
    parsed.source = source[0] if source else None
    if len(source) > 1 or (not source and not (parsed.options and parsed.weights)):
        parser.error("give SOURCE OUTPUT, or --options FILE --weights FILE OUTPUT")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status, 1 where nothing was written."""
    given = parse_arguments(arguments)
    try:
        if given.to_hdf5:
            convert_back(given.source, given.output)
            print(f"wrote {given.output}, which converts back bit for bit")
            return 0
        record = convert(given.source, given.output, given.options, given.weights, given.vocab)
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for note in record["notes"]:
        print(f"note: {note}")
    for difference in record["verification"]["differences"]:
        print(verification.Difference(**difference))
    print(f"wrote {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
