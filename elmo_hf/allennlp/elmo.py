# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""`Elmo` and `ElmoTokenEmbedder`: scalar mixes of the biLM's layers, for a larger model."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .. import ElmoScalarMix
from .bilm import (
    DEFAULT_OPTIONS_FILE,
    DEFAULT_WEIGHT_FILE,
    File,
    _ElmoBiLm,
    remove_sentence_boundaries,
)


class Elmo(nn.Module):
    """
    ELMo vectors as scalar mixes of the biLM's layers, for a layer of a larger model.

    Its state dict has AllenNLP's names, so that old checkpoints of your model load, and AllenNLP
    can load new ones.

    Args:
        options_file, weight_file: the original options.json and weights; None with `module`.
        num_output_representations: number of scalar mixes, each with its own weights.
        requires_grad: train the biLM, too; the scalar mixes are trained in any case.
        do_layer_norm: normalize each layer over the words of the batch before mixing.
        dropout: dropout probability for the results.
        vocab_to_cache: words whose context-free vectors are computed once; `word_inputs` are then
            indices in this list. Its first entry stands for padding.
        keep_sentence_boundaries: keep the vectors of `<S>` and `</S>`.
        scalar_mix_parameters: one number per layer, before the softmax, for mixes that are not
            trained.
        module: a biLM to use instead of the original files; it has `num_layers`,
            `get_output_dim()`, and a forward like that of `_ElmoBiLm`.
        stateful: carry the LSTM states from call to call, as AllenNLP does.

    Raises:
        ValueError: the arguments contradict each other; or the files are addresses, damaged, or
            not of a model that AllenNLP can represent.
    """

    def __init__(
        self,
        options_file: File | None,
        weight_file: File | None,
        num_output_representations: int,
        requires_grad: bool = False,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        vocab_to_cache: list[str] | None = None,
        keep_sentence_boundaries: bool = False,
        scalar_mix_parameters: list[float] | None = None,
        module: Any = None,
        *,
        stateful: bool = False,
    ) -> None:
        super().__init__()
        if num_output_representations < 1:
            raise ValueError(
                f"num_output_representations is {num_output_representations}; expected at least 1"
            )
        if module is None:
            module = _ElmoBiLm(
                options_file, weight_file, requires_grad, vocab_to_cache, stateful=stateful
            )
        elif options_file is not None or weight_file is not None or stateful:
            raise ValueError(
                "got module together with options_file, weight_file or stateful, which describe "
                "another biLM; pass None for both files and leave out stateful"
            )
        self._elmo_lstm = module
        self._has_cached_vocab = vocab_to_cache is not None
        self._keep_sentence_boundaries = keep_sentence_boundaries
        self._dropout = nn.Dropout(dropout)
        self._num_mixes = num_output_representations
        for number in range(num_output_representations):
            layers, trainable = module.num_layers, scalar_mix_parameters is None
            mix = ScalarMix(layers, do_layer_norm, scalar_mix_parameters, trainable)
            self.add_module(f"scalar_mix_{number}", mix)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], **more: Any) -> "Elmo":
        """Make the module from the entries of a configuration, such as a section of its JSON."""
        return cls(**params, **more)

    def get_output_dim(self) -> int:
        return int(self._elmo_lstm.get_output_dim())

    def forward(
        self, inputs: torch.Tensor, word_inputs: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """
        Compute the vectors of a batch.

        Args:
            inputs: character ids `(batch, words, 50)` from `batch_to_ids`, or with more dimensions
                before these; zeros after the last word of a sentence.
            word_inputs: `(batch, words)`, or with the same more dimensions: indices in
                `vocab_to_cache`, 0 at padding. If one is not in the list, `inputs` are used.

        Returns:
            `elmo_representations`: a list with a tensor `(batch, words, width)` for each mix, zero
            at padding; and `mask`: bool `(batch, words)`.
        """
        if inputs.ndim < 3:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}; expected character ids (batch, words, "
                "50) from batch_to_ids(sentences); word ids are the second argument, word_inputs"
            )
        if word_inputs is not None and not self._has_cached_vocab:
            warnings.warn(
                "word_inputs are ignored: this Elmo was made without vocab_to_cache", stacklevel=2
            )
            word_inputs = None
        outer = inputs.shape[:-2]
        if word_inputs is not None:
            word_inputs = word_inputs.flatten(0, -2)
        output = self._elmo_lstm(inputs.flatten(0, -3), word_inputs)
        layers, mask = output["activations"], output["mask"].bool()
        vectors, kept = [], mask
        for number in range(self._num_mixes):
            mixed = getattr(self, f"scalar_mix_{number}")(layers, mask)
            if not self._keep_sentence_boundaries:
                mixed, kept = remove_sentence_boundaries(mixed, mask)
            vectors.append(self._dropout(mixed).unflatten(0, outer))
        return {"elmo_representations": vectors, "mask": kept.unflatten(0, outer)}


class ElmoTokenEmbedder(nn.Module):
    """
    One scalar mix of ELMo, with a learned projection to a smaller width on request.

    Args:
        options_file, weight_file: the original options.json and weights.
        do_layer_norm, dropout, requires_grad, vocab_to_cache, scalar_mix_parameters: as in `Elmo`.
        projection_dim: width of the vectors after the projection; None: no projection.
        stateful: carry the LSTM states from call to call, as AllenNLP does.
    """

    def __init__(
        self,
        options_file: File = DEFAULT_OPTIONS_FILE,
        weight_file: File = DEFAULT_WEIGHT_FILE,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        requires_grad: bool = False,
        projection_dim: int | None = None,
        vocab_to_cache: list[str] | None = None,
        scalar_mix_parameters: list[float] | None = None,
        *,
        stateful: bool = False,
    ) -> None:
        super().__init__()
        self._elmo = Elmo(
            options_file,
            weight_file,
            1,
            requires_grad=requires_grad,
            do_layer_norm=do_layer_norm,
            dropout=dropout,
            vocab_to_cache=vocab_to_cache,
            scalar_mix_parameters=scalar_mix_parameters,
            stateful=stateful,
        )
        width = self._elmo.get_output_dim()
        self._projection = nn.Linear(width, projection_dim) if projection_dim else None
        self.output_dim = projection_dim or width

    def get_output_dim(self) -> int:
        return self.output_dim

    def forward(
        self, elmo_tokens: torch.Tensor, word_inputs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute vectors `(batch, words, output_dim)`; the arguments are those of `Elmo`."""
        vectors: torch.Tensor = self._elmo(elmo_tokens, word_inputs)["elmo_representations"][0]
        return vectors if self._projection is None else self._projection(vectors)


class ScalarMix(ElmoScalarMix):
    """
    `ElmoScalarMix` with AllenNLP's arguments, and its names in the state dict.

    Args:
        mixture_size: number of layers.
        do_layer_norm: normalize each layer over the words of the batch before mixing.
        initial_scalar_parameters: one number per layer, before the softmax; default: zeros.
        trainable: whether the weights and `gamma` get gradients.
    """

    def __init__(
        self,
        mixture_size: int,
        do_layer_norm: bool = False,
        initial_scalar_parameters: list[float] | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(mixture_size, layer_norm="allennlp" if do_layer_norm else None)
        if initial_scalar_parameters is not None:
            if len(initial_scalar_parameters) != mixture_size:
                raise ValueError(
                    f"got {len(initial_scalar_parameters)} scalar mix parameters; expected one for "
                    f"each of {mixture_size} layers, the context-free layer first"
                )
            self.weights.data.copy_(torch.tensor(initial_scalar_parameters))
        self.requires_grad_(trainable)
        self.register_state_dict_post_hook(_split_weights)
        self.register_load_state_dict_pre_hook(_join_weights)

    @property
    def scalar_parameters(self) -> list[torch.Tensor]:
        """The weight of each layer `(1,)`, a view of `weights`, which the optimizer trains."""
        return list(self.weights.split(1))


def _split_weights(mix: ScalarMix, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    weights = state_dict.pop(f"{prefix}weights").split(1)
    for layer, weight in enumerate(weights):
        state_dict[f"{prefix}scalar_parameters.{layer}"] = weight.clone()  # for safetensors


def _join_weights(mix: ScalarMix, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    names = [f"{prefix}scalar_parameters.{layer}" for layer in range(mix.num_layers)]
    if all(name in state_dict for name in names):
        state_dict[f"{prefix}weights"] = torch.cat([state_dict.pop(name) for name in names])


__all__ = ["Elmo", "ElmoTokenEmbedder", "ScalarMix"]
