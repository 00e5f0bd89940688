"""Converts AllenNLP's state dicts, alone or in a model.tar.gz, and writes them.

The state dict of a trained AllenNLP model includes its ELMo, a biLM and scalar mixes. The names of
the biLM's tensors begin with a prefix such as
`text_field_embedder.token_embedder_elmo._elmo._elmo_lstm.`.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import ElmoConfig, ElmoTokenizer
from ..loading import recorded_mixes
from ..model.layer_scalar_mix import ElmoScalarMix
from . import reference_torch
from .bilm_options import ASSUMED, config_from_options, count_parts, released_options
from .originals import OpenModel, Original
from .outputs import new_file, reserve
from .sources import HDF5, INDEX, PYTORCH, Files, read_json
from .tables import SAME, WeightsError, abbreviated, check_restored, one_line
from .torch_files import (
    Names,
    as_arrays,
    dump_rows,
    encoder_table,
    load_rows,
    load_state_dict,
)

FORMAT = "AllenNLP state dict"
WORD_SPLITTER = "billion-words"  # as in the training text of the published ELMos
NAMES = Names(
    characters="_token_embedder._char_embedding_weights",
    convolution="_token_embedder.char_conv_{i}",
    highway="_token_embedder._highways._layers.{k}",
    projection="_token_embedder._projection",
    lstm="_elmo_lstm.{direction}_layer_{layer}",
    words="",
    mixed="",
    table=SAME,  # row 0 is padding, as in our tables
    extra_rows=0,
)
BILM, CACHE = "_elmo_lstm.", "_word_embedding.weight"
SHAPED = {"dim", "n_layers", "projection_dim", "embedding", "filters", "n_highway"}


def recognise(files: Files) -> Original | None:
    """Find AllenNLP's .th file, preferably the best of a training; see `Format.recognise`.

    PyTorch files with other names count only if there are no weights in another format.
    """
    found = files.of_kind(PYTORCH)
    own = [path for path in found if path.suffix == ".th"]
    best = [path for path in own if path.name in ("weights.th", "best.th")]
    if not own and (not found or files.of_kind(HDF5) or files.of_kind(INDEX)):
        return None
    weights = files.one("weights", best or own or found)
    options = files.find_options(needed=False)
    return Original(weights, options, files.vocab, files.prefix, tuple(files.kinds))


def open_original(original: Original) -> OpenModel:
    """Read the ELMo in an AllenNLP model; see `Format.open_original`.

    Without options.json the sizes are inferred from the tensors.
    """
    tensors = load_state_dict(original.weights)
    prefix, notes = find_prefix(original.weights.name, tensors, original.prefix)
    if original.vocab:
        notes.append(f"{original.vocab} is left out: there is no softmax that it could belong to")
    own = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    options, more_notes = _options(original, own)
    config, config_notes = _config(options, own)
    table = encoder_table(config, NAMES)
    notes += [*more_notes, *config_notes, *_leftovers(tensors, prefix, {r.original for r in table})]
    settings = elmo_settings(original.files)
    if settings.get("do_layer_norm"):
        config.mix_layer_norm = "allennlp"
    if isinstance(dropout := settings.get("dropout"), (int, float)) and 0 <= dropout < 1:
        config.mix_dropout = dropout
    return OpenModel(
        config=config,
        state_dict=load_rows(table, own, "options.json" if original.options else "the model"),
        tokenizer=ElmoTokenizer(max_characters_per_token=config.max_characters_per_token),
        expected=partial(reference_torch.allennlp, options, as_arrays(own)),
        source={"prefix": prefix, "options": {"content": options}},
        notes=notes,
        extra={"scalar_mixes": scalar_mixes(tensors, prefix, config.num_hidden_layers + 1)},
    )


def find_prefix(
    file: str, tensors: Mapping[str, torch.Tensor], prefix: str | None = None
) -> tuple[str, list[str]]:
    """
    Return the prefix of the biLM's names, and notes; equal copies of a biLM count as one.

    Raises:
        WeightsError: there is no ELMo, none with this prefix, or several different ones.
    """
    end = NAMES.characters
    found = sorted(name.removesuffix(end) for name in tensors if name.endswith(end))
    if not found:
        raise WeightsError(
            f"{file} is a state dict without an ELMo (no tensor is named ..{end}); it holds "
            f"{abbreviated(tensors)}. Pass an AllenNLP model that includes ELMo, not one that "
            "reads precomputed vectors"
        )
    if prefix is not None:
        if prefix not in found:
            raise WeightsError(f"{file} has no ELMo at {prefix!r}; expected one of {found}")
        return prefix, []
    first, *others = found
    if different := [other for other in others if not _equal(tensors, first, other)]:
        raise WeightsError(
            f"{file} has different ELMos at {[first, *different]}; choose one with --prefix PREFIX"
        )
    return first, [_compare(tensors, first, other) for other in others]


def _compare(tensors: Mapping[str, torch.Tensor], first: str, other: str) -> str:
    """Return a note on two ELMos whose biLMs are equal."""
    mixes = [
        {
            name.removeprefix(root): tensor.tolist()
            for name, tensor in tensors.items()
            if name.startswith(f"{root}scalar_mix_")
        }
        for root in (first.removesuffix(BILM), other.removesuffix(BILM))
    ]
    if mixes[0] == mixes[1]:
        return f"the ELMo at {other} is the same as at {first}"
    return (
        f"the ELMo at {other} is the same as at {first}, but its scalar mixes differ: those of "
        f"{first} are kept; --prefix {other} chooses the others"
    )


def scalar_mixes(
    tensors: Mapping[str, torch.Tensor], prefix: str, layers: int
) -> list[dict[str, Any]]:
    """Return the scalar mixes of the ELMo at a prefix: `weights` before the softmax, `gamma`."""
    root = prefix.removesuffix(BILM)
    mixes: list[dict[str, Any]] = []
    while (name := f"{root}scalar_mix_{len(mixes)}.gamma") in tensors:
        stem = name.removesuffix("gamma") + "scalar_parameters."
        weights = [tensors.get(f"{stem}{j}") for j in range(layers)]
        if any(w is None or w.numel() != 1 for w in weights) or tensors[name].numel() != 1:
            raise WeightsError(
                f"scalar mix {stem} does not hold one number for each of {layers} layers"
            )
        mixes.append(
            {"weights": [float(w) for w in weights if w is not None], "gamma": float(tensors[name])}
        )
    return mixes


def load_scalar_mix(folder: Path, number: int = 0) -> ElmoScalarMix:
    """
    Load a scalar mix learned by the original model, for instance to initialize a task model.

    Args:
        folder: a converted folder, whose conversion.json stores `scalar_mixes`.
        number: index of the mix in the model.

    Raises:
        WeightsError: the folder has no such mix.
    """
    mixes = recorded_mixes(Path(folder), ElmoConfig.from_pretrained(folder))
    if not 0 <= number < len(mixes):
        raise WeightsError(f"{folder} has {len(mixes)} scalar mixes, none has number {number}")
    return mixes[number]


def dump_allennlp(
    config: ElmoConfig, state_dict: Mapping[str, torch.Tensor], record: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """
    Turn a state dict of `ElmoForPreTraining` into AllenNLP's, without a language model's softmax.

    Args:
        config: the model's configuration.
        state_dict: the weights; they are converted to float32.
        record: the folder's conversion.json with the original prefix and scalar mixes, or {}.

    Raises:
        WeightsError: AllenNLP cannot represent the model.
    """
    check_describable(config)
    try:
        prefix = record.get("source", {}).get("prefix", BILM)
        dumped = dump_rows(encoder_table(config, NAMES), state_dict, prefix)
        for number, mix in enumerate(record.get("scalar_mixes", [])):
            stem = f"{prefix.removesuffix(BILM)}scalar_mix_{number}"
            dumped[f"{stem}.gamma"] = torch.tensor([mix["gamma"]])
            for j, weight in enumerate(mix["weights"]):
                dumped[f"{stem}.scalar_parameters.{j}"] = torch.tensor([weight])
    except (AttributeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"conversion.json has no valid prefix or scalar mix of AllenNLP ({one_line(error)}); "
            "convert the original again"
        ) from error
    return dumped


def write_allennlp(
    folder: Path, file: Path, config: ElmoConfig, state_dict: Mapping[str, torch.Tensor]
) -> None:
    """
    Write a converted folder's weights as an AllenNLP state dict; read it again and compare.

    Raises:
        WeightsError: the file exists, or AllenNLP cannot represent the model.
    """
    dumped = dump_allennlp(config, state_dict, _record(folder))
    prefix, _ = find_prefix(file.name, dumped)
    table = encoder_table(config, NAMES)
    with new_file(file) as scratch:
        reserve(scratch.parent, dumped.values())
        torch.save(dumped, scratch)
        own = {name.removeprefix(prefix): t for name, t in load_state_dict(scratch).items()}
        check_restored(state_dict, load_rows(table, own, "the model"))


def elmo_settings(files: tuple[Path, ...]) -> dict[str, Any]:
    """Return the settings of ELMo in an archive's config.json; {} if there are none."""
    for path in files:
        if path.name == "config.json":
            found = [section for section in _sections(read_json(path)) if _is_elmo(section)]
            if found:
                return found[0]
    return {}


def _is_elmo(section: Mapping[str, Any]) -> bool:
    return "options_file" in section or section.get("type") == "elmo_token_embedder"


def _sections(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        yield content
    inner = content.values() if isinstance(content, dict) else content
    for part in inner if isinstance(content, (dict, list)) else ():
        yield from _sections(part)


def _options(
    original: Original, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], list[str]]:
    """Return options.json, checked against the tensors' shapes, or infer it from them."""
    inferred = infer_options(tensors)
    if original.options is None:
        return inferred, [ASSUMED]
    options = read_json(original.options)
    for section, shaped in inferred.items():
        stated = options.get(section)
        if not isinstance(stated, dict):
            raise WeightsError(f"{original.options.name} has no section {section!r}")
        for name in SHAPED & shaped.keys() & stated.keys():
            if stated[name] != shaped[name]:
                raise WeightsError(
                    f"{original.options.name} says {section}.{name} is {stated[name]}, but the "
                    f"tensors say {shaped[name]}; pass the options.json of this model"
                )
        known = SHAPED | {"use_skip_connections"}  # AllenNLP loads no model without them
        options[section] = {n: v for n, v in shaped.items() if n in known} | stated
    return options, []


def infer_options(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Infer the content of options.json from shapes, the rest from the released models."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        tensor = tensors.get(name)
        if tensor is None or tensor.dim() != dimensions:
            problem = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise WeightsError(f"tensor {name} is {problem}; the state dict is not a complete ELMo")
        return tuple(tensor.shape)

    count = partial(count_parts, tensors)
    convolutions = [
        shape(f"{NAMES.convolution.format(i=i)}.weight", 3)
        for i in range(count(r"_token_embedder\.char_conv_(\d+)\.weight"))
    ]
    projection = NAMES.lstm.format(direction="forward", layer=0) + ".state_projection.weight"
    width, cell = shape(projection, 2)
    return released_options(
        cell_dim=cell,
        layers=count(r"_elmo_lstm\.forward_layer_(\d+)\.state_projection\.weight"),
        width=width,
        char_dim=shape(NAMES.characters, 2)[1],
        filters=[[kernel, filters] for filters, _, kernel in convolutions],
        highways=count(r"_token_embedder\._highways\._layers\.(\d+)\.weight"),
    )


def _config(
    options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[ElmoConfig, list[str]]:
    # Without row 0, padding, the character table has the shape of bilm-tf's.
    arrays = {**tensors, "char_embed": tensors[NAMES.characters][1:]}
    config, notes = config_from_options({**options, "bidirectional": True}, arrays)
    # AllenNLP has both projections even if they do not change the width.
    if not config.has_embedding_projection and f"{NAMES.projection}.weight" in tensors:
        config.embedding_projection = True
    if not config.has_lstm_projection:
        config.lstm_projection = True
    return config, notes


def _leftovers(tensors: Mapping[str, torch.Tensor], prefix: str, used: set[str]) -> list[str]:
    """Return notes on the tensors that are not converted."""
    root = prefix.removesuffix(BILM)
    kept = {prefix + name for name in used} | {prefix + CACHE}
    mixes = re.compile(re.escape(root) + r"scalar_mix_\d+\.")
    left = [name for name in tensors if name not in kept and not mixes.match(name)]
    inner = (f"{prefix}_token_embedder.", f"{prefix}{BILM}")
    notes = [f"tensor {name} is unknown: ignored" for name in left if name.startswith(inner)]
    if prefix + CACHE in tensors:
        notes.append("cached word vectors are left out: the characters of the words give the same")
    if others := len(left) - sum(name.startswith(inner) for name in left):
        notes.append(f"{others} tensors of the task's own model are left out")
    return notes


def _equal(tensors: Mapping[str, torch.Tensor], first: str, other: str) -> bool:
    names = [n.removeprefix(first) for n in tensors if n.startswith(first)]
    inner = [n for n in names if n.startswith(("_token_embedder.", BILM))]
    return all(
        f"{other}{n}" in tensors and torch.equal(tensors[first + n], tensors[f"{other}{n}"])
        for n in inner
    )


def check_describable(config: ElmoConfig) -> None:
    problem = None
    if config.num_mixed_lstms:
        problem = "mixes the directions"
    elif not config.uses_characters or config.word_vocab_size:
        problem = "reads words from a table"
    elif config.vocab_size != 262:
        problem = f"has {config.vocab_size} character symbols, not 262"
    elif not config.bidirectional:
        problem = "has one direction"
    elif not config.has_embedding_projection or not config.has_lstm_projection:
        problem = "has no projection where AllenNLP always has one"
    elif not config.use_skip_connections:
        problem = "has no skip connections, which AllenNLP always adds"
    if problem:
        raise WeightsError(f"AllenNLP cannot represent this model: it {problem}")


def _record(folder: Path) -> dict[str, Any]:
    path = Path(folder) / "conversion.json"
    return read_json(path) if path.is_file() else {}


__all__ = [
    "FORMAT",
    "WORD_SPLITTER",
    "load_scalar_mix",
    "open_original",
    "recognise",
    "write_allennlp",
]
