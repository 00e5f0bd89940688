"""Describe the machine, and measure its peak speed of products and of memory."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
LARGE = 2048  # rows and columns of the products
STREAM = 1 << 28  # bytes read at once, more than the size of any cache
SECONDS = 0.5  # time of all tries; the fastest counts


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(text: str | None = None) -> dict:
    """Return the processor's name, cores and instruction sets.

    `text` replaces Linux' /proc/cpuinfo in tests.
    """
    if text is None:
        file = Path("/proc/cpuinfo")
        text = file.read_text() if file.exists() else ""
    lines = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    fields = {key.strip(): value.strip() for key, value in reversed(lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
    }


def versions(allennlp: bool) -> dict[str, str]:
    """Return the versions of all packages that are measured."""
    found = {"Python": platform.python_version()}
    for package in ("torch", "transformers", "numpy"):
        found[package] = importlib.metadata.version(package)
    import elmo_hf

    found["elmo_hf"] = elmo_hf.__version__
    if allennlp:
        from speed_peers import ALLENNLP

        found["AllenNLP"] = ALLENNLP.partition("==")[2]
    return found


def limits(threads: int) -> dict[str, float | None]:
    """Return the operations per second of large products by precision, and the bytes read."""
    from torch.utils.mkldnn import to_mkldnn

    torch.set_num_threads(threads)
    operations = 2 * LARGE**3
    square, long = torch.randn(LARGE, LARGE), torch.ones(STREAM // 4)
    half, whole = square.bfloat16(), square.clamp(-1, 1).mul(100).char()
    # Plain products may use MKL, which is not the fastest library on every processor.
    packed = to_mkldnn(torch.nn.Linear(LARGE, LARGE, bias=False))
    return {
        "float32": operations
        / min(fastest(lambda: square @ square), fastest(lambda: packed(square.to_mkldnn()))),
        "bfloat16": operations / fastest(lambda: half @ half),
        "int8": operations / seconds if (seconds := int8_seconds(whole)) else None,
        "bytes": STREAM / fastest(long.sum),
    }


def int8_seconds(square: torch.Tensor) -> float | None:
    """Return the seconds of the int8 product; None if the processor or torch has none."""
    try:
        return fastest(lambda: torch._int_mm(square, square))
    except (AttributeError, RuntimeError):
        return None


def fastest(run: Callable) -> float:
    """Return the seconds of the fastest of many runs, without gradients."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    with torch.no_grad():
        run()
        while time.perf_counter() < end:
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
    return best


def higher(first: dict, second: dict) -> dict:
    """Return the higher of two measurements of each limit."""
    return {key: first[key] and max(first[key], second[key]) for key in first}
