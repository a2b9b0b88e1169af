"""Replay and canary: divided once, drawn alike, labelled rightly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cnclip.data.dataset import PairDataset
from cnclip.online.batch import Meanings
from cnclip.online.replay import Memory
from cnclip.text import normalize
from tests.cnclip.online.world import KNOWN, Shop, build_tiny_model, maker


def test_the_canary_is_never_replayed(train: PairDataset) -> None:
    memory = Memory([train], canary=8, seed=3)
    aside = {image_id for _, image_id in memory.canary._pictures.values()}
    assert len(aside) == 8
    seen = Counter(memory.sources.image(row.pair)[1] for n in range(200) for row in memory.draw(16, [3, n]))
    assert not aside & seen.keys() and len(seen) == len(train.image_ids) - 8
    relevant = memory.canary.relevance()
    for row, columns in zip(memory.canary.texts, relevant, strict=True):
        assert [memory.canary.image_ids[i] for i in columns] == row.image_ids
        for image_id in row.image_ids:
            _, own = memory.canary._pictures[image_id]
            assert own in next(text.image_ids for text in train.texts if text.text == row.text)


def test_divisions_and_draws_follow_the_seed(train: PairDataset) -> None:
    one, same, other = (Memory([train], 8, seed) for seed in (3, 3, 4))
    assert one.canary.image_ids == same.canary.image_ids != other.canary.image_ids
    pairs = [[row.pair for row in memory.draw(20, [1, 2])] for memory in (one, same)]
    assert pairs[0] == pairs[1] != [row.pair for row in one.draw(20, [1, 3])]


def test_rare_texts_are_replayed_as_often_as_common_ones(train: PairDataset) -> None:
    memory = Memory([train], 8, 3)
    texts = Counter(row.text for n in range(50) for row in memory.draw(8, [n]))
    assert set(texts) == {normalize(name) for name in KNOWN}
    assert max(texts.values()) - min(texts.values()) <= 2
    rows = memory.draw(60, [1])  # of 88 pictures
    pictures = Counter(memory.sources.image(row.pair)[1] for row in rows)
    assert max(pictures.values()) == 1  # 88 are there
    assert len(memory.draw(200, [1])) == 200  # more than there are: some come again


def test_a_small_train_set_keeps_most_of_its_pictures(train: PairDataset) -> None:
    memory = Memory([train], canary=5000, seed=1)
    assert len(memory.canary.image_ids) == max(8, len(train.image_ids) // 10)


@pytest.mark.parametrize("replay", [0, 5])
def test_labels_of_a_batch_against_plain_rules(train: PairDataset, replay: int) -> None:
    memory = Memory([train], 8, 3)
    queries = ["紫色", "红色", "橙色"]  # training has 红色
    numbers = memory.sample()
    # Pictures are none of its business: axes of their own, but that 紫色 is near one training text.
    vectors, texts = np.eye(16, dtype=np.float32)[:3], np.eye(16, dtype=np.float32)[3 : 3 + len(numbers)]
    texts[2] = vectors[0]
    meanings = Meanings.of(queries, vectors, numbers, texts, memory)
    near_text = memory.texts[numbers[2]]
    shop = Shop(sells=tuple(queries), each=2)
    fresh = [picture for answer in shop.fetch(queries, [1, 2], 1).values() for picture in answer]  # type: ignore[union-attr]
    replayed = memory.draw(replay, [7])
    batch = maker(build_tiny_model(), memory).batch(fresh, replayed, meanings, [1])
    relevance, unknown = batch["relevance"].numpy(), batch["unknown"].numpy()
    own = [p.query for p in fresh] + [row.text for row in replayed]
    labels = [{p.query} for p in fresh] + [{memory.texts[t] for t in row.texts} for row in replayed]
    for i in range(len(own)):
        for j in range(len(own)):
            assert relevance[i, j] == (own[j] in labels[i]), (own[i], own[j])
            fresh_side = (i < len(fresh)) != (j < len(fresh))
            purple = {own[i], own[j]} >= {"紫色"} and near_text in {own[i], own[j]}
            assert unknown[i, j] == (fresh_side and purple), (own[i], own[j])
    assert batch["image"].shape == (len(own), 3, 32, 32) and batch["valid"].all()


def test_rows_divide_among_processes_and_sub_batches(train: PairDataset) -> None:
    memory = Memory([train], 8, 3)
    for size in (1, 2, 3):
        made = maker(build_tiny_model(), memory)
        made = type(made)(**{**vars(made), "world": type(made.world)(0, size), "rows_at_once": 24})
        for pairs in (4, 17, 70):
            rows, parts = made.division(pairs, 16)
            assert rows >= 16 and (pairs + rows) % (size * parts) == 0
            assert (pairs + rows) // (size * parts) <= 24 + 1
