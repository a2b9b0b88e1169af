"""Batches: each pair once, the same again for the same seed, no repeats where that is possible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.data.dataset import Pairs
from cnclip.data.sampler import PairBatchSampler, epoch_order
from cnclip.errors import InputError


def make_pairs(n: int, images: int, texts: int, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    return Pairs(rng.integers(0, images, n), rng.integers(0, texts, n))


def repeats(pairs: Pairs, batch: list[int]) -> int:
    return 2 * len(batch) - len(set(pairs.image[batch])) - len(set(pairs.text[batch]))


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(1, 17), st.integers(1, 12), st.integers(0, 3), st.booleans())
def test_each_pair_comes_once(n: int, batch_size: int, kinds: int, seed: int, avoid: bool) -> None:
    sampler = PairBatchSampler(
        make_pairs(n, kinds, kinds), batch_size, seed=seed, avoid_repeats=avoid, lookahead=2
    )
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_no_repeats_where_there_is_room() -> None:
    pairs = Pairs(np.arange(1200) // 3, np.arange(1200) // 2)
    sampler, plain = PairBatchSampler(pairs, 32), PairBatchSampler(pairs, 32, avoid_repeats=False)
    assert sum(repeats(pairs, batch) for batch in plain) > 20
    assert sum(repeats(pairs, batch) for batch in sampler) == 0


def test_impossible_demands_still_fill_batches() -> None:
    pairs = Pairs(np.arange(50), np.zeros(50, np.int64))  # one text for all
    assert [len(batch) for batch in PairBatchSampler(pairs, 8)] == [8, 8, 8, 8, 8, 8, 2]


def test_epochs_differ_and_seeds_decide() -> None:
    pairs = make_pairs(100, 40, 40)
    sampler = PairBatchSampler(pairs, 8, seed=5)
    first, second = list(sampler), list(sampler)
    assert first != second
    again = PairBatchSampler(pairs, 8, seed=5)
    assert [list(again), list(again)] == [first, second]
    assert list(PairBatchSampler(pairs, 8, seed=6)) != first
    assert not np.array_equal(epoch_order(50, seed=1, epoch=0), epoch_order(50, seed=1, epoch=1))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 5, 12, 13, 14, 20, 25])
def test_resume_continues_with_exactly_the_next_batch(stop: int, drop_last: bool) -> None:
    pairs = make_pairs(101, 30, 30)

    def stream(sampler: PairBatchSampler, n: int) -> list[list[int]]:
        taken: list[list[int]] = []
        while len(taken) < n:
            for batch in sampler:
                taken.append(batch)
                if len(taken) == n:
                    break
        return taken

    whole = stream(PairBatchSampler(pairs, 8, seed=3, drop_last=drop_last), 30)
    before = PairBatchSampler(pairs, 8, seed=3, drop_last=drop_last)
    taken = stream(before, stop)
    after = PairBatchSampler(pairs, 8, seed=99, drop_last=drop_last)
    after.load_state_dict(before.state_dict())
    assert taken + stream(after, 30 - stop) == whole


def test_drop_last_and_bad_sizes() -> None:
    pairs = make_pairs(20, 9, 9)
    sampler = PairBatchSampler(pairs, 8, drop_last=True)
    assert [len(batch) for batch in sampler] == [8, 8] and len(sampler) == 2
    for batch_size, lookahead in ((0, 1), (1, 0)):
        with pytest.raises(InputError):
            PairBatchSampler(pairs, batch_size, lookahead=lookahead)
