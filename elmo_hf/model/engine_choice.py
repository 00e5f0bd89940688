# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The engines that compute a model, and a switch that forces one."""

from collections.abc import Iterator
from contextlib import contextmanager

ENGINES = ("reference", "cpu", "cpu_training", "gpu", "scan")
_forced: list[str] = []


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """
    Make every ELMo model of the process run on one engine, for tests and comparisons.

    Args:
        name: `"reference"`: word after word and module by module, differentiable any number of
            times; the definition that the other engines are tested against. `"cpu"`: inference on
            a CPU. `"cpu_training"`: training on any device. `"gpu"`: inference on a GPU; it runs
            on a CPU, too, slowly. `"scan"`: the loop as one operator of a compiled graph.

    Raises:
        ValueError: there is no such engine.
    """
    if name not in ENGINES:
        raise ValueError(f"engine is {name!r}; expected one of {', '.join(ENGINES)}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.remove(name)


def forced_engine() -> str | None:
    """The engine that `use_engine` asks for, None outside it."""
    return _forced[-1] if _forced else None


__all__ = ["ENGINES", "forced_engine", "use_engine"]
