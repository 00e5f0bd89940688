# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Measured values with their 95 % intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..extras import require

RESAMPLES = 999


@dataclass(frozen=True)
class Estimate:
    """
    A measured value.

    Attributes:
        value: the value.
        low, high: its 95 % interval; NaN if there are fewer than two items.
        n: number of items that were measured.
        floor: the same measure without what it measures, for instance of random words; None: none.
        seed: seed of all that was drawn at random.
    """

    value: float
    low: float
    high: float
    n: int
    floor: float | None = None
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(correct: np.ndarray, floor: float | None = None, seed: int = 0) -> Estimate:
    """Return the share of True with the exact binomial interval."""
    stats = require("scipy.stats", "analysis")
    found = stats.binomtest(int(np.sum(correct)), len(correct)).proportion_ci(method="exact")
    return Estimate(
        float(np.mean(correct)), float(found.low), float(found.high), len(correct), floor, seed
    )


def mean(values: np.ndarray, floor: float | None = None, seed: int = 0) -> Estimate:
    """Return the mean with its bootstrap interval."""
    return bootstrap(np.mean, values, floor=floor, seed=seed)


def bootstrap(
    statistic: Callable[..., Any],
    *samples: np.ndarray,
    floor: float | None = None,
    seed: int = 0,
    paired: bool = False,
    vectorized: bool | None = None,
) -> Estimate:
    """
    Return a statistic with its bootstrap interval (percentiles of 999 resamples).

    Args:
        statistic: function of the samples, and of `axis` if it is vectorized.
        samples: arrays of items; resampled independently unless `paired`.
    """
    stats = require("scipy.stats", "analysis")
    value = float(statistic(*samples))
    n = len(samples[0]) if paired else sum(map(len, samples))
    if min(map(len, samples)) < 2:
        return Estimate(value, float("nan"), float("nan"), n, floor, seed)
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=100,
        method="percentile",
        paired=paired,
        vectorized=vectorized,
        random_state=seed,
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), n, floor, seed)


__all__ = ["Estimate", "bootstrap", "mean", "share"]
