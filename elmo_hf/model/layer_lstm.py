# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The LSTM layers: ELMo's clipped and projected LSTM, and ELMoForManyLangs' other encoder."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .configuration_elmo import ElmoConfig
from .engine_choice import forced_engine
from .engine_cpu import CpuLstmCache, find_obstacle, is_ordinary
from .engine_gpu import GpuRunner, find_gpu_obstacle, read_once
from .engine_gpu_triton import find_kernels
from .engine_threads import SMALL_LSTM, rest_alone, run_side_by_side
from .engine_training import clipped_lstm
from .engine_weights import LstmSettings, LstmWeights, States
from .layer_alignment import run_over_words

# Vectors `(vectors, projection_dim)`, and each word's place among them `(batch, words)`.
Distinct = tuple[torch.Tensor, torch.Tensor]


class ElmoLstm(nn.Module):
    """
    One direction of one layer: a projected LSTM whose memory and output are clipped.

    Gate rows of both maps stand in the order input, forget, candidate, output. The memory is
    clipped before the output is formed and carried clipped; without a projection the output is
    not clipped. These are the rules of TensorFlow's `LSTMCell` and of AllenNLP's
    `LstmCellWithProjection`. A padding word leaves the state as it was, wherever it stands, so
    that a sentence gives the same vectors alone, padded left, or padded right.

    `run_reference` is the definition; `choose_engine` picks the fastest engine that can serve.
    Under activation checkpointing (`model.gradient_checkpointing_enable()`) the gates are not kept
    for the backward pass, which makes them again by one product; the reference engine runs again.

    Args:
        config: the model's configuration.
        reverse: read from the last word to the first.
    """

    # transformers sets both when activation checkpointing is turned on or off.
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

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
        self._prepared = CpuLstmCache()

    def forward(
        self,
        inputs: torch.Tensor,
        mask: torch.Tensor,
        state: States,
        distinct: Distinct | None = None,
    ) -> tuple[torch.Tensor, States]:
        """
        Run over a batch of sentences.

        Args:
            inputs: `(batch, words, projection_dim)`.
            mask: bool `(batch, words)`, False at padding.
            state: output `(batch, projection_dim)` and memory `(batch, cell_dim)` to start from.
            distinct: the same as `inputs`, said with less.

        Returns:
            Outputs `(batch, words, projection_dim)`, zero at padding, and the state after each
            sentence's last word read.
        """
        engine, _ = self.choose_engine(inputs, state)
        if engine == "gpu":
            return read_once(self.weights(), self.settings(), inputs, mask, state)
        if engine == "cpu":
            prepared = self._prepared.get(self.weights(), self.settings())
            return prepared.run(inputs, mask, *state, distinct=distinct)
        if engine == "cpu_training":
            return clipped_lstm(
                inputs,
                mask,
                *state,
                **self.weights()._asdict(),
                cell_clip=self.cell_clip,
                projection_clip=self.projection_clip,
                reverse=self.reverse,
                recompute=self.gradient_checkpointing and self.training,
            )
        if engine == "scan":
            return self.run_scan(inputs, mask, state)
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(self.run_reference, inputs, mask, state)
        return self.run_reference(inputs, mask, state)

    def choose_engine(self, inputs: torch.Tensor, state: States) -> tuple[str, str]:
        """The engine for these arguments, and why it is that one."""
        if (forced := forced_engine()) is not None:
            kernels = f"; {find_kernels(inputs.device).why}" if forced == "gpu" else ""
            return forced, f"use_engine asks for it{kernels}"
        if torch.compiler.is_compiling():
            return "scan", "the model is being compiled or exported"
        maps = [self.input_map, self.recurrent_map, self.output_map]
        if any(not is_unhooked(linear) for linear in maps if linear is not None):
            return "reference", "a map has a hook or is no plain nn.Linear"
        if inputs.is_cuda:
            obstacle = find_gpu_obstacle((inputs, *state), self.weights())
            if obstacle is None:
                kernels = find_kernels(inputs.device).why
                return "gpu", f"no gradients are wanted on a GPU; {kernels}"
        else:
            obstacle = find_obstacle((inputs, *state), self.weights())
            if obstacle is None:
                return "cpu", "no gradients are wanted on the CPU"
        if torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
            tensors = (inputs, *state, *self.parameters())
            ordinary = all(map(is_ordinary, tensors))
            if ordinary and any(tensor.requires_grad for tensor in tensors):
                return "cpu_training", "gradients are wanted"
        return "reference", obstacle

    def run_reference(
        self, inputs: torch.Tensor, mask: torch.Tensor, state: States
    ) -> tuple[torch.Tensor, States]:
        """`forward` as it is defined: word after word, padding included."""
        hidden, cell = state
        gates = self.input_map(inputs)  # (batch, words, 4 * cell_dim)
        words = inputs.shape[1]
        outputs = [inputs] * words
        for t in reversed(range(words)) if self.reverse else range(words):
            hidden, cell, outputs[t] = self.step(gates[:, t], mask[:, t, None], hidden, cell)
        return torch.stack(outputs, 1) if words else inputs, (hidden, cell)

    def run_scan(
        self, inputs: torch.Tensor, mask: torch.Tensor, state: States
    ) -> tuple[torch.Tensor, States]:
        """`forward` as one operator of a graph, so that a graph serves any number of words."""
        from torch._dynamo.comptime import comptime
        from torch._higher_order_ops.scan import scan

        if torch.compiler.is_dynamo_compiling():
            comptime(_allow_counting)
        gates = self.input_map(inputs).transpose(0, 1)  # (words, batch, 4 * cell_dim)
        valid = mask.t()[..., None]  # (words, batch, 1)

        # `contiguous` keeps the strides of a single row, which the loop would not.
        start = tuple(part.clone(memory_format=torch.contiguous_format) for part in state)
        end, outputs = scan(self._scan_step, start, (gates, valid), dim=0, reverse=self.reverse)
        return outputs.transpose(0, 1), end

    # A method, since the annotations of a nested function would break a graph.
    def _scan_step(self, carried: States, word: States) -> tuple[States, torch.Tensor]:
        hidden, cell, output = self.step(*word, *carried)
        return (hidden, cell), output

    def step(
        self, gates: torch.Tensor, valid: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Read one word.

        Args:
            gates: the input's share of the gates `(batch, 4 * cell_dim)`.
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

    def settings(self) -> LstmSettings:
        """What else decides the values."""
        return LstmSettings(self.cell_clip, self.projection_clip, self.reverse)

    def weights(self) -> LstmWeights:
        """The maps' weights as they are now."""
        return LstmWeights(
            self.input_map.weight,
            self.input_map.bias,
            self.recurrent_map.weight,
            None if self.output_map is None else self.output_map.weight,
        )


def _allow_counting(compilation: Any) -> None:
    """
    Let inductor turn the scan into a loop that counts its steps.

    `torch.compile` without `fullgraph=True` forbids it to look at the counter, and fails.
    """
    environment = compilation._i_will_not_complain_if_bc_breaks_InstructionTranslator()
    shapes = environment.output.shape_env
    shapes.settings = dataclasses.replace(shapes.settings, allow_scalar_outputs=True)


def run_directions(
    lstms: Sequence[ElmoLstm],
    inputs: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    states: Sequence[States],
    runner: GpuRunner | None,
    distinct: Distinct | None = None,
) -> list[tuple[torch.Tensor, States]]:
    """
    Run the LSTMs of one layer, all at once where that is faster.

    Args:
        lstms: the directions.
        inputs, masks, states: for each direction, as `ElmoLstm.forward` has them.
        runner: keeps copies of the weights; None where there must be none.
        distinct: the inputs of every direction, said with less.
    """
    calls = list(zip(lstms, inputs, masks, states, strict=True))
    untouched = all(is_unhooked(lstm, ElmoLstm) for lstm in lstms)
    engines = {lstm.choose_engine(words, state)[0] for lstm, words, _, state in calls}
    if engines == {"gpu"} and untouched and runner is not None:
        clips = {(lstm.cell_clip, lstm.projection_clip) for lstm in lstms}
        if len(clips) == 1:
            weights, settings = [x.weights() for x in lstms], [x.settings() for x in lstms]
            return runner.run(weights, settings, inputs, masks, states)
    if engines == {"cpu"} and untouched and _gain_side_by_side(lstms, inputs[0]):
        first, second = ((*call, distinct) for call in calls)
        return list(run_side_by_side(lambda lstm, *given: lstm(*given), first, second))
    if engines <= {"cpu", "cpu_training"} and torch.get_num_threads() > 1:
        rest_alone()
    return [lstm(words, mask, state, distinct) for lstm, words, mask, state in calls]


def _gain_side_by_side(lstms: Sequence[ElmoLstm], inputs: torch.Tensor) -> bool:
    """Not if the large weights of a lone sentence are all that is waited for."""
    if len(lstms) < 2 or torch.get_num_threads() == 1:
        return False
    small = lstms[0].recurrent_map.weight.numel() <= 4 * SMALL_LSTM
    return small or len(inputs) > 1


def is_unhooked(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether a module may be read without being called: nobody replaced it or listens to it."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return type(module) is kind and not any(hooks) and not hasattr(module, "_hf_hook")


class ElmoMixedLayer(nn.Module):
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
        self, hidden_states: torch.Tensor, mask: torch.Tensor, states: States, distinct: object
    ) -> tuple[torch.Tensor, States]:
        """
        `(batch, words, hidden_size)`, twice layer 0, to the same; arguments are `ElmoLayer`'s.

        Raises:
            ValueError: the mask lets the directions read different words.
        """
        if not mask.eq(mask[..., :1]).all():
            raise ValueError(
                "attention_mask differs between the directions, which this model's layers mix; "
                "give one mask (batch, words)"
            )
        outputs = run_over_words(self.lstm, hidden_states.chunk(2, -1)[0], mask[..., 0])
        halves = [self.projection(half) for half in outputs.chunk(2, -1)]
        return torch.cat(halves, -1).masked_fill(~mask[..., :1], 0), states


__all__ = ["Distinct", "ElmoLstm", "ElmoMixedLayer", "is_unhooked", "run_directions"]
