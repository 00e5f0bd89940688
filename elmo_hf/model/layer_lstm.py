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
    One direction of one layer: a projected LSTM whose memory and output are clipped.

    `step` and `run_reference` define it. Gate rows of both maps stand in the order input, forget,
    candidate, output. The memory is clipped before the output is formed and carried clipped;
    without a projection the output is not clipped. These are the rules of TensorFlow's `LSTMCell`
    and of AllenNLP's `LstmCellWithProjection`. A padding word leaves the state as it was, wherever
    it stands, so that a sentence has the same vectors alone, padded left, or padded right.

    `forward` computes the same on the fastest engine that can serve (`engine_choice.py`). Under
    activation checkpointing (`model.gradient_checkpointing_enable()`) the engine for training
    recomputes only the gates in the backward pass, by one product over all words.

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
        Read one word.

        Args:
            gates: what `input_map` gives for the word, `(batch, 4 * cell_dim)`.
            valid: bool `(batch, 1)`, False at padding.
            hidden, cell: the state before; the memory keeps its own, at least single, precision.

        Returns:
            The state after, and the output `(batch, projection_dim)`, zero at padding.
        """
        gates = (gates + self.recurrent_map(hidden)).to(cell.dtype)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, -1)
        memory = input_gate.sigmoid() * candidate.tanh() + forget_gate.sigmoid() * cell
        if self.cell_clip is not None:
            memory = memory.clamp(-self.cell_clip, self.cell_clip)
        output = (output_gate.sigmoid() * memory.tanh()).to(hidden.dtype)
        if self.output_map is not None:
            output = self.output_map(output)
            if self.projection_clip is not None:
                output = output.clamp(-self.projection_clip, self.projection_clip)
        output = output.to(hidden.dtype)  # autocast may have made it shorter
        state = torch.where(valid, output, hidden), torch.where(valid, memory, cell)
        return *state, torch.where(valid, output, torch.zeros_like(output))

    def run_reference(
        self, inputs: torch.Tensor, mask: torch.Tensor, state: States
    ) -> tuple[torch.Tensor, States]:
        """
        Read every sentence word after word, padding included.

        Args:
            inputs: `(batch, words, projection_dim)`.
            mask: bool `(batch, words)`, False at padding.
            state: output `(batch, projection_dim)` and memory `(batch, cell_dim)` to start from.

        Returns:
            Outputs `(batch, words, projection_dim)`, zero at padding, and the state after each
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
            hidden, cell: the state to start from.
            unique: the inputs deduplicated: vectors `(vectors, projection_dim)`, and the index of
                each word's vector `(batch, words)`. Engines that can gain from it use it.

        Returns:
            Outputs, hidden and cell.
        """
        outputs, (hidden, cell) = run(self, inputs, mask, (hidden, cell), unique)
        return outputs, hidden, cell

    # A method, since the annotations of a nested function would break a graph.
    def scan_step(self, carried: States, word: States) -> tuple[States, torch.Tensor]:
        """`step` in the form that PyTorch's scan operator calls."""
        hidden, cell, output = self.step(*word, *carried)
        return (hidden, cell), output

    def maps(self) -> list[nn.Linear]:
        """The linear maps that an engine reads instead of calling them."""
        maps = [self.input_map, self.recurrent_map, self.output_map]
        return [linear for linear in maps if linear is not None]

    def settings(self) -> LstmSettings:
        """Everything besides the weights that changes the result: clips and direction."""
        return LstmSettings(self.cell_clip, self.projection_clip, self.reverse)

    def weights(self) -> LstmWeights:
        """The maps' weights as they are now."""
        return LstmWeights(
            self.input_map.weight,
            self.input_map.bias,
            self.recurrent_map.weight,
            None if self.output_map is None else self.output_map.weight,
        )


class ElmoLayer(KeepsCopies[GpuRunner]):
    """
    A forward and a backward LSTM side by side; neither sees the other's output.

    Args:
        config: the model's configuration.
        layer_idx: place in the stack; the first layer never has a skip connection.
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
        `(batch, words, hidden_size)` and this layer's states `(batch, ...)`, in and out.

        The mask is `(batch, words, directions)`, False where a direction does not read. In the
        first layer the inputs may also come deduplicated, see `ElmoLstm.forward`.
        """
        lstms = [self.forward_lstm]
        if self.backward_lstm is not None:
            lstms.append(self.backward_lstm)
        # bilm-tf drops the input outside the skip connection, which therefore carries it dropped.
        inputs = self.dropout(hidden_states)
        words, hidden, cell = (part.chunk(len(lstms), -1) for part in (inputs, *states))
        if self.training and self.dropout.p:
            unique = None  # dropout differs from word to word
        # Weights that accelerate brings and takes away must leave no copy behind.
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
    A stack of bidirectional LSTMs, the second reading both halves of the first, as one layer.

    One linear map brings each half to `projection_dim`. Nothing is clipped, and no memory is
    carried: a word's vector depends on the whole sentence (ELMoForManyLangs `LstmbiLM`).

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
        `(batch, words, hidden_size)`, twice layer 0, to the same; arguments are `ElmoLayer`'s.

        Raises:
            ValueError: the mask lets the directions read different words.
        """
        if is_concrete(mask) and not mask.eq(mask[..., :1]).all():
            raise ValueError(
                "attention_mask differs between the directions, which this model's layers mix; "
                "give one mask (batch, words)"
            )
        outputs = run_over_words(self.lstm, hidden_states.chunk(2, -1)[0], mask[..., 0])
        halves = [self.projection(half) for half in outputs.chunk(2, -1)]
        return torch.cat(halves, -1).masked_fill(~mask[..., :1], 0), states


__all__ = ["ElmoLayer", "ElmoLstm", "ElmoMixedLayer"]
