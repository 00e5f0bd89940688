# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Choose the engine that computes an LSTM, and run both directions of a layer on it.

`reference` runs `ElmoLstm.run_reference`, module by module. `cpu` and `gpu` are for inference,
`cpu_training` is for training on any device, `gpu_training` for training on a GPU with Triton, and
`scan` is for compiled graphs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .engine_checks import (
    find_interception,
    is_ordinary,
    is_readable,
    runs_as_written,
    wants_gradients,
)
from .engine_copies import KeptCopy
from .engine_cpu import CpuLstm, find_cpu_obstacle
from .engine_gpu import GpuRunner, find_gpu_obstacle, read_once
from .engine_gpu_training import GpuTrainer
from .engine_gpu_training_triton import find_training_kernels
from .engine_gpu_trial import find_gpu_training_obstacle
from .engine_gpu_triton import find_kernels
from .engine_onednn import find_operators, is_int8
from .engine_scan import has_scan, run_scan
from .engine_threads import SMALL_LSTM, rest_alone, run_side_by_side
from .engine_training import clipped_lstm
from .engine_weights import LstmSettings, LstmWeights, States, Unique

Tensors = Sequence[torch.Tensor]  # inputs, hidden and cell state
Result = tuple[torch.Tensor, States]  # outputs `(batch, words, projection_dim)`, final states

_forced: ContextVar[str | None] = ContextVar("elmo_hf engine", default=None)


class Lstm(Protocol):
    """The part of `ElmoLstm`'s interface that the engines use."""

    training: bool
    gradient_checkpointing: bool
    _copies: KeptCopy[CpuLstm]
    _gradient_checkpointing_func: Callable[..., Any]

    def __call__(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...
    def maps(self) -> list[nn.Linear]: ...
    def weights(self) -> LstmWeights: ...
    def settings(self) -> LstmSettings: ...
    def run_reference(self, inputs: torch.Tensor, mask: torch.Tensor, state: States) -> Result: ...


class Call(NamedTuple):
    """One LSTM and the arguments of its `forward`."""

    lstm: Lstm
    inputs: torch.Tensor
    mask: torch.Tensor
    state: States
    unique: Unique | None


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """
    Run ELMo models on the named engine inside a `with` block, for tests and comparisons.

    It applies to the thread or asyncio task of the block; other threads are not affected.
    `torch.compile` ignores it: a compiled model always runs on `scan`.

    Args:
        name: `"reference"`: word by word and module by module, differentiable any number of times;
            all other engines are tested against it. `"cpu"`: inference on a CPU. `"cpu_training"`:
            training on any device. `"gpu"` and `"gpu_training"`: inference and training on a GPU,
            and, slowly, on a CPU. `"scan"`: the loop over words as one operator of a compiled
            graph.

    Raises:
        ValueError: there is no engine of this name.
        RuntimeError: raised by the model's call if the result would differ from the reference's:
            gradients are required of an inference engine, or the engine would skip a hook, a
            replaced module or a transform of `torch.func`.
    """
    if name not in ENGINES:
        raise ValueError(f"engine is {name!r}; expected one of {', '.join(ENGINES)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_engine() -> str | None:
    """Return the engine set by `use_engine`; None without it and while a graph is compiled."""
    return None if torch.compiler.is_dynamo_compiling() else _forced.get()


def choose_engine(lstm: Lstm, inputs: torch.Tensor, state: States) -> tuple[str, str]:
    """
    Return the fastest engine with the same result as the reference, and the reason for it.

    Raises:
        RuntimeError: the engine set by `use_engine` would compute something else.
    """
    forced, compiling = forced_engine(), torch.compiler.is_compiling()
    if forced in ("reference", "scan"):
        return forced, "set by use_engine"
    if compiling and forced is None:
        if has_scan():
            return "scan", "the model is being compiled or exported"
        return "reference", "this PyTorch has no scan operator for compiled graphs"
    weights = lstm.weights()
    tensors = [inputs, *state, *(weight for weight in weights if weight is not None)]
    training = wants_gradients(tensors)
    obstacle = _find_obstacle(lstm, tensors, training)
    if forced is not None:
        _check_forced(forced, obstacle, training)
        return forced, f"set by use_engine{_describe_kernels(forced, inputs.device)}"
    if obstacle is not None:
        return "reference", obstacle
    choose = _choose_for_training if training else _choose_for_inference
    return choose((inputs, *state), weights)


def _choose_for_training(tensors: Tensors, weights: LstmWeights) -> tuple[str, str]:
    why = "gradients are required"
    if not tensors[0].is_cuda:
        return "cpu_training", why
    if torch.cuda.is_current_stream_capturing():
        return "reference", "the caller is capturing a CUDA graph"
    if (obstacle := find_gpu_training_obstacle(tensors, weights)) is not None:
        return "cpu_training", f"{why}, on a GPU; {obstacle}"
    kernels = _describe_kernels("gpu_training", tensors[0].device)
    return "gpu_training", f"{why}, on a GPU{kernels}"


def _choose_for_inference(tensors: Tensors, weights: LstmWeights) -> tuple[str, str]:
    why = "no gradients are required"
    if tensors[0].is_cuda:
        obstacle = find_gpu_obstacle(tensors, weights)
        chosen = "gpu", f"{why}, on a GPU{_describe_kernels('gpu', tensors[0].device)}"
    else:
        obstacle = find_cpu_obstacle(tensors, weights)
        chosen = "cpu", f"{why}, on a CPU"
    return chosen if obstacle is None else ("reference", obstacle)


def _describe_kernels(engine: str, device: torch.device) -> str:
    if engine == "gpu":
        return f"; {find_kernels(device).why}"
    return f"; {find_training_kernels(device).why}" if engine == "gpu_training" else ""


def run(
    lstm: Lstm,
    inputs: torch.Tensor,
    mask: torch.Tensor,
    state: States,
    unique: Unique | None = None,
) -> Result:
    """Compute the result of `lstm.run_reference` on the engine that `choose_engine` returns."""
    engine, _ = choose_engine(lstm, inputs, state)
    return _RUN[engine](Call(lstm, inputs, mask, state, unique))


def run_directions(
    lstms: Sequence[Lstm],
    inputs: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    states: Sequence[States],
    *,
    must_call: bool,
    runner: GpuRunner | None,
    unique: Unique | None = None,
) -> list[Result]:
    """
    Run the LSTMs of one layer, in parallel where that is faster.

    Args:
        lstms: one LSTM per direction.
        inputs, masks, states: arguments of `ElmoLstm.run_reference` for each direction.
        must_call: call the modules, because one of them has a hook or another `forward`.
        runner: keeps copies of the weights on a GPU; None: keep no copies.
        unique: the deduplicated inputs, equal for all directions; see `ElmoLstm.forward`.
    """
    calls = [Call(*call, unique) for call in zip(lstms, inputs, masks, states, strict=True)]
    engines = [choose_engine(call.lstm, call.inputs, call.state)[0] for call in calls]
    if must_call:
        return [_call(call) for call in calls]
    if runner is not None and _run_together(lstms, engines):
        weights, settings = zip(*((lstm.weights(), lstm.settings()) for lstm in lstms), strict=True)
        arguments = weights, settings, inputs, masks, states
        if engines[0] == "gpu":
            return runner.run(*arguments)
        return runner.trainer.run(*arguments, recompute=_recompute_gates(lstms[0]))
    if set(engines) == {"cpu"} and _gain_side_by_side(lstms, inputs[0]):
        return list(run_side_by_side(_run_on_cpu, (calls[0],), (calls[1],)))
    if set(engines) <= {"cpu", "cpu_training"} and torch.get_num_threads() > 1:
        rest_alone()
    return [_find_run(call.lstm, name)(call) for name, call in zip(engines, calls, strict=True)]


def _find_obstacle(lstm: Lstm, tensors: list[torch.Tensor], training: bool) -> str | None:
    """Return why an engine must not bypass the modules and read their weights; None if it may."""
    if (interception := find_interception()) is not None:
        return interception
    if not is_readable(lstm):
        return "the LSTM is an instance of a subclass or its forward was replaced"
    if not runs_as_written(lstm.maps()):
        return "a linear map of the LSTM has a hook or is not a plain nn.Linear"
    special = [tensor for tensor in tensors if not is_ordinary(tensor)]
    if not all(map(is_int8, special)):
        return "a tensor is a subclass of torch.Tensor"
    return "gradients are required through 8-bit weights" if special and training else None


def _check_forced(engine: str, obstacle: str | None, training: bool) -> None:
    if training and engine not in TRAINING:
        raise RuntimeError(
            f'use_engine("{engine}") sets an engine without gradients, but gradients are required; '
            'call the model under torch.no_grad(), or use "cpu_training" or "reference"'
        )
    if obstacle is not None:
        raise RuntimeError(
            f'use_engine("{engine}") sets an engine that cannot run here: {obstacle}; use '
            'use_engine("reference"), or call the model without use_engine'
        )


def _run_together(lstms: Sequence[Lstm], engines: Sequence[str]) -> bool:
    """Whether an engine for GPUs runs the directions in the same products."""
    if set(engines) not in ({"gpu"}, {"gpu_training"}):
        return False
    if len({(lstm.settings()[:2], _checkpoints(lstm)) for lstm in lstms}) > 1:
        return False
    return not _checkpoints(lstms[0]) or _recompute_gates(lstms[0])


def _gain_side_by_side(lstms: Sequence[Lstm], inputs: torch.Tensor) -> bool:
    """Whether two threads help: not if reading large weights for one sentence takes the time."""
    if len(lstms) < 2 or torch.get_num_threads() == 1:
        return False
    small = lstms[0].weights().recurrent_weight.numel() <= 4 * SMALL_LSTM
    return small or len(inputs) > 1


def _find_run(lstm: Lstm, engine: str) -> Callable[..., Result]:
    if not _checkpoints(lstm):
        return _RUN[engine]
    if engine in TRAINING and _recompute_gates(lstm):
        return partial(_RUN[engine], recompute=True)
    return _call


def _checkpoints(lstm: Lstm) -> bool:
    return lstm.gradient_checkpointing and lstm.training


def _recompute_gates(lstm: Lstm) -> bool:
    """Whether an engine recomputes the gates: PyTorch's checkpoint would rerun the whole LSTM."""
    if not _checkpoints(lstm):
        return False
    function = lstm._gradient_checkpointing_func
    return getattr(function, "func", function) is checkpoint


def _call(call: Call) -> Result:
    outputs, *end = call.lstm(call.inputs, call.mask, *call.state, call.unique)
    return outputs, (end[0], end[1])


def _run_reference(call: Call) -> Result:
    return call.lstm.run_reference(call.inputs, call.mask, call.state)


def _run_on_cpu(call: Call) -> Result:
    weights, settings = call.lstm.weights(), call.lstm.settings()
    kept = [weight for weight in weights if weight is not None]
    key = settings, find_operators(weights.input_weight.dtype)
    make, words = partial(CpuLstm, weights, settings), call.mask.numel()
    prepared = call.lstm._copies.get(kept, make, words, key)
    return prepared.run(call.inputs, call.mask, *call.state, unique=call.unique)


def _run_training(call: Call, recompute: bool = False) -> Result:
    clips = call.lstm.settings()
    return clipped_lstm(
        call.inputs,
        call.mask,
        *call.state,
        **call.lstm.weights()._asdict(),
        cell_clip=clips.cell_clip,
        projection_clip=clips.projection_clip,
        reverse=clips.reverse,
        recompute=recompute,
    )


def _run_on_gpu(call: Call) -> Result:
    lstm = call.lstm
    return read_once(lstm.weights(), lstm.settings(), call.inputs, call.mask, call.state)


def _run_gpu_training(call: Call, recompute: bool = False) -> Result:
    weights, settings = [call.lstm.weights()], [call.lstm.settings()]
    given = [call.inputs], [call.mask], [call.state]
    return GpuTrainer(keep=False).run(weights, settings, *given, recompute=recompute)[0]


def _run_scan(call: Call) -> Result:
    if not has_scan():
        return _run_reference(call)
    return run_scan(call.lstm, call.inputs, call.mask, call.state)


_RUN: dict[str, Callable[..., Result]] = {
    "reference": _run_reference,
    "cpu": _run_on_cpu,
    "cpu_training": _run_training,
    "gpu": _run_on_gpu,
    "gpu_training": _run_gpu_training,
    "scan": _run_scan,
}
ENGINES = tuple(_RUN)
TRAINING = "cpu_training", "gpu_training"  # besides the reference

__all__ = ["ENGINES", "choose_engine", "forced_engine", "run", "run_directions", "use_engine"]
