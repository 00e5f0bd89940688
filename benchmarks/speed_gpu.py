"""Measure the speed of ELMo on a GPU, beside cuDNN's LSTM of the same size, in one run.

    python benchmarks/speed_gpu.py [--sizes small original] [--rounds 7]

Builds random models in the original format. Stops if the GPU engine does not compute what the
reference engine does, else measures all programs in turn. Writes benchmarks/speed_gpu.md.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import speed_models
import torch
from speed_peers import BenchmarkError

from elmo_hf import ElmoModel, ElmoTokenizer, use_engine

BATCHES = (32, 256, 1024)
WORDS = 22  # in a sentence, both boundaries included
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Largest error, relative to the norm of the top layer of the reference engine in float32.
LIMITS = {"bfloat16": 2e-2, "float32": 1e-5}
LARGE = 8192  # rows and columns of the product that measures the peak
SECONDS = 0.1  # least duration of a measurement
WHOLE, LAYERS, REFERENCE, CUDNN = (
    "whole model",
    "LSTMs",
    "LSTMs, reference",
    "LSTMs of cuDNN",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=speed_models.SIZES, metavar="SIZE")
    parser.add_argument("--rounds", type=int, default=7)
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
        page = run(torch.device("cuda"), sizes, BATCHES, given.rounds, given.work)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(page)
    (ROOT / "benchmarks/speed_gpu.md").write_text(page, encoding="utf-8")
    return 0


@torch.no_grad()
def run(
    device: torch.device, sizes: list[str], batches: tuple[int, ...], rounds: int, work: Path
) -> str:
    """Measure everything and return the page."""
    rows = []
    peaks = {name: peak(device, dtype) for name, dtype in DTYPES.items()}
    for size in sizes:
        folder = speed_models.build(size, work) / "converted"
        for name, dtype in DTYPES.items():
            model = ElmoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
            engine = model.engine_info()["inference"]
            error = check(model, ElmoModel.from_pretrained(folder).eval().to(device), name)
            for batch in batches:
                measured = measure(programs(model, batch), device, rounds)
                rates = {key: batch * WORDS / seconds for key, seconds in measured.items()}
                flops = rates[LAYERS] * speed_models.lstm_flops(speed_models.SIZES[size])
                rows.append((size, name, batch, rates, flops / peaks[name], error))
            del model
    return report(device, engine, peaks, rows, rounds)


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
            f"expected at most {LIMITS[dtype]:.0e}. Nothing was measured"
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


def measure(
    runs: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Return the median seconds of each function; cuDNN is left out if it cannot run."""
    repeats, seconds = {}, {}
    for name, run in runs.items():
        try:
            for _ in range(3):
                run()
            once = clock(run, device, 1)
        except RuntimeError as error:
            if name != CUDNN:
                raise
            print(f"{name} does not run here: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        repeats[name], seconds[name] = max(1, int(SECONDS / once)), []
    for _ in range(rounds):
        for name, times in seconds.items():
            times.append(clock(runs[name], device, repeats[name]))
    return {name: median(times) for name, times in seconds.items()}


def clock(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the mean seconds of one run."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    wait(device)
    return (time.perf_counter() - start) / repeats


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large product, the best of five tries."""
    side = LARGE if device.type == "cuda" else LARGE // 16
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(clock(lambda: a @ b, device, 10) for _ in range(5))


def report(
    device: torch.device, engine: str, peaks: dict[str, float], rows: list[tuple], rounds: int
) -> str:
    """The page."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    limits = ", ".join(f"{value / 1e12:.1f} TFLOP/s in {key}" for key, value in peaks.items())
    lines = [
        "# Speed on a GPU",
        "",
        f"Words per second, boundaries included, in sentences of {WORDS} words of random letters;",
        f"random weights. All programs in turn, medians of {rounds} rounds.",
        "Written by `python benchmarks/speed_gpu.py`.",
        "",
        f"{name}, torch {torch.__version__}. Engine: {engine}.",
        f"Largest product measured: {limits}.",
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
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
