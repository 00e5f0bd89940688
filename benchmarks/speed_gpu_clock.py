"""Time functions on a device, in turn, until a time limit."""

import sys
import time
from collections.abc import Callable, Collection
from statistics import median

import torch

LARGE = 8192  # rows and columns of the product that measures the peak
SECONDS = 0.1  # least duration of a measurement


class Limit:
    """
    Class that says when the time for measuring is over, and what was left out for it.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str) -> bool:
        if time.monotonic() < self._end:
            return True
        self.left_out.append(what)
        return False


def measure(
    runs: dict[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    optional: Collection[str],
) -> dict[str, float]:
    """Return the median seconds of each function; optional ones are left out if they cannot run."""
    repeats, seconds = {}, {}
    for name, run in runs.items():
        try:
            for _ in range(3):
                run()
            once = clock(run, device, 1)
        except RuntimeError as error:
            if name not in optional:
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
