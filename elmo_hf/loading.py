# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Finds saved models, loads each once per process, and detects changes of files and weights."""

import difflib
import functools
import hashlib
import json
import os
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import initialization as init

from .batches import use_one_thread_if_forked
from .model.configuration_elmo import ElmoConfig
from .model.layer_scalar_mix import ElmoScalarMix
from .model.modeling_elmo import ElmoModel
from .model.modeling_elmo_heads import ElmoTaskModel
from .model.tokenization_elmo import ElmoTokenizer

# What loading reads; a folder's other files may change.
PATTERNS = ("*.json", "*.safetensors", "*.bin", "vocab.txt")
RECORD = "conversion.json"


@dataclass(frozen=True)
class Source:
    """
    A saved model.

    Args:
        name: absolute path of a folder, or NAMESPACE/NAME of a Hub repository.
        revision: branch, tag or commit of the repository.
        digest: SHA-256 of the folder's files, or commit of the repository; None: not known yet.
        output_embeddings: add the layer of output embeddings, if the model was saved without it.
    """

    name: str
    revision: str | None = None
    digest: str | None = None
    output_embeddings: bool = False

    @property
    def is_folder(self) -> bool:
        return os.path.isabs(self.name)

    def pin(self) -> "Source":
        """Return the source with the digest of what is there now, unless it has a digest."""
        if self.digest is not None:
            return self
        if self.is_folder:
            return replace(self, digest=_digest(Path(self.name)))
        commit = _download(self.name, self.revision).name
        return replace(self, revision=commit, digest=commit)

    def folder(self) -> Path:
        """Return the local folder of a pinned source; a repository is downloaded once."""
        return Path(self.name) if self.is_folder else _download_once(self.name, self.revision)

    def config(self) -> ElmoConfig:
        """Read config.json; raise ValueError unless it describes an ELMo model."""
        folder = self.folder()
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no config.json, so it is no model folder; original weights are "
                f"converted with: elmo-hf convert {folder} NEW_FOLDER"
            )
        kind = ElmoConfig.get_config_dict(folder)[0].get("model_type")
        if kind != "elmo":
            raise ValueError(f"{folder} holds a model of type {kind!r}; expected 'elmo'")
        return ElmoConfig.from_pretrained(folder, **self.settings("output_embedding_layer"))

    def settings(self, name: str) -> dict[str, bool]:
        """Return the setting that adds the output embeddings, called `name`, if they are wanted."""
        return {name: True} if self.output_embeddings else {}


def _download(name: str, revision: str | None) -> Path:
    """Return the folder of the local cache that holds a repository at a commit."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*PATTERNS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{name} is no folder here, and the Hub did not give it: {' '.join(str(error).split())}"
        ) from error


_download_once = functools.lru_cache(maxsize=None)(_download)


def find_source(
    name: str | os.PathLike, revision: str | None = None, output_embeddings: bool = False
) -> Source:
    """
    Return the source that a user named.

    Raises:
        FileNotFoundError: there is no such folder, and it is no name of a Hub repository.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision is for Hub repositories, but {text} is a folder")
        return Source(str(path.resolve()), output_embeddings=output_embeddings)
    if path.exists():
        raise FileNotFoundError(f"{text} is a file; pass the folder that holds the model")
    is_repository = re.fullmatch(r"\w[\w.-]*/[\w.-]+", text) and not path.parent.is_dir()
    if not is_repository:
        raise FileNotFoundError(f"there is no folder {text}{_nearest(path)}")
    return Source(text, revision, output_embeddings=output_embeddings)


@contextmanager
def damage_explained(folder: Path) -> Iterator[None]:
    """Raise ValueError, which names the folder, for damaged weights or a damaged tokenizer."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"the weights in {folder} are damaged, or only a pointer of Git LFS ({error}); "
            "download them again, for instance with: git lfs pull"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"the tokenizer in {folder} is damaged: {error}") from error


@dataclass(eq=False)
class Loaded:
    """A loaded model, shared by all embedders of the same source in this process."""

    model: ElmoModel
    tokenizer: ElmoTokenizer
    mix: ElmoScalarMix | None  # learned with the model's head
    recorded: list[ElmoScalarMix]  # those of a converted model, in its conversion.json
    weights: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = self._describe()

    def is_changed(self) -> bool:
        """Whether weights were replaced, or written to in a way that PyTorch counts."""
        return self._describe() != self.weights

    def _describe(self) -> list[tuple[Any, ...]]:
        return [(name, type(p), p.dtype, p._version) for name, p in self.model.named_parameters()]


_loaded: "weakref.WeakValueDictionary[tuple[Any, ...], Loaded]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def load_shared(source: Source, dtype: torch.dtype | None, device: str | None) -> Loaded:
    """
    Load a pinned source, unless this process has loaded it already.

    Args:
        source: the result of `Source.pin`.
        dtype: default: `dtype` in the folder's config.json.
        device: default: the GPU if there is one, else the CPU.

    Raises:
        RuntimeError: the folder's files have changed since the source was pinned.
    """
    # A forked process loads anew: threads of its parent may have held the old model's locks.
    key = (source, dtype, device, os.getpid())
    with _lock:
        loaded = _loaded.get(key)
        if loaded is None or loaded.is_changed():
            loaded = _loaded[key] = _load(source, dtype, device)
        return loaded


def _load(source: Source, dtype: torch.dtype | None, device: str | None) -> Loaded:
    use_one_thread_if_forked()
    config, folder = source.config(), source.folder()
    if source.is_folder and _digest(folder) != source.digest:
        raise RuntimeError(
            f"the files in {folder} have changed since this embedder first read them, so its "
            "vectors would change; make a new ElmoEmbedder"
        )
    layer = source.settings("output_embedding_layer")
    with damage_explained(folder):
        head, info = _Head.from_pretrained(folder, output_loading_info=True, **layer)
        tokenizer = ElmoTokenizer.from_pretrained(folder, **source.settings("use_word_ids"))
    if missing := sorted(name for name in info["missing_keys"] if name.startswith("elmo.")):
        raise ValueError(f"the weights in {folder} are incomplete: {', '.join(missing[:3])} ..")
    mix = None if head.scalar_mix.gamma.isnan() else head.scalar_mix
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = head.elmo.to(device=device, dtype=dtype).eval()
    return Loaded(model, tokenizer, mix, recorded_mixes(folder, config))


class _Head(ElmoTaskModel):
    """Class that loads the biLM and, if there is one, the scalar mix of any head."""

    _keys_to_ignore_on_load_unexpected = [r"^(?!elmo\.|scalar_mix\.)"]
    _keys_to_ignore_on_load_missing = [
        *ElmoTaskModel._keys_to_ignore_on_load_missing,
        r"^task_lstm\.",
    ]

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ElmoScalarMix):
            init.constant_(module.gamma, float("nan"))  # stays if there is no mix to load


def recorded_mixes(folder: Path, config: ElmoConfig) -> list[ElmoScalarMix]:
    """Return the mixes that a converted folder's conversion.json stores."""
    path, mixes = folder / RECORD, []
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for stored in record.get("scalar_mixes", []):
        mix = ElmoScalarMix(config.num_hidden_states, config.mix_layers, config.mix_layer_norm)
        with torch.no_grad():
            mix.weights.copy_(torch.tensor(stored["weights"]))
            mix.gamma.fill_(stored["gamma"])
        mixes.append(mix)
    return mixes


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of the files that loading reads."""
    digest = hashlib.sha256()
    paths = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    for path in sorted(paths):
        status = path.stat()
        content = _file_digest(str(path), status.st_size, status.st_mtime_ns)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_digest(path: str, size: int, modified: int) -> str:
    """SHA-256 of a file; `size` and `modified` make that a changed file is read again."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _nearest(path: Path) -> str:
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _begin_as_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_as_child)


__all__ = [
    "Loaded",
    "Source",
    "damage_explained",
    "find_source",
    "load_shared",
    "recorded_mixes",
]
