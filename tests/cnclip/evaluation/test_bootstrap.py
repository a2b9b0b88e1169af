"""The bootstrap against what theory says of means."""

from __future__ import annotations

import numpy as np
import pytest

from cnclip.evaluation.bootstrap import bootstrap_interval


def test_the_interval_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(0).random(2000)
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    narrower = bootstrap_interval(values, confidence=0.5)
    assert high - low > 2.5 * (narrower.high - narrower.low)


def test_it_is_deterministic_and_paired_differences_are_sharper() -> None:
    rng = np.random.default_rng(1)
    one = rng.random(200)
    other = one + 0.01 + 0.01 * rng.standard_normal(200)  # a little better on nearly every query
    assert bootstrap_interval(one) == bootstrap_interval(one)
    assert bootstrap_interval(other - one).low > 0
    assert bootstrap_interval(other).low < bootstrap_interval(one).high, "unpaired, it cannot be told"


def test_equal_values_leave_no_doubt() -> None:
    assert bootstrap_interval(np.full(10, 0.5)) == (0.5, 0.5, 0.5)
