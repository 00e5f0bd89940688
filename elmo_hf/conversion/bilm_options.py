# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Reads, infers and writes options.json, the original format's description of a model."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..model.configuration_elmo import ElmoConfig
from .tables import WeightsError, abbreviated, check_sizes, one_line

# Training settings in original files, which do not change the model.
TRAINING_OPTIONS = {
    *("all_clip_norm_val", "batch_size", "dropout", "learning_rate", "n_epochs"),
    *("n_negative_samples_batch", "n_tokens_vocab", "n_train_tokens", "sample_softmax"),
    *("share_embedding_softmax", "unroll_steps"),
}
LSTM_OPTIONS = {
    *("cell_clip", "dim", "n_layers", "proj_clip", "projection_dim", "use_skip_connections"),
}
CHARACTER_OPTIONS = {
    *("activation", "embedding", "filters", "max_characters_per_token", "n_characters"),
    *("n_highway", "projection_after_highway"),
}


def config_from_options(
    options: Mapping[str, Any], arrays: Mapping[str, Any]
) -> tuple[ElmoConfig, list[str]]:
    """
    Read the configuration of an original model.

    The sizes of the tables come from the arrays. The option `n_characters` is ignored, because
    published files state 261 or 262 for the same model.

    Args:
        options: the content of options.json.
        arrays: datasets by name; only their shapes are used.

    Returns:
        The configuration, and notes on options that were ignored or assumed.

    Raises:
        WeightsError: a required option is missing, or options and arrays do not match.
    """
    lstm = _section(options, "lstm")
    known = TRAINING_OPTIONS | {"lstm", "char_cnn", "bidirectional", "reverse", "word_splitter"}
    notes = _unknown(options, known, "") + _unknown(lstm, LSTM_OPTIONS, "lstm.")
    if "use_skip_connections" not in lstm:
        notes.append("lstm.use_skip_connections is missing: false is assumed, as in bilm-tf")
    roots = {name.split("/")[0] for name in arrays}
    fields: dict[str, Any] = {
        "projection_dim": _option(lstm, "projection_dim", int, "lstm."),
        "cell_dim": _option(lstm, "dim", int, "lstm."),
        "num_hidden_layers": lstm.get("n_layers", 1),
        "cell_clip": lstm.get("cell_clip") or None,
        "projection_clip": lstm.get("proj_clip") or None,
        "use_skip_connections": _flag(lstm, "use_skip_connections", False),
        "bidirectional": _flag(options, "bidirectional", "rnn" not in roots),
        "dropout": options.get("dropout", 0.1),
    }
    if "char_cnn" in options:
        characters = _section(options, "char_cnn")
        notes += _unknown(characters, CHARACTER_OPTIONS, "char_cnn.")
        fields |= _character_fields(characters, arrays)
    else:
        fields |= _token_fields(arrays)
    filters = fields.get("filters")
    counts = {
        "lstm.n_layers": fields["num_hidden_layers"],
        "char_cnn.n_highway": fields["num_highway_layers"],
        "char_cnn.filters": len(filters) if isinstance(filters, list) else 0,
    }
    check_sizes("options.json", counts, fields.get("max_characters_per_token"), arrays)
    if "softmax/W" in arrays:
        fields["lm_vocab_size"] = _rows(arrays, "softmax/W")
    elif "softmax/b" in arrays and "char_cnn" not in options:  # share_embedding_softmax
        fields["lm_vocab_size"] = _rows(arrays, "embedding")
        fields["tie_word_embeddings"] = True
    try:
        return ElmoConfig(**fields), notes
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"options.json is not of an ELMo model: {one_line(error)}") from error


def released_options(
    cell_dim: int, layers: int, width: int, char_dim: int, filters: list[list[int]], highways: int
) -> dict[str, Any]:
    """Return options.json for a model of these sizes with the released models' other settings."""
    return {
        "lstm": {
            "cell_clip": 3,
            "dim": cell_dim,
            "n_layers": layers,
            "proj_clip": 3,
            "projection_dim": width,
            "use_skip_connections": True,
        },
        "char_cnn": {
            "activation": "relu",
            "embedding": {"dim": char_dim},
            "filters": filters,
            "max_characters_per_token": 50,
            "n_characters": 262,
            "n_highway": highways,
        },
    }


ASSUMED = (
    "no options.json: the sizes are those of the weights; activation relu, "
    "max_characters_per_token 50, cell_clip 3, proj_clip 3 and skip connections are assumed, as in "
    "all released models; if yours differs, pass --options FILE"
)


def count_parts(names: Iterable[str], pattern: str) -> int:
    """Count the parts of a model that are numbered from 0; the pattern's group is the number."""
    found = {m[1] for name in names if (m := re.fullmatch(pattern, name))}
    return next(i for i in range(len(found) + 1) if str(i) not in found)


def options_from_config(config: ElmoConfig) -> dict[str, Any]:
    """
    Return the content of options.json for a model, as the original programs read it.

    Raises:
        WeightsError: the format cannot represent the model.
    """
    if config.num_mixed_lstms:
        raise WeightsError("the HDF5 format has no LSTMs that mix the directions")
    if config.uses_characters and config.word_vocab_size:
        raise WeightsError("the HDF5 format cannot combine a word table with characters")
    if config.uses_characters and config.vocab_size != 262:
        raise WeightsError(
            "the HDF5 format encodes words as UTF-8 bytes, vocab_size 262; this model has "
            f"{config.vocab_size} symbols"
        )
    if config.has_lstm_projection != (config.cell_dim != config.projection_dim) or (
        config.has_embedding_projection != (config.embedding_dim != config.projection_dim)
    ):
        raise WeightsError(
            "the HDF5 format has projections only between different widths; this model has one "
            "between equal widths (lstm_projection or embedding_projection is True)"
        )
    options: dict[str, Any] = {
        "bidirectional": config.bidirectional,
        "dropout": config.dropout,
        "lstm": {
            "cell_clip": config.cell_clip,
            "dim": config.cell_dim,
            "n_layers": config.num_hidden_layers,
            "proj_clip": config.projection_clip,
            "projection_dim": config.projection_dim,
            "use_skip_connections": config.use_skip_connections,
        },
    }
    if config.uses_characters:
        options["char_cnn"] = {
            "activation": config.activation,
            "embedding": {"dim": config.char_embedding_dim},
            "filters": config.filters,
            "max_characters_per_token": config.max_characters_per_token,
            "n_characters": config.vocab_size,
            "n_highway": config.num_highway_layers,
        }
    if config.lm_vocab_size:
        options["n_tokens_vocab"] = config.lm_vocab_size
    if config.tie_word_embeddings:
        options["share_embedding_softmax"] = True
    return options


def _section(options: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = options.get(name)
    if not isinstance(section, Mapping):
        raise WeightsError(
            f"options.json has no section {name!r}; expected the options.json of a bilm-tf or "
            f"AllenNLP ELMo, but its keys are {sorted(options)}"
        )
    return section


def _option(section: Mapping[str, Any], name: str, kind: type, prefix: str) -> Any:
    if not isinstance(section.get(name), kind):
        raise WeightsError(
            f"options.json: {prefix}{name} is {section.get(name)!r}; expected {kind.__name__}"
        )
    return section[name]


def _flag(section: Mapping[str, Any], name: str, default: bool) -> bool:
    value = section.get(name, default)
    if value not in (True, False):  # also accepts 1 and 0, which equal them
        raise WeightsError(f"options.json: {name} is {value!r}; expected true or false")
    return bool(value)


def _unknown(section: Mapping[str, Any], known: set[str], prefix: str) -> list[str]:
    return [f"option {prefix}{key} is unknown: ignored" for key in section if key not in known]


def _rows(arrays: Mapping[str, Any], name: str) -> int:
    shape = arrays[name].shape
    if len(shape) != 2:
        raise WeightsError(f"dataset {name} has shape {tuple(shape)}; expected a table of rows")
    return int(shape[0])


def _character_fields(section: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    if "char_embed" not in arrays:
        raise WeightsError(
            "options.json has a char_cnn section, but there is no dataset char_embed; "
            f"the file holds {abbreviated(arrays)}"
        )
    embedding = _section(section, "embedding")
    filters = _option(section, "filters", list, "char_cnn.")
    return {
        "vocab_size": _rows(arrays, "char_embed") + 1,
        "char_embedding_dim": _option(embedding, "dim", int, "char_cnn.embedding."),
        "filters": filters,
        "activation": _option(section, "activation", str, "char_cnn."),
        "num_highway_layers": section.get("n_highway") or 0,
        "max_characters_per_token": _option(section, "max_characters_per_token", int, "char_cnn."),
    }


def _token_fields(arrays: Mapping[str, Any]) -> dict[str, Any]:
    if "char_embed" in arrays:
        raise WeightsError(
            "the weights have characters (char_embed), but options.json has no char_cnn section; "
            "pass the options.json that was published with these weights"
        )
    if "embedding" not in arrays:
        raise WeightsError(
            "options.json has no char_cnn section, so words need a table, but there is no "
            f"dataset embedding; the file holds {abbreviated(arrays)}"
        )
    rows = _rows(arrays, "embedding") + 1
    return {
        "filters": [],
        "vocab_size": rows,
        "word_vocab_size": rows,
        "word_embedding_dim": int(arrays["embedding"].shape[1]),
        "num_highway_layers": 0,
    }


__all__ = [
    "ASSUMED",
    "config_from_options",
    "count_parts",
    "options_from_config",
    "released_options",
]
