"""Reads PyTorch files without running code in them, and maps their tensors to ours.

ELMoForManyLangs uses AllenNLP's LSTM and highways, so one table describes both formats;
`Names` holds the names that differ.
"""

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.configuration_elmo import ElmoConfig
from .tables import SAME, Row, Transform, WeightsError, abbreviated

SUFFIXES = {".bin", ".pkl", ".pt", ".pth", ".th"}
BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, OSError, ValueError)
PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


def _load_highway(stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
    transform, carry = stacked.chunk(2)
    return transform, -carry


# Their gate multiplies the input, ours the transformed part: sigmoid(-x) = 1 - sigmoid(x).
HIGHWAY = Transform(_load_highway, lambda transform, gate: torch.cat([transform, -gate]))


@dataclass(frozen=True)
class Names:
    """A format's names for the parts of the encoder, and its way to store tables."""

    characters: str
    convolution: str
    highway: str
    projection: str
    lstm: str
    words: str
    mixed: str
    table: Transform
    extra_rows: int  # rows that only our tables have


def is_torch_file(path: Path) -> bool:
    """Whether a file was written by `torch.save`, or is a plain pickle, by its content.

    A truncated zip file has lost its list of contents; then the file name decides.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        return start[:2] in PICKLES
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    except BAD_ZIP:
        return path.suffix in SUFFIXES


def load_torch(path: Path, allowed: list[Any] | None = None) -> Any:
    """
    Read a PyTorch file without running code in it.

    Args:
        path: the file, a zip file or in the older pickle format.
        allowed: functions and classes to allow in addition to PyTorch's own, for `safe_globals`.

    Raises:
        WeightsError: the file is damaged, holds code, or claims more data than it holds.
    """
    _check_zip(path)
    try:
        with torch.serialization.safe_globals(allowed or []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; real problems are errors
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path.name} is damaged or holds more than tensors, such as code, which is never "
            f"run ({reason}); pass a file with weights only, as written by "
            "torch.save(model.state_dict(), FILE)"
        ) from error


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a PyTorch file by name; WeightsError unless it is a valid state dict."""
    loaded = load_torch(path)
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        raise WeightsError(
            f"{path.name} holds {_describe(loaded)}; expected a state dict of tensors by name"
        )
    tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{path.name} holds no tensors, only {abbreviated(loaded) or 'nothing'}")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise WeightsError(f"{path.name}: tensor {name} is sparse or quantized; expected dense")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{path.name}: tensor {name} claims more values than are stored")
    return tensors


def as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the tensors as NumPy arrays of floats, for the verification."""
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def _check_zip(path: Path) -> None:
    """Raise WeightsError for a zip file with a wrong checksum, or that claims more than its size.

    `torch.load` does not check checksums, and `torch.save` never compresses.
    """
    problem = None
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                problem = "is compressed, which no PyTorch file is"
            elif sum(member.file_size for member in members) > path.stat().st_size:
                problem = "claims to hold more than its size"
            elif damaged := archive.testzip():
                problem = f"is damaged, the checksum of {damaged} differs"
    except (*BAD_ZIP, EOFError, RuntimeError) as error:
        problem = f"is a damaged PyTorch file ({error})"
    if problem:
        raise WeightsError(f"{path.name} {problem}; copy or download the file again")


def _describe(loaded: Any) -> str:
    if isinstance(loaded, (torch.Tensor, np.ndarray)):
        return f"one array of shape {tuple(loaded.shape)}"
    return f"a {type(loaded).__name__}"


def encoder_table(config: ElmoConfig, names: Names) -> list[Row]:
    """List all tensors of an encoder with the matching names of `ElmoForPreTraining`."""
    ours, rows = "elmo.embeddings", []

    def both(theirs: str, mine: str, weight: tuple[int, ...]) -> list[Row]:
        return [
            Row(f"{theirs}.weight", weight, (f"{mine}.weight",), SAME),
            Row(f"{theirs}.bias", weight[:1], (f"{mine}.bias",), SAME),
        ]

    def table(theirs: str, mine: str, size: int, width: int) -> Row:
        shape = (size - names.extra_rows, width)
        return Row(theirs, shape, (f"{ours}.{mine}.weight",), names.table)

    if config.word_vocab_size:
        width = config.word_embedding_dim
        rows.append(table(names.words, "word_embeddings", config.word_vocab_size, width))
    if config.uses_characters:
        width, filters = config.char_embedding_dim, config.num_filters
        rows.append(table(names.characters, "char_embeddings", config.vocab_size, width))
        for i, (kernel, count) in enumerate(config.filters):
            theirs = names.convolution.format(i=i)
            rows += both(theirs, f"{ours}.convolutions.{i}", (count, width, kernel))
        for k in range(config.num_highway_layers):
            for part, shape in (("weight", (2 * filters, filters)), ("bias", (2 * filters,))):
                pair = tuple(f"{ours}.highways.{k}.{p}.{part}" for p in ("transform", "gate"))
                rows.append(Row(f"{names.highway.format(k=k)}.{part}", shape, pair, HIGHWAY))
    if config.has_embedding_projection:
        shape = (config.projection_dim, config.embedding_dim)
        rows += both(names.projection, f"{ours}.projection", shape)
    make = _mixed_lstm_table if config.num_mixed_lstms else _lstm_table
    return rows + make(config, names)


def _mixed_lstm_table(config: ElmoConfig, names: Names) -> list[Row]:
    # Only ELMoForManyLangs has these LSTMs, which are torch.nn.LSTM there and here.
    ours, cell, width = "elmo.layers.0", config.cell_dim, config.projection_dim
    shapes = {"projection.weight": (width, cell), "projection.bias": (width,)}
    for layer in range(config.num_mixed_lstms):
        read = 2 * cell if layer else width
        for end in (f"l{layer}", f"l{layer}_reverse"):
            shapes |= {
                f"lstm.weight_ih_{end}": (4 * cell, read),
                f"lstm.weight_hh_{end}": (4 * cell, cell),
                f"lstm.bias_ih_{end}": (4 * cell,),
                f"lstm.bias_hh_{end}": (4 * cell,),
            }
    return [
        Row(f"{names.mixed}.{name.replace('lstm', 'encoder')}", shape, (f"{ours}.{name}",), SAME)
        for name, shape in shapes.items()
    ]


def _lstm_table(config: ElmoConfig, names: Names) -> list[Row]:
    # Gate order and forget bias, which includes the 1, are the same as ours.
    rows = []
    width, cell = config.projection_dim, config.cell_dim
    for layer in range(config.num_hidden_layers):
        for direction in ("forward", "backward"):
            theirs = names.lstm.format(direction=direction, layer=layer)
            ours = f"elmo.layers.{layer}.{direction}_lstm"
            rows += [
                Row(f"{theirs}.{name}", shape, (f"{ours}.{mine}",), SAME)
                for name, shape, mine in (
                    ("input_linearity.weight", (4 * cell, width), "input_map.weight"),
                    ("state_linearity.weight", (4 * cell, width), "recurrent_map.weight"),
                    ("state_linearity.bias", (4 * cell,), "input_map.bias"),
                    ("state_projection.weight", (width, cell), "output_map.weight"),
                )
            ]
    return rows


def load_rows(
    rows: list[Row], tensors: Mapping[str, torch.Tensor], described: str
) -> dict[str, torch.Tensor]:
    """
    Turn original tensors into a float32 state dict of `ElmoForPreTraining`.

    Args:
        rows: the table.
        tensors: the original tensors by name.
        described: the file that defines the expected tensors, for error messages.

    Raises:
        WeightsError: a tensor is missing, has another shape, or is not of floats.
    """
    state_dict: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for row in rows:
        tensor = tensors.get(row.original)
        if tensor is None:
            raise WeightsError(
                f"tensor {row.original} is missing, expected by {described}; there are "
                f"{abbreviated(tensors)}"
            )
        if tuple(tensor.shape) != row.shape:
            raise WeightsError(
                f"tensor {row.original} has shape {tuple(tensor.shape)}; expected {row.shape} by "
                f"{described}"
            )
        if not tensor.is_floating_point():
            raise WeightsError(f"tensor {row.original} holds {tensor.dtype}; expected float32")
        made = row.transform.load(tensor.detach().float())
        state_dict.update(zip(row.ours, (_own(t, taken) for t in made), strict=True))
    return state_dict


def _own(tensor: torch.Tensor, taken: set[int]) -> torch.Tensor:
    """Return the tensor, copied if it shares memory: safetensors refuses shared memory."""
    memory = tensor.untyped_storage()
    is_whole = memory.nbytes() == tensor.nbytes and tensor.is_contiguous()
    if not is_whole or memory.data_ptr() in taken:
        return tensor.clone(memory_format=torch.contiguous_format)
    taken.add(memory.data_ptr())
    return tensor


def dump_rows(
    rows: list[Row], state_dict: Mapping[str, torch.Tensor], prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Turn a state dict of `ElmoForPreTraining` into original tensors; inverts `load_rows`."""
    dumped = {}
    for row in rows:
        tensors = [state_dict[name].detach().to("cpu", torch.float32) for name in row.ours]
        dumped[prefix + row.original] = row.transform.dump(*tensors).contiguous().clone()
    return dumped


__all__ = [
    "HIGHWAY",
    "Names",
    "as_arrays",
    "dump_rows",
    "encoder_table",
    "is_torch_file",
    "load_rows",
    "load_state_dict",
    "load_torch",
]
