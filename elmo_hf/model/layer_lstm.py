# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The LSTM layers: ELMo's clipped and projected LSTM, and ELMoForManyLangs' other encoder."""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_elmo import ElmoConfig
from .engine_checks import is_concrete, readable, runs_as_written
from .engine_choice import run, run_directions
from .engine_copies import KeepsCopies, KeptCopy
from .engine_cpu import CpuLstm
from .engine_gpu import GpuRunner
from .engine_weights import LstmSettings, LstmWeights, States, Unique
from .layer_alignment import run_over_words


@readable
class ElmoLstm(KeepsCopies[KeptCopy[CpuLstm]], GradientCheckpointingLayer):
    """
    One direction of one layer: a projected LSTM whose cell state and output are clipped.

    `step` and `run_reference` define it. The gate rows of both maps are ordered input, forget,
    candidate, output. The cell state is clipped before the output is computed from it, and stays
    clipped for the next word. Without a projection the output is not clipped. TensorFlow's
    `LSTMCell` and AllenNLP's `LstmCellWithProjection` have the same rules. Padding does not change
    the states, so a sentence has the same vectors alone, padded left, or padded right.

    `forward` computes the same on the fastest available engine (`engine_choice.py`). With
    activation checkpointing (`model.gradient_checkpointing_enable()`) the training engine
    recomputes only the gates in the backward pass, in one product over all words.

    Args:
        config: the model's configuration.
        reverse: read from the last word to the first.
    """

    def __init__(self, config: ElmoConfig, reverse: bool = False) -> None:
        super().__init__()
        self.reverse = reverse
        self.cell_clip = config.cell_clip
        self.projection_clip = config.projection_clip
        width, gates = config.projection_dim, 4 * config.cell_dim
        self.input_map = nn.Linear(width, gates)
        self.recurrent_map = nn.Linear(width, gates, bias=False)
        self.output_map = (
            nn.Linear(config.cell_dim, width, bias=False) if config.has_lstm_projection else None
        )
        self._copies = KeptCopy()

    def step(
        self, gates: torch.Tensor, valid: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Read one word of each sentence.

        Args:
            gates: output of `input_map` for the word, `(batch, 4 * cell_dim)`.
            valid: bool `(batch, 1)`, False at padding.
            hidden, cell: the previous states. The cell state keeps its dtype, float32 or wider.

        Returns:
            The new states, and the output `(batch, projection_dim)`, zero at padding.
        """
        gates = (gates + self.recurrent_map(hidden)).to(cell.dtype)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, -1)
        new_cell = input_gate.sigmoid() * candidate.tanh() + forget_gate.sigmoid() * cell
        if self.cell_clip is not None:
            new_cell = new_cell.clamp(-self.cell_clip, self.cell_clip)
        output = (output_gate.sigmoid() * new_cell.tanh()).to(hidden.dtype)
        if self.output_map is not None:
            output = self.output_map(output)
            if self.projection_clip is not None:
                output = output.clamp(-self.projection_clip, self.projection_clip)
        output = output.to(hidden.dtype)  # autocast may have lowered the precision
        state = torch.where(valid, output, hidden), torch.where(valid, new_cell, cell)
        return *state, torch.where(valid, output, torch.zeros_like(output))

    def run_reference(
        self, inputs: torch.Tensor, mask: torch.Tensor, state: States
    ) -> tuple[torch.Tensor, States]:
        """
        Read every sentence word by word, padding included.

        Args:
            inputs: `(batch, words, projection_dim)`.
            mask: bool `(batch, words)`, False at padding.
            state: initial hidden `(batch, projection_dim)` and cell state `(batch, cell_dim)`.

        Returns:
            Outputs `(batch, words, projection_dim)`, zero at padding, and the states after each
            sentence's last word.
        """
        hidden, cell = state
        gates = self.input_map(inputs)  # (batch, words, 4 * cell_dim)
        words = inputs.shape[1]
        outputs = [inputs] * words
        for t in reversed(range(words)) if self.reverse else range(words):
            hidden, cell, outputs[t] = self.step(gates[:, t], mask[:, t, None], hidden, cell)
        return torch.stack(outputs, 1) if words else inputs, (hidden, cell)

    def forward(
        self,
        inputs: torch.Tensor,
        mask: torch.Tensor,
        hidden: torch.Tensor,
        cell: torch.Tensor,
        unique: Unique | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Run over a batch of sentences on the fastest engine; arguments as in `run_reference`, and:

        Args:
            hidden, cell: the initial states.
            unique: the inputs deduplicated: vectors `(vectors, projection_dim)`, and the index of
                each word's vector `(batch, words)`. Only some engines use it.

        Returns:
            Outputs, and the final hidden and cell states.
        """
        outputs, (hidden, cell) = run(self, inputs, mask, (hidden, cell), unique)
        return outputs, hidden, cell

    # A method, because torch.compile breaks its graph at a nested function with annotations.
    def scan_step(self, carried: States, word: States) -> tuple[States, torch.Tensor]:
        """Call `step` with the signature that PyTorch's scan operator expects."""
        hidden, cell, output = self.step(*word, *carried)
        return (hidden, cell), output

    def maps(self) -> list[nn.Linear]:
        """Return the linear maps whose weights an engine reads without calling the modules."""
        maps = [self.input_map, self.recurrent_map, self.output_map]
        return [linear for linear in maps if linear is not None]

    def settings(self) -> LstmSettings:
        """Return everything besides the weights that changes the result: clips and direction."""
        return LstmSettings(self.cell_clip, self.projection_clip, self.reverse)

    def weights(self) -> LstmWeights:
        """Return the maps' current weights."""
        return LstmWeights(
            self.input_map.weight,
            self.input_map.bias,
            self.recurrent_map.weight,
            None if self.output_map is None else self.output_map.weight,
        )


class ElmoLayer(KeepsCopies[GpuRunner]):
    """
    One layer of the biLM: a forward and a backward LSTM; neither reads the other's output.

    Args:
        config: the model's configuration.
        layer_idx: index in the stack; layer 0, the lowest, never has a skip connection.
    """

    def __init__(self, config: ElmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.has_skip_connection = config.use_skip_connections and layer_idx > 0
        self.dropout = nn.Dropout(config.dropout)
        self.forward_lstm = ElmoLstm(config)
        self.backward_lstm = ElmoLstm(config, reverse=True) if config.bidirectional else None
        self._copies = GpuRunner()

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor,
        states: States,
        unique: Unique | None = None,
    ) -> tuple[torch.Tensor, States]:
        """
        Map hidden states `(batch, words, hidden_size)` and LSTM states `(batch, ...)` to new ones.

        The mask is `(batch, words, directions)`, False where a direction skips a word. In the
        first layer the inputs may also come deduplicated, see `ElmoLstm.forward`.
        """
        lstms = [self.forward_lstm]
        if self.backward_lstm is not None:
            lstms.append(self.backward_lstm)
        # As in bilm-tf, dropout comes first: the skip connection adds the input after dropout.
        inputs = self.dropout(hidden_states)
        words, hidden, cell = (part.chunk(len(lstms), -1) for part in (inputs, *states))
        if self.training and self.dropout.p:
            unique = None  # dropout makes equal words differ
        # accelerate loads offloaded weights for one call only, so no copy of them may stay.
        is_offloaded = hasattr(self, "_hf_hook")
        results = run_directions(
            lstms,
            words,
            [direction.contiguous() for direction in mask.unbind(-1)],
            list(zip(hidden, cell, strict=True)),
            must_call=torch.compiler.is_compiling() or not runs_as_written(lstms),
            runner=None if is_offloaded else self._copies,
            unique=unique,
        )
        if is_offloaded:
            for lstm in lstms:
                lstm.reset_engine()
        outputs = torch.cat([output for output, _ in results], -1)
        if self.has_skip_connection:
            outputs = outputs + inputs
        ends = zip(*(state for _, state in results), strict=True)
        new_hidden, new_cell = (torch.cat(part, -1) for part in ends)
        return outputs, (new_hidden, new_cell)


class ElmoMixedLayer(GradientCheckpointingLayer):
    """
    A standard biLSTM as one layer; after its first LSTM, each reads both halves of the one below.

    The same linear map projects each half to `projection_dim`. Nothing is clipped. There are no
    states to carry, as every vector depends on the whole sentence (ELMoForManyLangs `LstmbiLM`).

    Args:
        config: the model's configuration, with `num_mixed_lstms`.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            config.projection_dim,
            config.cell_dim,
            config.num_mixed_lstms,
            batch_first=True,
            dropout=config.dropout if config.num_mixed_lstms > 1 else 0.0,
            bidirectional=True,
        )
        self.projection = nn.Linear(config.cell_dim, config.projection_dim)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor, states: States, unique: object
    ) -> tuple[torch.Tensor, States]:
        """
        Map layer 0 to layer 1, both `(batch, words, hidden_size)`; arguments as in `ElmoLayer`.

        Raises:
            ValueError: the mask differs between the directions.
        """
        if is_concrete(mask) and not mask.eq(mask[..., :1]).all():
            raise ValueError(
                "attention_mask differs between the directions, but this model is a standard "
                "biLSTM (num_mixed_lstms), which needs the same; pass one mask (batch, words)"
            )
        outputs = run_over_words(self.lstm, hidden_states.chunk(2, -1)[0], mask[..., 0])
        halves = [self.projection(half) for half in outputs.chunk(2, -1)]
        return torch.cat(halves, -1).masked_fill(~mask[..., :1], 0), states


__all__ = ["ElmoLayer", "ElmoLstm", "ElmoMixedLayer"]
