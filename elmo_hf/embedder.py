# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Vectors of words and of sentences, from the name of a model."""

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any

import numpy as np
import torch

from .batches import Limits, Sentence, check_arguments, check_iterable, check_sentences
from .columns import add_column, read_column
from .embedding import Encoder, embed_sentences
from .layers import (
    POOLINGS,
    Layers,
    Pooling,
    check_layers,
    mix_factors,
    pool_layers,
    side_by_side,
    to_indices,
)
from .loading import Loaded, Source, find_source, load_shared
from .model.configuration_elmo import ElmoConfig
from .model.engine_onednn import dequantize
from .model.layer_scalar_mix import ElmoScalarMix
from .model.modeling_elmo import ElmoModel, ElmoPreTrainedModel
from .model.tokenization_elmo import ElmoTokenizer
from .progress import WordProgress

BATCH_SIZE = 128
# Fields that change vectors, but neither the names nor the shapes of the weights.
CONFIG_FIELDS = ("activation", "cell_clip", "projection_clip", "use_skip_connections", "filters")
Join = Callable[[list[np.ndarray]], np.ndarray]


class ElmoEmbedder:
    """
    Class that computes a vector per word (`embed`) or per sentence (`encode`).

    An embedder of a folder or Hub repository loads it at its first use, once per process for all
    embedders with the same dtype and device. Its pickle holds its name and settings instead of the
    weights, so it is small and `datasets` recognizes it in its cache. The pickle also holds a
    SHA-256 of the folder's files: if they have changed when it is used, that is an error. If the
    weights of `embedder.model` are changed in memory, that is an error as well; pass the changed
    model itself to a new embedder. An embedder of a model in memory is pickled with the weights.

    Args:
        model: a folder, the name of a Hub repository, or a model in memory in evaluation mode. The
            biLM of a model with a head is used.
        tokenizer: the tokenizer saved with a model in memory; for a folder, default: its own.
        layers: what a word's vector is made of. `"average"`: the mean of all layers; `"top"`: the
            top LSTM layer; `"mix"`: the learned scalar mix, the paper's ELMo vector; an index: one
            layer, 0 being the context-free one. `"all"` or indices: several layers.
        pooling: how `encode` makes a sentence's vector from those of its words, without
            boundaries: `"mean"`, `"max"`, or `"ends"`: the last vectors that the forward and the
            backward LSTMs compute.
        mix: the mix for `layers="mix"`: an `ElmoScalarMix`; the factor of each layer; or the number
            of a mix in the folder's conversion.json. Default: the mix of the model's head, else of
            its conversion.json.
        dtype: dtype of the computation, for a folder; default: `dtype` in its config.json, which is
            float32 for this project's checkpoints.
        device: for a folder, such as "cpu"; default: the GPU if there is one.
        revision: branch, tag or commit of a Hub repository.
        output_embedding_layer: add the language model's output embeddings as the last layer, as in
            `ElmoConfig`, for a folder that was saved without them.
        batch_words, window, workers: as in `embed_corpus`.
        chunk_words: a longer sentence is computed in chunks of so many words, which bounds the
            memory of the computation. States are carried from chunk to chunk in each direction, so
            that the vectors are those of the whole sentence, up to rounding.
        text_column, vector_column: names of the columns that a call reads and adds.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        model: str | os.PathLike | ElmoPreTrainedModel,
        tokenizer: ElmoTokenizer | None = None,
        *,
        layers: Layers = "average",
        pooling: Pooling = "mean",
        mix: ElmoScalarMix | Sequence[float] | int | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        revision: str | None = None,
        output_embedding_layer: bool = False,
        batch_words: int = 8192,
        window: int = 1024,
        workers: int | None = None,
        chunk_words: int | None = None,
        text_column: str = "text",
        vector_column: str = "vector",
    ) -> None:
        self.layers: Layers = layers if isinstance(layers, str) else to_indices(layers)
        self.mix = mix_factors(mix) if isinstance(mix, ElmoScalarMix) else mix
        self.pooling, self.dtype, self.device = pooling, dtype, device
        self.batch_words, self.window, self.workers = batch_words, window, workers
        self.chunk_words = chunk_words
        self.text_column, self.vector_column = text_column, vector_column
        self._tokenizer = tokenizer
        self._source: Source | None = None
        self._given: Any = None
        self._loaded: Loaded | None = None
        self._process = 0  # the process that has loaded
        if isinstance(model, (str, os.PathLike)):
            self._source = find_source(model, revision, output_embedding_layer)
        else:
            settings = dtype, device, revision, output_embedding_layer or None
            self._given = _check_model(model, tokenizer, *settings)
        self._check_settings()

    # --- The model ---

    @property
    def model(self) -> ElmoModel:
        """The biLM; loaded at first use."""
        if self._source is None:
            return getattr(self._given, "elmo", self._given)
        return self._load().model

    @property
    def tokenizer(self) -> ElmoTokenizer:
        """The tokenizer; loaded at first use."""
        return self._load().tokenizer if self._tokenizer is None else self._tokenizer

    @property
    def config(self) -> ElmoConfig:
        """The model's configuration; needs no weights."""
        if self._source is None:
            return self._given.config
        if self._loaded is not None:
            return self._loaded.model.config
        if not self._source.is_folder:
            self._source = self._source.pin()
        return self._source.config()

    @property
    def dimension(self) -> int:
        """Width of a word's vector in one layer."""
        return self.config.hidden_size

    def _load(self) -> Loaded:
        assert self._source is not None
        if self._loaded is None or self._process != os.getpid():
            self._source = self._source.pin()
            self._loaded = load_shared(self._source, self.dtype, self.device)
            self._process = os.getpid()
        if self._loaded.is_changed():
            raise RuntimeError(
                f"the weights loaded from {self._source.name} were changed in memory, so their "
                "vectors are no longer those of the folder; pass the changed model itself: "
                "ElmoEmbedder(model, tokenizer)"
            )
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        if self._source is None:
            return self.__dict__
        self._source = self._source.pin()
        return {**self.__dict__, "_loaded": None, "_process": 0}

    def __repr__(self) -> str:
        model = self._source.name if self._source else type(self._given).__name__
        return f"ElmoEmbedder({model!r}, layers={self.layers!r}, pooling={self.pooling!r})"

    # --- Vectors ---

    def embed(
        self,
        sentences: Iterable[Sentence],
        *,
        progress: bool | None = None,
        join: bool = False,
        reproducible: bool = False,
    ) -> Iterator[np.ndarray]:
        """
        Yield the vectors of each sentence's words, in the order of the sentences.

        The sentences are read in windows, so there may be any number of them.

        Args:
            sentences: all texts, or all lists of words.
            progress: show a progress bar with words per second.
            join: put several layers side by side into one vector per word.
            reproducible: the same bits whatever `workers` is, on the same kind of CPU. Else it
                changes the vectors by rounding.

        Returns:
            An iterator over float32 arrays `(words, dimension)`. With several layers `(layers,
            words, dimension)`, or, with `join`, `(words, layers * dimension)`.

        Raises:
            ValueError: an argument or a sentence is invalid.
            RuntimeError: a sentence cannot be embedded; names the sentence.
        """
        several = side_by_side if join else np.stack
        make = operator.itemgetter(0) if self._is_single else several
        return self._embed(sentences, make, progress=progress, reproducible=reproducible)

    def encode(
        self,
        inputs: Sentence | Sequence[Sentence],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """
        Compute one vector per sentence, with the keywords of sentence-transformers.

        Args:
            inputs: one text, or a list of texts, or a list of lists of words. A list of strings is
                always a list of texts: pass one sentence in words as `[["two", "words"]]`.
            batch_size: maximum number of sentences in a batch.
            show_progress_bar: show a progress bar with words per second.
            convert_to_numpy: False: return a list of tensors, for one text a tensor.
            convert_to_tensor: return one tensor, on the model's device.
            normalize_embeddings: scale every vector to length 1.

        Returns:
            `(sentences, joined_dimension)`, float32; for one text `(joined_dimension,)`. The row of
            a sentence without words is zero.

        Raises:
            ValueError: an input is neither a text nor a list of words.
            RuntimeError: a sentence cannot be embedded; names the sentence.
        """
        sentences = [inputs] if isinstance(inputs, str) else [*check_iterable(inputs)]
        pool = partial(pool_layers, pooling=self.pooling, directions=self.config.num_directions)
        vectors = self._embed(
            sentences, pool, BATCH_SIZE if batch_size is None else batch_size, show_progress_bar
        )
        rows = np.zeros((len(sentences), self.joined_dimension), np.float32)
        for row, vector in zip(rows, vectors, strict=True):
            row[:] = vector
        if normalize_embeddings:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(np.finfo(np.float32).tiny)
        found = rows[0] if isinstance(inputs, str) else rows
        if convert_to_tensor:
            return torch.from_numpy(found).to(self.model.device)
        if convert_to_numpy:
            return found
        return torch.from_numpy(found) if isinstance(inputs, str) else [*torch.from_numpy(found)]

    def __call__(self, batch: Any) -> Any:
        """
        Add a column with the word vectors of a batch, for `datasets.map` and Ray's `map_batches`.

        `dataset.map(embedder, batched=True)` and `data.map_batches(ElmoEmbedder,
        fn_constructor_kwargs={"model": folder}, ...)` call it. Several layers are put side by side.

        Args:
            batch: columns by name, with texts or lists of words in `text_column`: a dict of lists
                or NumPy arrays, a pandas DataFrame or a pyarrow Table.

        Returns:
            The same kind of batch with `vector_column`: for each sentence an array
            `(words, joined_dimension)`, in a Table `list<fixed_size_list<float>>`.
        """
        vectors = [*self.embed(read_column(batch, self.text_column), join=True)]
        return add_column(batch, self.vector_column, vectors, self.joined_dimension)

    def fingerprint(self) -> str:
        """
        Return a SHA-256 of all that changes vectors: weights, tokenizer, layers, pooling, dtype.

        It is the same for a folder, its copy, and the loaded model in memory.
        """
        digest = hashlib.sha256()
        for name, weight in sorted(self.model.state_dict().items()):
            values = dequantize(weight).detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.flatten().view(torch.uint8).numpy().data)
        config = self.model.config
        layers, weights = self.find_layers()
        settings = {
            "config": {name: getattr(config, name) for name in CONFIG_FIELDS},
            "layers": layers,
            "weights": weights,
            "pooling": self.pooling,
            "tokenizer": _describe_tokenizer(self.tokenizer),
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    # --- Settings ---

    @property
    def joined_dimension(self) -> int:
        """Width of several layers side by side: `dimension` times the number of layers."""
        layers, _ = (0, None) if self._is_single else self.find_layers()
        return self.dimension * (1 if isinstance(layers, int) else len(layers))

    @property
    def _is_single(self) -> bool:
        return isinstance(self.layers, int) or self.layers in ("average", "top", "mix")

    def _embed(
        self,
        sentences: Iterable[Sentence],
        join: Join,
        batch_size: int = BATCH_SIZE,
        progress: bool | None = None,
        reproducible: bool = False,
    ) -> Iterator[np.ndarray]:
        self._check_settings()
        limits = Limits(self.window, batch_size, self.batch_words)
        model = self.model
        check_arguments(model, sentences, workers=self.workers, **limits._asdict())
        layers, weights = self.find_layers()
        bar = WordProgress(sentences) if progress else None
        encoder = Encoder(
            model,
            self.tokenizer,
            layers,
            weights,
            chunk_words=self.chunk_words,
            join=bar.counting(join) if bar else join,
        )
        update = bar.update if bar else None
        vectors = embed_sentences(
            encoder,
            check_sentences(sentences),
            limits,
            self.workers,
            progress=update,
            reproducible=reproducible,
        )
        return bar.show(vectors) if bar else vectors

    def find_layers(self) -> tuple[int | list[int], Sequence[float] | None]:
        """Return the layers to compute, and their weights if they are summed."""
        config = self.config
        count = config.num_hidden_states
        if self.layers == "average":
            return [*range(count)], [1 / count] * count
        if self.layers == "mix":
            factors = self._find_mix()
            if len(factors) != count:
                raise ValueError(f"mix has {len(factors)} factors; the model has {count} layers")
            used = [i for i, factor in enumerate(factors) if factor] or [0]
            return used, [factors[i] for i in used]
        if isinstance(self.layers, str):
            return (config.num_hidden_layers if self.layers == "top" else [*range(count)]), None
        if isinstance(self.layers, int):
            return self.layers % count, None
        return [layer % count for layer in self.layers], None

    def _find_mix(self) -> Sequence[float]:
        if not isinstance(self.mix, (int, NoneType)):
            return self.mix
        if self._source is None:
            head, recorded = getattr(self._given, "scalar_mix", None), []
        else:
            head, recorded = self._load().mix, self._load().recorded
        if self.mix is None and head is not None:
            return mix_factors(head)
        if self.mix is None and len(recorded) == 1:
            return mix_factors(recorded[0])
        if isinstance(self.mix, int) and 0 <= self.mix < len(recorded):
            return mix_factors(recorded[self.mix])
        if recorded:
            raise ValueError(
                f"layers is 'mix' and mix is {self.mix}, but the model has {len(recorded)} learned "
                f"mixes; choose one with mix=, such as mix={len(recorded) - 1}"
            )
        raise ValueError(
            "layers is 'mix', but the model has no learned mix; pass mix=, an ElmoScalarMix or the "
            "factor of each layer, or use layers='average'"
        )

    def _check_settings(self) -> None:
        """Raise ValueError for settings that contradict each other or the model."""
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}; expected one of {', '.join(POOLINGS)}")
        if not isinstance(self.dtype, (torch.dtype, NoneType)):
            raise ValueError(f"dtype is {self.dtype!r}; expected a torch.dtype: torch.bfloat16")
        if self.mix is not None and self.layers != "mix":
            raise ValueError(f"mix is given, but layers is {self.layers!r}; pass layers='mix'")
        if self.text_column == self.vector_column:
            raise ValueError(f"text_column and vector_column are both {self.text_column!r}")
        if self.chunk_words is not None and self.chunk_words < 1:
            raise ValueError(f"chunk_words is {self.chunk_words}; expected at least 1")
        check_layers(self.layers)
        if self._source and not self._source.is_folder and self._source.digest is None:
            return  # a repository is downloaded at the first use
        config = self.config
        if self.chunk_words and config.num_mixed_lstms:
            raise ValueError(
                "this model is a standard biLSTM (num_mixed_lstms), whose directions cannot be "
                "computed in chunks; leave out chunk_words"
            )
        check_layers(self.layers, config.num_hidden_states)


def load(name_or_path: str | os.PathLike, **settings: Any) -> ElmoEmbedder:
    """
    Load a model that gives vectors: `load("folder").embed(sentences)`.

    Args:
        name_or_path: a folder, or the name of a Hub repository.
        settings: keyword arguments of `ElmoEmbedder`.

    Returns:
        An `ElmoEmbedder`, whose weights are loaded.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a setting is invalid.
    """
    embedder = ElmoEmbedder(name_or_path, **settings)
    embedder.model, embedder.find_layers()  # errors of loading belong here
    return embedder


# --- Arguments ---


def _check_model(model: Any, tokenizer: Any, *settings: object) -> Any:
    """Return a model in memory; raise ValueError if it cannot be used as such."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind != "elmo" or not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"model is a {type(model).__name__}; expected a folder, the name of a Hub repository, "
            "or an ElmoModel"
        )
    if tokenizer is None:
        raise ValueError(
            "a model in memory needs its tokenizer: ElmoEmbedder(model, tokenizer), with the "
            "tokenizer from ElmoTokenizer.from_pretrained(folder)"
        )
    if any(setting is not None for setting in settings):
        raise ValueError(
            "dtype, device, revision and output_embedding_layer are for folders; convert a model "
            "in memory yourself: model.to(device, dtype)"
        )
    return model


def _describe_tokenizer(tokenizer: ElmoTokenizer) -> dict[str, Any]:
    """Return all settings of a tokenizer that change the ids of a sentence."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    reads_words = tokenizer.use_word_ids or not tokenizer.use_characters
    return {
        # These are set anew by every call.
        "backend": {key: backend[key] for key in backend if key not in ("padding", "truncation")},
        "width": tokenizer.max_characters_per_token,
        "inputs": [tokenizer.use_characters, tokenizer.use_word_ids],
        "vocabulary": [tokenizer.word_unk_token, tokenizer.lm_vocab] if reads_words else None,
    }


__all__ = ["ElmoEmbedder", "Layers", "load"]
