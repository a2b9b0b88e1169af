"""FlatIndex against a brute-force oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import service.gallery.index as index_module
from service.gallery.index import FlatIndex
from service.gallery.index_store import FILE_NAME, Snapshot, load_index, save_index
from tests.service.gallery.helpers import DIM, unit_vectors

NONE = np.empty(0, np.int64)
NO_VECTORS = np.empty((0, DIM), np.float32)


class Oracle:
    """The same as a dict of vectors."""

    def __init__(self) -> None:
        self.vectors: dict[int, np.ndarray] = {}

    def best(self, query: np.ndarray, k: int, allowed: np.ndarray | None) -> list[tuple[float, int]]:
        nums = [num for num in self.vectors if allowed is None or allowed[num]]
        scored = [(-float(self.vectors[num] @ query), num) for num in nums]
        return [(-score, num) for score, num in sorted(scored)[:k]]


def assert_same(index: FlatIndex, oracle: Oracle, k: int, allowed: np.ndarray | None = None) -> None:
    queries = unit_vectors(3, seed=99)
    scores, nums = index.search(queries, k, allowed)
    for row, query in enumerate(queries):
        expected = oracle.best(query, k, allowed)
        assert nums[row].tolist() == [num for _, num in expected]
        np.testing.assert_allclose(scores[row], [score for score, _ in expected], atol=1e-5)


@pytest.mark.parametrize("segment_rows", [7, 64, 65_536])
def test_same_as_brute_force_while_it_changes(segment_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SEGMENT_ROWS", segment_rows)
    random = np.random.default_rng(segment_rows)
    index, oracle, next_num = FlatIndex(DIM), Oracle(), 1
    for step in range(60):
        fresh = np.arange(next_num, next_num + random.integers(0, 30))
        next_num += len(fresh)
        known = np.array(sorted(oracle.vectors), dtype=np.int64)
        random.shuffle(known)
        changed, removed = known[: random.integers(0, 5)], known[5 : 5 + random.integers(0, 12)]
        nums = np.concatenate([fresh, changed]).astype(np.int64)
        vectors = unit_vectors(len(nums), seed=1000 + step)
        index = index.updated(nums, vectors, removed)
        oracle.vectors.update(zip(nums.tolist(), vectors, strict=True))
        for num in removed.tolist():
            del oracle.vectors[num]
        assert len(index) == len(oracle.vectors)
        if step % 5 == 0 and len(index):
            assert_same(index, oracle, 5)
            assert_same(index, oracle, next_num + 10)
            allowed = random.random(next_num) < 0.3
            assert_same(index, oracle, 8, allowed)
    sizes = [len(segment.nums) for segment in index._segments]
    assert max(sizes) <= segment_rows
    assert len(sizes) < 4 + 3 * len(index) / segment_rows + np.log2(len(index))


def test_old_index_is_untouched_by_updates() -> None:
    oracle = Oracle()
    vectors = unit_vectors(50)
    oracle.vectors = dict(enumerate(vectors))
    old = FlatIndex(DIM).updated(np.arange(50), vectors, NONE)
    new = old.updated(np.arange(10), unit_vectors(10, seed=5), np.arange(20, 40))
    assert (len(old), len(new)) == (50, 30)
    assert_same(old, oracle, 50)


def test_empty_cases() -> None:
    index = FlatIndex(DIM)
    query = unit_vectors(2)
    assert index.search(query, 5)[1].shape == (2, 0)
    index = index.updated(np.arange(1, 4), unit_vectors(3), NONE)
    assert index.search(query, 5, np.zeros(4, np.bool_))[1].shape == (2, 0)
    assert len(index.updated(NONE, NO_VECTORS, np.arange(1, 4))) == 0
    assert len(index.updated(NONE, NO_VECTORS, np.array([77]))) == 3


def test_equal_scores_come_in_order_of_number() -> None:
    vector = unit_vectors(1)
    index = FlatIndex(DIM)
    for num in (9, 3, 5):
        index = index.updated(np.array([num]), vector, NONE)
    assert index.search(vector, 3)[1].tolist() == [[3, 5, 9]]


def test_saved_index_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SEGMENT_ROWS", 20)
    vectors = unit_vectors(50)
    index = FlatIndex(DIM).updated(np.arange(1, 51), vectors, NONE)
    index = index.updated(NONE, NO_VECTORS, np.array([2, 3, 44]))
    stamp = save_index(tmp_path, Snapshot(4, index))
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    loaded = load_index(tmp_path, dim=DIM, stamp=stamp)
    assert loaded is not None and loaded.revision == 4
    for got, expected in zip(loaded.index.search(vectors, 50), index.search(vectors, 50), strict=True):
        np.testing.assert_array_equal(got, expected)

    later = Snapshot(5, loaded.index.updated(np.array([60]), vectors[:1], NONE))
    save_index(tmp_path, later)
    kept = {path.name for path in tmp_path.iterdir() if files.get(path.name) == path.stat().st_mtime_ns}
    assert len(kept) >= 2, "full segments are not written again"
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAME, *later.index.parts()}


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "header", "stamp", "path"])
def test_damaged_index_is_not_loaded(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    index = FlatIndex(DIM).updated(np.arange(1, 51), unit_vectors(50), NONE)
    stamp = save_index(tmp_path, Snapshot(1, index))
    (segment,) = tmp_path.glob("*.faiss")
    data = segment.read_bytes()
    header = tmp_path / FILE_NAME
    if damage == "truncate":
        segment.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        segment.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage == "delete":
        segment.unlink()
    elif damage == "header":
        header.write_bytes(header.read_bytes()[:-20])
    elif damage == "path":
        header.write_text(header.read_text().replace(segment.name, f"../{segment.name}"))
    assert load_index(tmp_path, dim=DIM, stamp="other" if damage == "stamp" else stamp) is None
    assert "rebuilt" in caplog.text
