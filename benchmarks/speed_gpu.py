"""Measure inference and training of ELMo on a GPU, beside cuDNN's LSTMs, in one run.

    python benchmarks/speed_gpu.py [--sizes small original] [--rounds 5] [--minutes 7]

Builds random models in the original format. Stops if an engine does not compute what the reference
engine does, else measures all programs in turn. What the time is too short for is left out and
listed. Writes benchmarks/speed_gpu.md.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import speed_models
import torch
from speed_gpu_clock import Limit, measure, peak
from speed_gpu_training import measure_training, report_training
from speed_peers import BenchmarkError

from elmo_hf import ElmoModel, ElmoTokenizer, use_engine

BATCHES = (32, 256, 1024)
TRAINING_BATCHES = (256, 32)
WORDS = 22  # in a sentence, both boundaries included
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Largest error, relative to the norm of the top layer of the reference engine in float32.
LIMITS = {"bfloat16": 2e-2, "float32": 1e-5}
WHOLE, LAYERS, REFERENCE, CUDNN = (
    "whole model",
    "LSTMs",
    "LSTMs, reference",
    "LSTMs of cuDNN",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=speed_models.SIZES, metavar="SIZE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=7, help="no measurement begins later")
    default = Path(tempfile.gettempdir()) / "elmo_hf_speed"
    parser.add_argument("--work", type=Path, default=default, help="where the models are built")
    given = parser.parse_args(arguments)
    try:
        if not torch.cuda.is_available():
            raise BenchmarkError(
                "this benchmark needs a GPU, and torch.cuda.is_available() is False; run it on a "
                "machine with one and a torch for CUDA, or python benchmarks/speed.py for the CPU"
            )
        sizes = given.sizes or ["small", "original"]
        limit = Limit(60 * given.minutes)
        batches = BATCHES, TRAINING_BATCHES
        arguments = sizes, *batches, given.rounds, given.work, limit
        page, complaints = run(torch.device("cuda"), *arguments)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(page)
    if complaints:
        print("\n".join(f"error: {complaint}" for complaint in complaints), file=sys.stderr)
        return 1
    (ROOT / "benchmarks/speed_gpu.md").write_text(page, encoding="utf-8")
    return 0


def run(
    device: torch.device,
    sizes: list[str],
    batches: tuple[int, ...],
    training_batches: tuple[int, ...],
    rounds: int,
    work: Path,
    limit: Limit,
) -> tuple[str, list[str]]:
    """Measure while there is time; return the page, and why a part of it is missing."""
    peaks = {name: peak(device, dtype) for name, dtype in DTYPES.items()}
    settings = rounds, peaks, limit
    parts = (
        lambda: report(*measure_inference(device, sizes, batches, work, *settings)),
        lambda: report_training(*measure_training(device, sizes, training_batches, *settings)),
    )
    lines, complaints = report_machine(device, peaks, rounds), []
    for measure_part in parts:
        try:
            lines += ["", *measure_part()]
        except BenchmarkError as error:
            complaints.append(str(error))
    if limit.left_out:
        lines += ["", f"Not measured, because the time was over: {'; '.join(limit.left_out)}."]
    return "\n".join(lines) + "\n", complaints


@torch.no_grad()
def measure_inference(
    device: torch.device,
    sizes: list[str],
    batches: tuple[int, ...],
    work: Path,
    rounds: int,
    peaks: dict[str, float],
    limit: Limit,
) -> tuple[list[tuple], str]:
    """Measure inference while there is time; return the rows and the engine."""
    rows, engine = [], "none"
    for size in sizes:
        folder = speed_models.build(size, work) / "converted"
        for name, dtype in DTYPES.items():
            model = ElmoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
            engine = model.engine_info()["inference"]
            error = check(model, ElmoModel.from_pretrained(folder).eval().to(device), name)
            for batch in batches:
                if not limit.allows(f"inference, {size}, {name}, batch {batch}"):
                    continue
                measured = measure(programs(model, batch), device, rounds, optional=[CUDNN])
                rates = {key: batch * WORDS / seconds for key, seconds in measured.items()}
                flops = rates[LAYERS] * speed_models.lstm_flops(speed_models.SIZES[size])
                rows.append((size, name, batch, rates, flops / peaks[name], error))
            del model
    return rows, engine


def check(model: ElmoModel, exact: ElmoModel, dtype: str) -> float:
    """Return the error against the reference engine in float32; BenchmarkError if it is large."""
    ids = make_ids(48).to(model.device)
    for row, row_ids in enumerate(ids):  # padding on either side
        padding = slice(0, row % WORDS // 2) if row % 2 else slice(WORDS - row % WORDS // 2, None)
        row_ids[padding] = 0
    with use_engine("reference"):
        expected = exact(ids).last_hidden_state
    for _ in range(3):  # the CUDA graph: not used, captured, replayed
        found = model(ids).last_hidden_state.float()
    error = float((found - expected).norm() / expected.norm())
    if not error <= LIMITS[dtype]:
        raise BenchmarkError(
            f"in {dtype} the top layer is {error:.1e} from the reference engine's; "
            f"expected at most {LIMITS[dtype]:.0e}. Inference was not measured"
        )
    return error


def programs(model: ElmoModel, batch: int) -> dict[str, Callable[[], object]]:
    """Return the functions to measure, by name."""
    ids = make_ids(batch).to(model.device)
    width = model.config.projection_dim
    vectors = torch.randn(batch, WORDS, width, device=model.device).to(model.dtype)

    def run_reference() -> None:
        with use_engine("reference"):
            model(inputs_embeds=vectors)

    lstms = [make_cudnn(model) for _ in range(model.config.num_directions)]

    def run_cudnn() -> None:
        lstms[0](vectors)
        if len(lstms) > 1:
            lstms[1](vectors.flip(1))[0].flip(1)

    return {
        WHOLE: lambda: model(ids),
        LAYERS: lambda: model(inputs_embeds=vectors),
        REFERENCE: run_reference,
        CUDNN: run_cudnn,
    }


def make_cudnn(model: ElmoModel) -> torch.nn.LSTM:
    """Return cuDNN's LSTMs of one direction, which have no clips and no skip connections."""
    config = model.config
    return torch.nn.LSTM(
        config.projection_dim,
        config.cell_dim,
        config.num_hidden_layers,
        batch_first=True,
        proj_size=config.projection_dim,
        device=model.device,
        dtype=model.dtype,
    ).eval()


def make_ids(batch: int) -> torch.Tensor:
    """Return the character ids of sentences of random words, `(batch, WORDS, 50)`."""
    draw = random.Random(batch)

    def word() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, 12)))

    sentences = [[word() for _ in range(WORDS - 2)] for _ in range(batch)]
    return ElmoTokenizer()(sentences, is_split_into_words=True, return_tensors="pt")["input_ids"]


def report_machine(device: torch.device, peaks: dict[str, float], rounds: int) -> list[str]:
    """The first lines of the page."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    limits = ", ".join(f"{value / 1e12:.1f} TFLOP/s in {key}" for key, value in peaks.items())
    return [
        "# Speed on a GPU",
        "",
        f"Random weights. All programs in turn, medians of {rounds} rounds.",
        "Written by `python benchmarks/speed_gpu.py`.",
        "",
        f"{name}, torch {torch.__version__}.",
        f"Largest product measured: {limits}.",
    ]


def report(rows: list[tuple], engine: str) -> list[str]:
    """The lines about inference."""
    lines = [
        "## Inference",
        "",
        f"Words per second, boundaries included, in sentences of {WORDS} words of random letters.",
        f"Engine: {engine}.",
        "cuDNN has neither clips nor skip connections, so it is a reference for speed only.",
        "Error: relative to the norm of the top layer of the reference engine in float32.",
        "",
        f"| model | type | batch | {WHOLE} | {LAYERS} | of peak | {REFERENCE} | {CUDNN} | error |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, dtype, batch, rates, share, error in rows:
        found = [f"{rates[key]:,.0f}" if key in rates else "–" for key in (REFERENCE, CUDNN)]
        cells = [size, dtype, str(batch), f"{rates[WHOLE]:,.0f}", f"{rates[LAYERS]:,.0f}"]
        lines.append("| " + " | ".join([*cells, f"{share:.0%}", *found, f"{error:.0e}"]) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
