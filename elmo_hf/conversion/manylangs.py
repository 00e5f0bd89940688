"""Converts ELMoForManyLangs models: words, Unicode characters or both, with a biLM or biLSTM.

A model is a folder with char.dic and word.dic (entry, tab, id), token_embedder.pkl and encoder.pkl
(state dicts), and config.json. The latter holds the path of the settings file, as it was on the
machine that trained the model.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from .. import ElmoConfig, ElmoTokenizer
from . import reference_torch
from .originals import OpenModel, Original
from .sources import PYTORCH, Files, read_json
from .tables import TABLE, WeightsError, check_sizes, one_line
from .torch_files import Names, as_arrays, encoder_table, load_rows, load_state_dict

FORMAT = "ELMoForManyLangs"
WORD_SPLITTER = "treebank"  # the training text was split like Universal Dependencies
PARTS = ("token_embedder", "encoder")
NAMES = Names(
    characters="token_embedder.char_emb_layer.embedding.weight",
    convolution="token_embedder.convolutions.{i}",
    highway="token_embedder.highways._layers.{k}",
    projection="token_embedder.projection",
    lstm="encoder.{direction}_layer_{layer}",
    words="token_embedder.word_emb_layer.embedding.weight",
    mixed="encoder",
    table=TABLE,
    extra_rows=1,
)
# The original program swaps the markers: a word begins with <eow> and ends with <bow>.
ROLES = {"<eow>": "<BOW>", "<bow>": "<EOW>", "<pad>": "<PADC>", "<oov>": "<OOV>"}
SPACE = "\u3000"  # the only entry that stripping a line removes
# The settings of the released models (cnn_50_100_512_4096_sample.json).
RELEASED = {
    "encoder": {
        "name": "elmo",
        "projection_dim": 512,
        "cell_clip": 3,
        "proj_clip": 3,
        "dim": 4096,
        "n_layers": 2,
    },
    "token_embedder": {
        "name": "cnn",
        "activation": "relu",
        "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
        "n_highway": 2,
        "word_dim": 100,
        "char_dim": 50,
        "max_characters_per_token": 50,
    },
    "dropout": 0.1,
}


def recognise(files: Files) -> Original | None:
    """Find token_embedder.pkl, whose folder has the other files; see `Format.recognise`."""
    parts = {f"{part}.pkl" for part in PARTS}
    found = {
        path.with_name("token_embedder.pkl")
        for path in files.of_kind(PYTORCH)
        if path.name in parts
    }
    return Original(files.one("weights", sorted(found)), files.options) if found else None


def open_original(original: Original) -> OpenModel:
    """Read the model's folder; see `Format.open_original`.

    `original.options`, if set, replaces the settings file that config.json refers to.
    """
    folder = original.weights.parent
    for part in PARTS:
        if not (folder / f"{part}.pkl").is_file():
            raise WeightsError(
                f"{part}.pkl is missing; a model of ELMoForManyLangs has token_embedder.pkl and "
                "encoder.pkl in one folder"
            )
    settings, notes = read_settings(folder, original.options)
    described = "the released models' settings" if notes else "the model's settings file"
    embedder = settings["token_embedder"]
    characters = read_dictionary(folder / "char.dic") if embedder["char_dim"] > 0 else {}
    words = read_dictionary(folder / "word.dic") if embedder["word_dim"] > 0 else {}
    if not characters and not words:
        raise WeightsError("char_dim and word_dim are both off; expected at least one of them")
    tensors = {
        f"{part}.{name}": tensor
        for part in PARTS
        for name, tensor in load_state_dict(folder / f"{part}.pkl").items()
    }
    counts = {
        "encoder.n_layers": settings["encoder"]["n_layers"],
        "token_embedder.n_highway": embedder.get("n_highway"),
        "token_embedder.filters": len(embedder.get("filters") or ()),
    }
    check_sizes(described, counts, embedder["max_characters_per_token"], tensors)
    config = _config(settings, characters, words)
    table = encoder_table(config, NAMES)
    unknown = sorted(tensors.keys() - {row.original for row in table})
    notes += [f"tensor {name} is unknown: ignored" for name in unknown]
    dictionaries = [path for kind in ("char", "word") if (path := folder / f"{kind}.dic").is_file()]
    if (folder / "classifier.pkl").is_file():
        notes.append("classifier.pkl, the softmax used in training, is left out")
    return OpenModel(
        config=config,
        state_dict=load_rows(table, tensors, described),
        tokenizer=_tokenizer(config, characters, words),
        expected=partial(
            reference_torch.manylangs, settings, as_arrays(tensors), characters, words
        ),
        source={"options": {"content": settings}},
        notes=notes,
        data_files=[folder / f"{part}.pkl" for part in PARTS] + dictionaries,
    )


def is_mixed(settings: Mapping[str, Any]) -> bool:
    """Whether the encoder is "lstm", a biLSTM whose layers mix the directions, not a biLM."""
    return str(settings["encoder"]["name"]).lower() == "lstm"


def read_settings(folder: Path, named: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """
    Read the settings of a model; return them and notes.

    The settings are in `named`, else in config.json, else in the file of this folder whose name
    ends the path in config.json. Without such a file, those of the released models are used.

    Raises:
        WeightsError: a file is not JSON, a setting is missing, or the encoder is unknown.
    """
    notes = []
    path, claimed = named, None
    if path is None and (folder / "config.json").is_file():
        content = read_json(folder / "config.json")
        path = folder / "config.json" if "token_embedder" in content else None
        claimed = content.get("config_path")
        name = PurePosixPath(str(claimed).replace("\\", "/")).name
        if path is None and claimed and (folder / name).is_file():
            path = folder / name
    if path is None:
        notes.append(
            f"no settings file ({claimed or 'config.json'}) in the folder: those of the released "
            "models are used; if yours differ, pass --options FILE"
        )
    settings = RELEASED if path is None else read_json(path)
    _check_settings(settings, path.name if path else "the released settings")
    return dict(settings), notes


def read_dictionary(path: Path) -> dict[str, int]:
    """
    Read the ids in a .dic file, by entry; an empty entry is the ideographic space.

    Raises:
        WeightsError: the file is missing or not UTF-8, or a line is not an entry, a tab and an id.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        raise WeightsError(f"{path.name} is missing; put it beside token_embedder.pkl") from None
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path.name} is not UTF-8 text: {error}") from error
    entries: dict[str, int] = {}
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        fields = line.strip().split("\t")
        entry, last = [SPACE, *fields][-2:]
        if len(fields) > 2 or not (last.isascii() and last.isdigit()):
            raise WeightsError(
                f"{path.name}, line {number}: {line[:60]!r} is not an entry, a tab and an id"
            )
        entries[entry] = int(last)  # a repeated entry has its last id, as in the original program
    if missing := {"<bos>", "<eos>", "<oov>"} - entries.keys():
        raise WeightsError(f"{path.name} lacks the entries {sorted(missing)}")
    return entries


def _check_settings(settings: Mapping[str, Any], file: str) -> None:
    integers = {
        "encoder": ["projection_dim", "dim", "n_layers"],
        "token_embedder": ["word_dim", "char_dim", "max_characters_per_token"],
    }
    for section, names in integers.items():
        values = settings.get(section)
        if not isinstance(values, dict):
            raise WeightsError(f"{file} has no section {section!r}; expected a model's settings")
        kinds: dict[str, type] = {"name": str} | dict.fromkeys(names, int)
        if section == "token_embedder" and values.get("char_dim") not in (None, 0, -1):
            kinds |= {"filters": list, "n_highway": int, "activation": str}
        for name, kind in kinds.items():
            if not isinstance(values.get(name), kind):
                raise WeightsError(
                    f"{file}: {section}.{name} is {values.get(name)!r}; expected {kind.__name__}"
                )
    if settings["encoder"]["name"].lower() not in ("elmo", "lstm"):
        raise WeightsError(
            f"{file}: the encoder is {settings['encoder']['name']!r}; expected 'elmo', a biLM, or "
            "'lstm', a biLSTM whose layers mix the directions"
        )
    if settings["token_embedder"]["name"].lower() != "cnn":
        raise WeightsError(
            f"{file}: the token embedder is {settings['token_embedder']['name']!r}; expected 'cnn',"
            " the only one that runs in the original program"
        )


def _config(
    settings: Mapping[str, Any], characters: Mapping[str, int], words: Mapping[str, int]
) -> ElmoConfig:
    embedder, encoder = settings["token_embedder"], settings["encoder"]
    # The files number from 0, but our id 0 is padding.
    boundaries = characters or words
    fields: dict[str, Any] = {
        "filters": embedder["filters"] if characters else [],
        "num_highway_layers": embedder["n_highway"] if characters else 0,
        "vocab_size": max(boundaries.values()) + 2,
        "word_vocab_size": max(words.values()) + 2 if words else 0,
        "word_embedding_dim": embedder["word_dim"] if words else 0,
        "max_characters_per_token": embedder["max_characters_per_token"],
        "embedding_projection": True,
        "projection_dim": encoder["projection_dim"],
        "cell_dim": encoder["dim"],
        "lstm_projection": True,
        "num_hidden_layers": encoder["n_layers"],
        "cell_clip": encoder.get("cell_clip") or None,
        "projection_clip": encoder.get("proj_clip") or None,
        "use_skip_connections": True,
        "dropout": settings.get("dropout", 0.1),
        "bos_token_id": boundaries["<bos>"] + 1,
        "eos_token_id": boundaries["<eos>"] + 1,
    }
    if is_mixed(settings):
        fields |= {"num_mixed_lstms": encoder["n_layers"], "num_hidden_layers": 1}
    if characters:
        fields["char_embedding_dim"] = embedder["char_dim"]
        fields["activation"] = embedder["activation"]
    try:
        return ElmoConfig(**fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"the settings are not of an ELMo model: {one_line(error)}") from error


def _tokenizer(
    config: ElmoConfig, characters: Mapping[str, int], words: Mapping[str, int]
) -> ElmoTokenizer:
    arguments: dict[str, Any] = {
        "max_characters_per_token": config.max_characters_per_token,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
    }
    if words:
        arguments |= {"use_word_ids": True, "lm_vocab": _by_id(words), "word_unk_token": "<oov>"}
    try:
        if not characters:
            # The original program also cuts long words here, but a vocabulary hardly has any.
            return ElmoTokenizer(use_characters=False, **arguments)
        symbols = {ROLES.get(entry, entry): number + 1 for entry, number in characters.items()}
        return ElmoTokenizer.from_characters(symbols, **arguments)
    except ValueError as error:
        raise WeightsError(f"the .dic files do not fit a tokenizer: {error}") from error


def _by_id(words: Mapping[str, int]) -> list[str]:
    """Return words in the order of their ids; an unused id has a placeholder, which is no word."""
    listed = [f"\t{number}" for number in range(max(words.values()) + 1)]
    for word, number in words.items():
        listed[number] = word
    return listed


__all__ = ["FORMAT", "WORD_SPLITTER", "open_original", "read_dictionary", "recognise"]
