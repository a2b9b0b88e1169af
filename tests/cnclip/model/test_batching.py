"""Length-sorted batches against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cnclip.model.batching import length_sorted_batches, text_lengths
from cnclip.text import tokenize


def cost(batches: list[np.ndarray], lengths: np.ndarray, run_cost: int) -> int:
    return sum(len(rows) * int(lengths[rows].max()) + run_cost for rows in batches)


def cheapest(lengths: list[int], run_cost: int) -> int:
    """Try every way to cut the sorted lengths."""
    ordered = sorted(lengths)
    best = None
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        groups, start = [], 0
        for i, cut in enumerate([*cuts, True], 1):
            if cut:
                groups.append(ordered[start:i])
                start = i
        total = sum(len(g) * max(g) + run_cost for g in groups)
        best = total if best is None else min(best, total)
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("run_cost", [0, 5, 20, 1000])
def test_cut_at_least_cost(seed: int, run_cost: int) -> None:
    lengths = np.random.default_rng(seed).integers(3, 20, size=9)
    batches = length_sorted_batches(lengths, batch_size=None, run_cost=run_cost)
    assert sorted(np.concatenate(batches).tolist()) == list(range(9))
    assert cost(batches, lengths, run_cost) == cheapest(lengths.tolist(), run_cost)


@pytest.mark.parametrize(
    ("batch_size", "token_budget"), [(7, None), (None, 60), (4, 60), (1, None), (None, 1)]
)
def test_limits_hold_and_every_row_comes_once(batch_size: int | None, token_budget: int | None) -> None:
    lengths = np.random.default_rng(0).integers(3, 53, size=500)
    batches = length_sorted_batches(lengths, batch_size=batch_size, token_budget=token_budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for rows in batches:
        assert batch_size is None or len(rows) <= batch_size
        assert token_budget is None or len(rows) == 1 or len(rows) * lengths[rows].max() <= token_budget
    longest = [int(lengths[rows].max()) for rows in batches]
    assert longest == sorted(longest)


def test_no_rows_no_batches() -> None:
    assert length_sorted_batches([]) == []


@pytest.mark.parametrize("limits", [{"batch_size": 0}, {"token_budget": 0}, {"batch_size": -3}])
def test_limits_below_one_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        length_sorted_batches([3, 4], **limits)


def test_lengths_count_tokens_not_padding() -> None:
    ids = tokenize(["", "猫", "红色连衣裙"])
    assert text_lengths(ids).tolist() == [2, 3, 7]
