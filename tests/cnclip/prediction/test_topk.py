"""Top-k straight from features, against sorting all scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.errors import InputError
from cnclip.prediction.topk import top_k_blocks

METHODS = ("faiss", "matmul")


def naive(queries: np.ndarray, gallery: np.ndarray, k: int) -> list[list[int]]:
    scores = queries.astype(np.float32) @ gallery.astype(np.float32).T
    return [sorted(range(len(gallery)), key=lambda j, row=row: (-row[j], j))[:k] for row in scores]


def found(queries: Any, gallery: Any, k: int, **options: Any) -> list[list[int]]:
    blocks = list(top_k_blocks(queries, gallery, k, **options))
    return [row.tolist() for _, rows in blocks for row in rows]


def whole_numbers(rng: np.random.Generator, n: int, dim: int = 4) -> np.ndarray:
    """Vectors whose inner products are exact, many of them equal."""
    return rng.integers(-2, 3, (n, dim)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=25)
@given(
    n_queries=st.integers(1, 60),
    n_gallery=st.integers(1, 90),
    k=st.integers(1, 100),
    query_block=st.integers(1, 70),
    gallery_block=st.integers(1, 100),
    seed=st.integers(0, 2**20),
)
def test_against_sorting_with_many_ties(
    method: Any, n_queries: int, n_gallery: int, k: int, query_block: int, gallery_block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = whole_numbers(rng, n_queries), whole_numbers(rng, n_gallery)
    blocks = {"query_block": query_block, "gallery_block": gallery_block}
    assert found(queries, gallery, k, method=method, **blocks) == naive(queries, gallery, k)


@pytest.mark.parametrize("method", METHODS)
def test_scores_and_large_blocks(method: Any) -> None:
    rng = np.random.default_rng(3)
    queries = rng.standard_normal((50, 32)).astype(np.float32)
    gallery = rng.standard_normal((5000, 32)).astype(np.float32)
    ((scores, rows),) = top_k_blocks(queries, gallery, 10, method=method, gallery_block=1200)
    assert rows.tolist() == naive(queries, gallery, 10)
    expected = np.take_along_axis(queries @ gallery.T, rows, axis=1)
    assert scores.dtype == np.float32 and np.allclose(scores, expected, atol=1e-5)


def test_the_first_queries_can_be_left_out_and_work_is_told() -> None:
    rng = np.random.default_rng(4)
    queries, gallery = whole_numbers(rng, 10), whole_numbers(rng, 7)
    told: list[tuple[int, int]] = []
    rest = found(
        queries, gallery, 3, first=4, query_block=4, gallery_block=5, advance=lambda *at: told.append(at)
    )
    assert rest == naive(queries, gallery, 3)[4:]
    assert told == [(48, 70), (56, 70), (66, 70), (70, 70)]


def test_mapped_float16_files_are_read_in_slices(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    gallery = whole_numbers(rng, 500).astype(np.float16)
    np.save(tmp_path / "g.npy", gallery)
    taken: list[int] = []

    class Mapped:
        file = np.load(tmp_path / "g.npy", mmap_mode="r")

        def __len__(self) -> int:
            return len(self.file)

        def __getitem__(self, rows: slice) -> np.ndarray:
            part = self.file[rows]
            taken.append(len(part))
            return part

    queries = whole_numbers(rng, 30)
    assert found(queries, Mapped(), 5, gallery_block=64) == naive(queries, gallery, 5)
    assert max(taken) == 64


def test_values_that_are_not_finite_are_refused() -> None:
    good = np.ones((3, 4), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 2] = value
        with pytest.raises(InputError, match="features: the gallery holds values that are not finite"):
            found(good, bad, 1)
        with pytest.raises(
            InputError, match="features: a text or picture that is searched with holds values"
        ):
            found(bad, good, 1)
    with pytest.raises(InputError, match="the gallery is empty"):
        found(good, good[:0], 1)


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    rng = np.random.default_rng(6)
    queries, gallery = whole_numbers(rng, 5), whole_numbers(rng, 9)
    assert found(queries, gallery, 3) == naive(queries, gallery, 3)
    with pytest.raises(InputError, match="faiss is not installed"):
        found(queries, gallery, 3, method="faiss")
