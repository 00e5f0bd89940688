"""The part of speed_gpu.py about training: forward and backward passes, and whole steps.

The models have neither clips nor skip connections, so that cuDNN's LSTMs compute the same function.
"""

from collections.abc import Callable
from typing import NamedTuple

import speed_models
import torch
from speed_gpu_clock import Limit, measure
from speed_peers import BenchmarkError

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, use_engine

WINDOW = 128  # words
# Largest errors of outputs and gradients, relative to the norm of the reference's in float32.
LIMITS = {"bfloat16": 5e-2, "float32": 1e-4}
WHOLE, LAYERS, WITHOUT_TRITON, REFERENCE, CUDNN = (
    "whole step",
    "LSTMs",
    "LSTMs without Triton",
    "LSTMs, reference",
    "LSTMs of cuDNN",
)
VOCABULARY, SAMPLED = 50_000, 4096


class Row(NamedTuple):
    """One line of the table."""

    size: str
    dtype: str
    batch: int
    rates: dict[str, float]  # words per second
    share: float  # of the peak, by the LSTMs
    error: float


def measure_training(
    device: torch.device,
    sizes: list[str],
    batches: tuple[int, ...],
    rounds: int,
    peaks: dict[str, float],
    limit: Limit,
) -> tuple[list[Row], str]:
    """Measure everything while there is time; return the rows, and the engine that trains."""
    rows, engine = [], "none"
    for size in sizes:
        for dtype in peaks:
            model = make_model(size, device, getattr(torch, dtype))
            engine, error = model.engine_info()["training"], None
            for batch in batches:
                if not limit.allows(f"training, {size}, {dtype}, batch {batch}"):
                    continue
                error = check(model, dtype) if error is None else error
                runs = programs(model, size, batch)
                measured = measure(runs, device, rounds, optional=runs.keys() - {LAYERS})
                rates = {name: batch * WINDOW / seconds for name, seconds in measured.items()}
                flops = 3 * speed_models.lstm_flops(speed_models.SIZES[size])
                share = rates[LAYERS] * flops / peaks[dtype]
                rows.append(Row(size, dtype, batch, rates, share, error))
            del model
    return rows, engine


def make_model(size: str, device: torch.device, dtype: torch.dtype) -> ElmoModel:
    torch.manual_seed(0)
    return ElmoModel(ElmoConfig(**settings(size))).train().to(device, dtype)


def settings(size: str) -> dict:
    sizes = speed_models.SIZES[size]
    return {
        "cell_dim": sizes.cell,
        "projection_dim": sizes.projection,
        "num_highway_layers": sizes.highways,
        "cell_clip": None,
        "projection_clip": None,
        "use_skip_connections": False,
        "dropout": 0.0,
    }


def check(model: ElmoModel, dtype: str) -> float:
    """Return the error of outputs and gradients, and cuDNN's; BenchmarkError if it is large."""
    vectors = make_vectors(model, 16)
    exact = ElmoModel(model.config).train().to(model.device)
    exact.load_state_dict(model.state_dict())
    parameters = [*exact.layers.parameters()]
    with use_engine("reference"):
        expected = train(run_elmo(exact), vectors.float(), parameters)
    for _ in range(3):  # the CUDA graphs: not used, captured, replayed
        found = train(run_elmo(model), vectors, [*model.layers.parameters()])
    lstms = make_cudnn(model)
    try:
        other = train(run_cudnn(lstms), vectors, [])
    except RuntimeError:  # `measure` says that it does not run
        other = []
    pairs = [*zip(found, expected, strict=True), *zip(other, expected, strict=False)]
    errors = torch.stack([(a.float() - b).detach().norm() / b.detach().norm() for a, b in pairs])
    error = float(errors.max())  # NaN if one is NaN
    if not error <= LIMITS[dtype]:
        raise BenchmarkError(
            f"in {dtype} outputs or gradients are {error:.1e} from those of the reference engine; "
            f"expected at most {LIMITS[dtype]:.0e}. Training was not measured"
        )
    return error


def programs(model: ElmoModel, size: str, batch: int) -> dict[str, Callable[[], object]]:
    """Return the functions to measure, by name."""
    vectors, parameters = make_vectors(model, batch), [*model.layers.parameters()]
    lstms = make_cudnn(model)
    weights = [weight for lstm in lstms for weight in lstm.parameters()]

    def run_on(engine: str) -> None:
        with use_engine(engine):
            train(run_elmo(model), vectors, parameters)

    return {
        WHOLE: make_step(model, size, batch),
        LAYERS: lambda: train(run_elmo(model), vectors, parameters),
        WITHOUT_TRITON: lambda: run_on("cpu_training"),
        REFERENCE: lambda: run_on("reference"),
        CUDNN: lambda: train(run_cudnn(lstms), vectors, weights),
    }


def train(
    run: Callable[[torch.Tensor], torch.Tensor],
    vectors: torch.Tensor,
    parameters: list[torch.Tensor],
) -> list[torch.Tensor]:
    """Return the outputs, and the gradients of half of their squares."""
    vectors = vectors.detach().requires_grad_()
    outputs = run(vectors)
    return [outputs, *torch.autograd.grad(outputs, [vectors, *parameters], outputs.detach())]


def run_elmo(model: ElmoModel) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda vectors: model(inputs_embeds=vectors).last_hidden_state


def run_cudnn(lstms: list[torch.nn.LSTM]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(vectors: torch.Tensor) -> torch.Tensor:
        outputs = lstms[0](vectors)[0], lstms[1](vectors.flip(1))[0].flip(1)
        return torch.cat(outputs, -1)

    return run


def make_cudnn(model: ElmoModel) -> list[torch.nn.LSTM]:
    """Return cuDNN's LSTMs with the model's weights, one for each direction."""
    config, lstms = model.config, []
    for direction in ("forward_lstm", "backward_lstm"):
        lstm = torch.nn.LSTM(
            config.projection_dim,
            config.cell_dim,
            config.num_hidden_layers,
            batch_first=True,
            proj_size=config.projection_dim,
            device=model.device,
            dtype=model.dtype,
        )
        with torch.no_grad():
            for index, layer in enumerate(model.layers):
                ours = getattr(layer, direction).weights()
                getattr(lstm, f"weight_ih_l{index}").copy_(ours.input_weight)
                getattr(lstm, f"weight_hh_l{index}").copy_(ours.recurrent_weight)
                getattr(lstm, f"weight_hr_l{index}").copy_(ours.output_weight)
                getattr(lstm, f"bias_ih_l{index}").copy_(ours.input_bias)
                getattr(lstm, f"bias_hh_l{index}").zero_()
        lstms.append(lstm)
    return lstms


def make_step(model: ElmoModel, size: str, batch: int) -> Callable[[], object]:
    """Return a step of pre-training: characters, LSTMs, sampled softmax, gradients and AdamW."""
    config = ElmoConfig(**settings(size), lm_vocab_size=VOCABULARY, num_sampled_words=SAMPLED)
    trained = ElmoForPreTraining(config).train().to(model.device)
    optimizer = torch.optim.AdamW(trained.parameters(), fused=model.device.type == "cuda")
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(1, 257, (VOCABULARY, 50), generator=draw)
    words[:, 8:] = 261  # padding after eight characters
    # As in text, a few words are frequent.
    labels = (VOCABULARY ** torch.rand(batch, WINDOW, generator=draw)).long() - 1
    ids, labels = words[labels].to(model.device), labels.to(model.device)
    in_half = model.dtype == torch.bfloat16

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=in_half):
            loss = trained(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_vectors(model: ElmoModel, batch: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(batch)
    vectors = torch.randn(batch, WINDOW, model.config.projection_dim, generator=draw)
    return vectors.to(model.device, model.dtype)


def report_training(rows: list[Row], engine: str) -> list[str]:
    """The lines of the page."""
    names = WHOLE, LAYERS, WITHOUT_TRITON, REFERENCE, CUDNN
    lines = [
        "## Training",
        "",
        f"Words per second, forward and backward, in windows of {WINDOW} words without padding;",
        "models without clips and skip connections, so cuDNN computes the same function.",
        f"Whole step: characters, {SAMPLED:,} words sampled of {VOCABULARY:,}, gradients, AdamW;",
        "bfloat16 means autocast there, and bfloat16 weights elsewhere.",
        f"Engine: {engine}.",
        "Error: the largest of outputs and gradients, and of cuDNN's outputs, relative to the norm",
        "of those of the reference engine in float32.",
        "",
        f"| model | type | batch | {' | '.join(names)} | of peak | error |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, dtype, batch, rates, share, error in rows:
        found = [f"{rates[name]:,.0f}" if name in rates else "–" for name in names]
        cells = [size, dtype, str(batch), *found, f"{share:.0%}", f"{error:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
