# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo in PyTorch: deep contextualized word representations (Peters et al. 2018)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_elmo import ElmoConfig
from .engine_checks import runs_as_written
from .engine_choice import choose_engine
from .engine_copies import KeepsCopies
from .engine_onednn import operators_info
from .engine_training_compiled import compiler_info
from .engine_weights import States, Unique
from .layer_embeddings import ElmoEmbeddings, ElmoOutputEmbeddings
from .layer_lstm import ElmoLayer, ElmoLstm, ElmoMixedLayer
from .modeling_inputs import Inputs, check_states, check_words, make_mask, memory_dtype


@dataclass
class ElmoModelOutput(ModelOutput):
    """
    Output of `ElmoModel`. `hidden_size` is the forward half, then the backward half.

    Args:
        last_hidden_state: the top LSTM layer, `(batch, words, hidden_size)`.
        hidden_states: layer 0 and every LSTM layer, `(batch, words, hidden_size)` each, if
            requested. Layer 0 is context-free: both of its halves are the same word vector. With
            `config.output_embedding_layer`, the output embeddings come last, context-free too.
        states: hidden state `(layers, batch, hidden_size)` and cell state `(layers, batch,
            directions * cell_dim)` of every LSTM after its last word, if requested.
        attentions: always None, because ELMo has no attention.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    states: States | None = None
    attentions: None = None


class ElmoPreTrainedModel(PreTrainedModel):
    """Base class of all ELMo models: weight initialization and loading."""

    config: ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ElmoEmbeddings", "ElmoLayer", "ElmoMixedLayer"]
    model_tags = ["elmo", "bilm"]

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """
        Load a model as transformers does.

        With `output_embedding_layer=True` the output embeddings are the softmax's weight of a
        pre-training checkpoint; pass `use_word_ids=True` to its tokenizer, too. Models and
        tokenizers that were saved with these settings need none.

        Raises:
            ValueError: the checkpoint has no weight for the output embedding layer.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        missing = any(name.endswith("lm_head.weight") for name in info["missing_keys"])
        if missing and model.config.output_embedding_layer:
            raise ValueError(
                f"output_embedding_layer is True, but the weights of {model.name_or_path} hold "
                "neither such a layer nor a softmax (lm_head.weight) to take it from; load the "
                "checkpoint of an ElmoForPreTraining, or pass output_embedding_layer=False"
            )
        return (model, info) if output_loading_info else model

    def reset_engines(self) -> None:
        """
        Drop the engines' copies of the weights; the next call makes new ones.

        Call it after writes that PyTorch does not count, such as `weight.data[0] = 0`.
        """
        for module in self.modules():
            if isinstance(module, KeepsCopies):
                module.reset_engine()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights of one leaf module as bilm-tf does for training."""
        if isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -1.0, 1.0)
            if not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[0])
        elif isinstance(module, nn.Conv1d):
            self._init_convolution(module)
        elif isinstance(module, nn.Linear):
            self._init_linear(module)
        elif isinstance(module, nn.LSTM):
            _init_lstm(module)
        elif isinstance(module, ElmoOutputEmbeddings):
            init.normal_(module.weight, 0.0, module.weight.shape[1] ** -0.5)
            init.copy_(module.scale, 1 / module.weight.float().std())

    def _init_convolution(self, convolution: nn.Conv1d) -> None:
        if self.config.activation == "relu":
            init.uniform_(convolution.weight, -0.05, 0.05)
        else:
            fan_in = convolution.in_channels * convolution.kernel_size[0]
            init.normal_(convolution.weight, 0.0, fan_in**-0.5)
        init.zeros_(convolution.bias)

    def _init_linear(self, linear: nn.Linear) -> None:
        # transformers passes leaf modules without their names, so `_tag_roles` has marked them.
        role = getattr(linear, "role", None)
        if role in ("input_map", "recurrent_map"):
            bound = (6 / (2 * linear.in_features + linear.out_features)) ** 0.5
            init.uniform_(linear.weight, -bound, bound)  # Glorot's bound for the joint kernel
        elif role == "output_map":
            init.xavier_uniform_(linear.weight)
        else:
            init.normal_(linear.weight, 0.0, linear.in_features**-0.5)
        if linear.bias is None:
            return
        init.zeros_(linear.bias)
        if role == "gate":
            init.constant_(linear.bias, -2.0)
        elif role == "input_map":
            init.copy_(linear.bias, torch.eye(4)[1].repeat_interleave(linear.out_features // 4))

    def get_output_embeddings(self) -> None:
        """Return None: resizing the input embeddings must not resize the softmax over words."""
        return None

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """
        Resize the input embeddings: the character table, or the word table with token input.

        Raises:
            ValueError: the softmax shares the word table (`tie_word_embeddings=True`).
        """
        if self.config.tie_word_embeddings and (args or kwargs):
            raise ValueError(
                "resize_token_embeddings cannot resize a word table that is also the softmax's "
                "weight (tie_word_embeddings=True); make a new model with other sizes: "
                "ElmoConfig(word_vocab_size=N + 1, lm_vocab_size=N, ...)"
            )
        table = super().resize_token_embeddings(*args, **kwargs)
        if not self.config.uses_characters:
            self.config.word_vocab_size = table.num_embeddings
        return table


class ElmoModel(ElmoPreTrainedModel):
    """
    The biLM without a head: contextual word vectors from every layer.

    The model is stateless by default: a sentence has the same vectors in every call, alone or in
    any batch, padded on either side. To carry the LSTM states from batch to batch, as the original
    programs do, pass the `states` of one call to the next.

    For inference the engines keep copies of the weights in a faster layout. The next call notices
    changes by optimizers, `load_state_dict`, `.to(...)`, pruning, parametrizations, adapters, new
    parameters and in-place writes. Writes to part of a weight through `weight.data`, a NumPy view
    or another process are noticed at once by a call of 512 words or more; shorter calls notice them
    within 512 words, with a warning. Call `model.reset_engines()` after such writes.

    Args:
        config: the model's configuration.
    """

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^scalar_mix\."]
    _keys_to_ignore_on_load_missing = [r"^lm_head\.scale$"]

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.embeddings = ElmoEmbeddings(config)
        if config.num_mixed_lstms:
            self.layers = nn.ModuleList([ElmoMixedLayer(config)])
        else:
            layers = range(config.num_hidden_layers)
            self.layers = nn.ModuleList(ElmoLayer(config, layer_idx) for layer_idx in layers)
        if config.output_embedding_layer:
            # The name is that of the softmax in a pre-training checkpoint, whose weight it loads.
            self.lm_head = ElmoOutputEmbeddings(config)
        _tag_roles(self)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return getattr(self.embeddings, self._table)

    def set_input_embeddings(self, value: nn.Module) -> None:
        setattr(self.embeddings, self._table, value)

    def engine_info(self) -> dict[str, str]:
        """
        Name the engines that would run the LSTMs now, and the reason for each.

        Keys: `"inference"` and `"training"` (without and with gradients), `"operators"`, the matrix
        products that the CPU engines use, and `"kernels"`, the rest of training on a CPU.
        """
        info = {"operators": operators_info(), "kernels": compiler_info()}
        if self.config.num_mixed_lstms:
            mixed = "torch: the directions are mixed"
            return {"inference": mixed, "training": mixed, **info}
        lstm = next(module for module in self.modules() if isinstance(module, ElmoLstm))
        words = torch.zeros(1, 1, self.config.projection_dim, dtype=self.dtype, device=self.device)
        hidden, cell = self._zero_states(words)
        for purpose, gradients in (("inference", False), ("training", True)):
            with torch.set_grad_enabled(gradients):
                try:
                    info[purpose] = ": ".join(choose_engine(lstm, words, (hidden[0], cell[0])))
                except RuntimeError as error:  # the engine set by use_engine cannot run here
                    info[purpose] = f"none: {error}"
        return info

    @property
    def _table(self) -> str:
        return "char_embeddings" if self.config.uses_characters else "word_embeddings"

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_input_ids: torch.Tensor | None = None,
        states: States | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> ElmoModelOutput:
        """
        Compute all layers.

        Args:
            input_ids: character ids `(batch, words, max_characters_per_token)`, 0 at padding. For
                a token-input model: word ids `(batch, words)`, vocabulary index + 1.
            attention_mask: `(batch, words)`, 1 at words and 0 at padding; default: words whose ids
                are all 0 are padding. Or `(batch, words, directions)`, forward first, 0 where a
                direction skips a word: its states stay the same and its output is zero there.
                bilm-tf skips `</S>` forward and `<S>` backward in training. A word that all
                directions skip is padding.
            inputs_embeds: replaces `input_ids`: the output of `get_input_embeddings()`, or, for a
                character model, word vectors `(batch, words, projection_dim)` as in layer 0.
            word_input_ids: `(batch, words)`, vocabulary index + 1, for a model with a word table or
                an output embedding layer.
            states: initial LSTM states, returned by an earlier call with `use_cache=True` for as
                many sentences; default: zeros. Gradients flow through them unless detached.
            use_cache: return the final LSTM states.
            output_hidden_states: True for all layers; or the index or indices of the layers to
                return, with None for the others.
            output_attentions: ignored, since ELMo has no attention; generic code passes it.

        Raises:
            ValueError: an argument is missing or has the wrong shape or range.
        """
        inputs = Inputs(input_ids, attention_mask, inputs_embeds, word_input_ids)
        shape = check_words(self.config, inputs)
        mask = make_mask(inputs, shape, self.config.num_directions)
        if self.config.num_mixed_lstms and (use_cache or states is not None):
            raise ValueError(
                "got states or use_cache, but this model is a standard biLSTM (num_mixed_lstms), "
                "which has no states to carry to the next call; remove these arguments"
            )
        vectors, unique = self._embed(inputs)
        vectors = vectors.masked_fill(~mask.any(-1, keepdim=True), 0)
        if states is None:
            states = self._zero_states(vectors)
        hidden, cell = check_states(self.config, states, vectors)

        layer_output = vectors.repeat(1, 1, self.config.num_directions)
        all_layers, new_states = [layer_output], []
        for layer, *state in zip(self.layers, hidden, cell, strict=True):
            layer_output, new_state = layer(layer_output, mask, tuple(state), unique)
            all_layers.append(layer_output)
            new_states.append(new_state)
            unique = None  # above layer 0, equal words have different vectors
        if self.config.output_embedding_layer:
            assert word_input_ids is not None  # check_words has raised otherwise
            word_ids = word_input_ids.masked_fill(~mask.any(-1), 0)
            all_layers.append(self.lm_head(word_ids).to(vectors.dtype))

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return ElmoModelOutput(
            last_hidden_state=layer_output,
            hidden_states=select_layers(all_layers, output_hidden_states),
            states=_stack(new_states) if use_cache else None,
        )

    def _embed(self, inputs: Inputs) -> tuple[torch.Tensor, Unique | None]:
        """Return word vectors `(batch, words, projection_dim)`, and deduplicated if available."""
        input_ids, _, inputs_embeds, word_input_ids = inputs
        if not self.config.word_vocab_size:
            word_input_ids = None  # only for the output embeddings
        if not self.config.uses_characters:
            word_ids = input_ids if word_input_ids is None else word_input_ids
            return self.embeddings(word_ids=word_ids, word_embeds=inputs_embeds), None
        if inputs_embeds is not None and inputs_embeds.ndim == 3:
            return inputs_embeds, None
        embeddings = self.embeddings
        if input_ids is None or not embeddings.can_encode_unique(input_ids):
            return embeddings(input_ids, word_input_ids, char_embeds=inputs_embeds), None
        if not runs_as_written([embeddings]):
            return embeddings(input_ids, word_input_ids), None
        vectors, indices = embeddings.encode_unique(input_ids, word_input_ids)
        return F.embedding(indices, vectors), (vectors, indices)

    def _zero_states(self, vectors: torch.Tensor) -> States:
        config = self.config
        rows = (config.num_hidden_layers, vectors.shape[0])
        return (
            vectors.new_zeros(*rows, config.hidden_size),
            vectors.new_zeros(
                *rows, config.num_directions * config.cell_dim, dtype=memory_dtype(vectors)
            ),
        )


def select_layers(
    layers: list[torch.Tensor], wanted: bool | int | Iterable[int]
) -> tuple[torch.Tensor | None, ...] | None:
    """Select all layers, no layers, or the layers at some indices, with None for the others."""
    if isinstance(wanted, bool):
        return tuple(layers) if wanted else None
    indices = [wanted] if isinstance(wanted, int) else list(wanted)
    unknown = [i for i in indices if not -len(layers) <= i < len(layers)]
    if unknown:
        raise ValueError(
            f"output_hidden_states has indices {unknown}; expected True, or indices from layer 0 "
            f"(the context-free vectors) to layer {len(layers) - 1}"
        )
    kept = {i % len(layers) for i in indices}
    return tuple(layer if i in kept else None for i, layer in enumerate(layers))


def _stack(states: list[States]) -> States:
    hidden, cell = zip(*states, strict=True)
    return torch.stack(hidden), torch.stack(cell)


def _init_lstm(lstm: nn.LSTM) -> None:
    """Initialize input maps by Glorot's rule, recurrent maps orthogonal, forget biases with 1."""
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_ih"):
            init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            init.orthogonal_(parameter)
        else:
            init.zeros_(parameter)
            if name.startswith("bias_ih"):
                init.copy_(parameter, torch.eye(4)[1].repeat_interleave(lstm.hidden_size))


def _tag_roles(model: ElmoModel) -> None:
    """Mark the linear maps that `_init_linear` does not initialize in the usual way."""
    for name, module in model.named_modules():
        role = name.rsplit(".", 1)[-1]
        if role in ("gate", "input_map", "recurrent_map", "output_map"):
            module.role = role


__all__ = ["ElmoModel", "ElmoModelOutput", "ElmoPreTrainedModel"]
