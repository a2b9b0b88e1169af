"""Batches: each pair once, the same again for the same seed, no repeats where that is possible."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.data.dataset import Pairs
from cnclip.data.sampler import PairBatchSampler, SamplerName, epoch_order, training_sampler
from cnclip.data.sources import PairSources
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
    batches = list(sampler.batches(0))
    assert len(batches) == len(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_no_repeats_where_there_is_room() -> None:
    pairs = Pairs(np.arange(1200) // 3, np.arange(1200) // 2)
    sampler, plain = PairBatchSampler(pairs, 32), PairBatchSampler(pairs, 32, avoid_repeats=False)
    assert sum(repeats(pairs, batch) for batch in plain.batches(0)) > 20
    assert sum(repeats(pairs, batch) for batch in sampler.batches(0)) == 0


def test_impossible_demands_still_fill_batches() -> None:
    pairs = Pairs(np.arange(50), np.zeros(50, np.int64))  # one text for all
    assert [len(batch) for batch in PairBatchSampler(pairs, 8).batches(0)] == [8, 8, 8, 8, 8, 8, 2]


def test_epochs_differ_and_seeds_decide() -> None:
    pairs = make_pairs(100, 40, 40)
    sampler = PairBatchSampler(pairs, 8, seed=5)
    first, second = list(sampler.batches(0)), list(sampler.batches(1))
    assert first != second
    again = PairBatchSampler(pairs, 8, seed=5)
    assert [list(again.batches(epoch)) for epoch in range(2)] == [first, second]
    assert list(PairBatchSampler(pairs, 8, seed=6).batches(0)) != first
    assert not np.array_equal(epoch_order(50, seed=1, epoch=0), epoch_order(50, seed=1, epoch=1))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 5, 12, 13])
def test_an_epoch_goes_on_after_any_batch(stop: int, drop_last: bool) -> None:
    """With another sampler, and with one that has given other epochs, whole and in part."""
    pairs = make_pairs(101, 30, 30)
    first, used = (PairBatchSampler(pairs, 8, seed=3, drop_last=drop_last) for _ in range(2))
    whole = [list(first.batches(epoch)) for epoch in range(3)]
    next(used.batches(1))
    assert list(used.batches(2)) == whole[2]
    fresh = PairBatchSampler(pairs, 8, seed=3, drop_last=drop_last)
    for sampler in (fresh, used, first):
        had = list(islice(first.batches(1), stop))
        assert had + list(islice(sampler.batches(1), stop, None)) == whole[1]


def test_drop_last_and_bad_sizes() -> None:
    pairs = make_pairs(20, 9, 9)
    sampler = PairBatchSampler(pairs, 8, drop_last=True)
    assert [len(batch) for batch in sampler.batches(0)] == [8, 8] and len(sampler) == 2
    for batch_size, lookahead in ((0, 1), (1, 0)):
        with pytest.raises(InputError):
            PairBatchSampler(pairs, batch_size, lookahead=lookahead)


def naive_distinct(pairs: Pairs, size: int, order: list[int], lookahead: int) -> list[list[int]]:
    """The rule, word for word: of the rows in sight, the first that repeat nothing; the oldest fill up."""
    batches, waiting, rest = [], list[int](), list(order)
    while waiting or rest:
        room = size * lookahead - len(waiting)
        waiting, rest = waiting + rest[:room], rest[room:]
        batch: list[int] = []
        for row in waiting:
            if len(batch) < size and repeats(pairs, [*batch, row]) == 0:
                batch.append(row)
        waiting = [row for row in waiting if row not in batch]
        filled = size - len(batch)
        batch, waiting = batch + waiting[:filled], waiting[filled:]
        batches.append(batch)
    return batches


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 12), st.integers(1, 4))
def test_distinct_follows_its_rule(n: int, batch_size: int, kinds: int, lookahead: int) -> None:
    pairs = make_pairs(n, kinds, kinds, seed=n)
    order = epoch_order(n, seed=3, epoch=1).tolist()
    sampler = PairBatchSampler(pairs, batch_size, seed=3, lookahead=lookahead)
    assert list(sampler.batches(1)) == naive_distinct(pairs, batch_size, order, lookahead)


def test_files_order_goes_on_from_epoch_to_epoch() -> None:
    pairs = make_pairs(10, 5, 5)
    sampler = PairBatchSampler(pairs, 4, drop_last=True, avoid_repeats=False, shuffle=False)
    stream = [row for epoch in range(5) for batch in sampler.batches(epoch) for row in batch]
    assert stream == [i % 10 for i in range(40)]  # the rows that an epoch leaves out come first in the next
    whole = PairBatchSampler(pairs, 4, avoid_repeats=False, shuffle=False)
    assert list(whole.batches(7)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("drop_last", [True, False])
def test_groups_have_batches_of_their_own(drop_last: bool) -> None:
    sizes = [70, 9, 130]
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(3), sizes))
    pairs = make_pairs(sum(sizes), 60, 60)
    sampler = PairBatchSampler(pairs, 8, seed=4, drop_last=drop_last, groups=groups)
    turns = []
    for epoch in range(2):
        batches = list(sampler.batches(epoch))
        assert len(batches) == len(sampler) and all(len(set(groups[batch])) == 1 for batch in batches)
        turns.append([int(groups[batch[0]]) for batch in batches])
        expected = [size // 8 if drop_last else -(-size // 8) for size in sizes]
        assert [turns[-1].count(number) for number in range(3)] == expected
        rows = [row for batch in batches for row in batch]
        assert len(set(rows)) == len(rows) and (drop_last or len(rows) == len(groups))
        plain = PairBatchSampler(pairs, 8, seed=4, drop_last=drop_last, groups=groups, avoid_repeats=False)
        assert sum(repeats(pairs, b) for b in batches) < sum(repeats(pairs, b) for b in plain.batches(epoch))
    assert turns[0] != turns[1] and turns[0] != sorted(turns[0])
    again = PairBatchSampler(pairs, 8, seed=4, drop_last=drop_last, groups=groups)
    assert list(again.batches(1)) == batches


@pytest.fixture
def tables(tmp_path: Path) -> PairSources:
    """Two splits of 24 and 12 pairs: each picture has a text of its own and shares one or two more."""
    from cnclip.data.dataset import PairDataset
    from tests.cnclip.data.muge_files import write_split

    write_split(tmp_path, "big", 10)
    write_split(tmp_path, "small", 5, first=3)
    return PairSources([PairDataset.from_muge(tmp_path, name) for name in ("big", "small")])


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_each_sampler_by_name(tables: PairSources, name: SamplerName) -> None:
    assert [len(dataset) for dataset in tables.datasets] == [25, 13]
    sampler = training_sampler(name, tables, 6, seed=1)
    batches = list(sampler.batches(0))
    assert len(batches) == len(sampler) == 6 and all(len(batch) == 6 for batch in batches)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == 36
    assert (rows == list(range(36))) == (name == "sequential")
    assert all(len(set(tables.source[batch])) == 1 for batch in batches) == (name == "debias")
    assert list(training_sampler(name, tables, 6, seed=1).batches(0)) == batches
    rate = np.mean([tables.duplicate_rate(np.array(batch)) for batch in batches])
    plain = list(training_sampler("shuffle", tables, 6, seed=1).batches(0))
    assert (rate < np.mean([tables.duplicate_rate(np.array(b)) for b in plain])) == (
        name in ("distinct", "debias")
    )


def test_too_few_pairs_name_the_source(tables: PairSources) -> None:
    with pytest.raises(InputError, match=r"^\S+, \S+: 38 pairs, fewer than the batch size 39$"):
        training_sampler("shuffle", tables, 39, seed=1)
    with pytest.raises(InputError, match=r"13 pairs, fewer than the batch size 14, and sampler debias"):
        training_sampler("debias", tables, 14, seed=1)
    assert len(training_sampler("distinct", tables, 38, seed=1)) == 1
