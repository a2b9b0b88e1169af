"""How sure a mean over queries is: percentile bootstrap, and the same for the difference of two systems.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and the bounds that hold it with the confidence asked for."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: FloatArray, *, confidence: float = 0.95, rounds: int = 2000, seed: int = 0
) -> Interval:
    """The mean of one value per query, and its interval when queries are drawn anew `rounds` times.

    For a paired comparison give the differences, query by query: what excludes 0 is more than luck.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(rounds)
    for i in range(rounds):
        means[i] = values[rng.integers(0, len(values), len(values))].mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))
