"""Ranks and metrics against a naive full sort that is written to be obviously right."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.errors import InputError
from cnclip.evaluation.ranks import metrics, query_metrics, relevant_ranks, top_k, transpose

Scores = npt.NDArray[np.float32]


def naive_ranking(scores: npt.NDArray[np.float32]) -> list[int]:
    """Gallery positions, best first; equal scores in gallery order."""
    return sorted(range(len(scores)), key=lambda item: (-scores[item], item))


def naive_metrics(scores: Scores, relevant: Sequence[Sequence[int]]) -> dict[str, float]:
    rows = []
    for row, wanted in zip(scores, relevant, strict=True):
        if not wanted:
            continue
        ranking = naive_ranking(row)
        hits = [item in wanted for item in ranking]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        recalls = {k: float(any(hits[:k])) for k in (1, 5, 10)}
        rows.append(
            {
                **{f"R@{k}": value for k, value in recalls.items()},
                "mean_recall": sum(recalls.values()) / 3,
                "mAP": sum(precisions) / len(wanted),
                "MRR": 1 / (hits.index(True) + 1),
                "P@10": sum(hits[:10]) / min(10, len(wanted)),
            }
        )
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def integer_case(
    seed: int, n_queries: int, n_gallery: int, dim: int = 3, values: int = 2
) -> tuple[Scores, Scores, list[list[int]]]:
    """Small whole numbers: exact in float32, so ties are exact and plentiful."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-values, values + 1, (n_queries, dim)).astype(np.float32)
    gallery = rng.integers(-values, values + 1, (n_gallery, dim)).astype(np.float32)
    relevant = [
        sorted(rng.choice(n_gallery, rng.integers(0, min(n_gallery, 15) + 1), replace=False).tolist())
        for _ in range(n_queries)
    ]
    if not any(relevant):
        relevant[0] = [n_gallery - 1]
    return queries, gallery, relevant


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([1, 3, 7, 1000]),
    st.sampled_from([1, 3, 7, 11, 1000]),
)
def test_metrics_equal_the_naive_sort_under_ties_and_any_blocks(
    seed: int, n_queries: int, n_gallery: int, query_block: int, gallery_block: int
) -> None:
    queries, gallery, relevant = integer_case(seed, n_queries, n_gallery)
    ranks = relevant_ranks(queries, gallery, relevant, query_block=query_block, gallery_block=gallery_block)
    assert metrics(ranks) == pytest.approx(naive_metrics(queries @ gallery.T, relevant), abs=1e-12)
    for i, query in enumerate(ranks.queries):
        ranking = naive_ranking(queries[query] @ gallery.T)
        assert ranks.of(i).tolist() == sorted(ranking.index(item) + 1 for item in relevant[query])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 30), st.integers(1, 35), st.integers(1, 31))
def test_top_k_equals_the_naive_sort(
    seed: int, n_queries: int, n_gallery: int, k: int, gallery_block: int
) -> None:
    queries, gallery, _ = integer_case(seed, n_queries, n_gallery)
    scores, rows = top_k(queries, gallery, k, query_block=3, gallery_block=gallery_block)
    full = queries @ gallery.T
    assert rows.tolist() == [naive_ranking(row)[:k] for row in full]
    assert np.array_equal(scores, np.take_along_axis(full, rows, axis=1))


def test_two_queries_four_items_by_hand() -> None:
    # query 0 sees 0.9 0.8 0.7 0.1: relevant 1 and 3 stand at ranks 2 and 4
    # query 1 sees 0.2 0.5 0.5 0.6: relevant 2 ties with 1, which comes first, so it stands at rank 3
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.2, 0.5, 0.5, 0.6]], np.float32)
    ranks = relevant_ranks(np.eye(2, dtype=np.float32), scores.T.copy(), [[1, 3], [2]])
    assert ranks.ranks.tolist() == [2, 4, 3] and ranks.starts.tolist() == [0, 2, 3]
    result = metrics(ranks)
    assert result["R@1"] == 0 and result["R@5"] == result["R@10"] == 1
    assert result["mean_recall"] == pytest.approx(2 / 3)
    assert result["MRR"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result["mAP"] == pytest.approx(((1 / 2 + 2 / 4) / 2 + 1 / 3) / 2)
    assert result["P@10"] == 1


def test_ties_go_to_gallery_order_across_blocks() -> None:
    queries = np.ones((1, 1), np.float32)
    gallery = np.ones((10, 1), np.float32)  # ten copies of one picture
    for block in (1, 2, 3, 10, 99):
        ranks = relevant_ranks(queries, gallery, [[0, 4, 9]], gallery_block=block)
        assert ranks.ranks.tolist() == [1, 5, 10]


def test_relevant_numbers_may_repeat_and_come_in_any_order() -> None:
    queries, gallery, _ = integer_case(3, 2, 20)
    a = relevant_ranks(queries, gallery, [[5, 1, 5, 9], [2]])
    b = relevant_ranks(queries, gallery, [np.array([1, 5, 9]), (2,)])
    assert np.array_equal(a.ranks, b.ranks) and np.array_equal(a.starts, b.starts)


def test_queries_without_relevant_items_are_left_out() -> None:
    queries, gallery, _ = integer_case(1, 3, 8)
    ranks = relevant_ranks(queries, gallery, [[], [3], []])
    assert ranks.queries.tolist() == [1]
    alone = relevant_ranks(queries[1:2], gallery, [[3]])
    assert metrics(ranks) == metrics(alone)


def test_p_at_10_divides_by_what_could_be_found() -> None:
    gallery = np.arange(30, 0, -1, dtype=np.float32)[:, None]  # item i stands at rank i + 1
    ranks = relevant_ranks(np.ones((3, 1), np.float32), gallery, [range(20), [0, 1, 20], [11]])
    assert query_metrics(ranks)["P@10"].tolist() == [1.0, pytest.approx(2 / 3), 0.0]


def test_real_vectors_give_the_same_ranks_in_any_blocks() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((37, 64)).astype(np.float32)
    gallery = rng.standard_normal((501, 64)).astype(np.float32)
    relevant = [rng.choice(501, rng.integers(1, 30), replace=False) for _ in range(37)]
    exact = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    for query_block, gallery_block in ((1, 1), (5, 64), (37, 501), (1024, 16_384)):
        ranks = relevant_ranks(
            queries, gallery, relevant, query_block=query_block, gallery_block=gallery_block
        )
        for i in range(37):
            position = np.empty(501, np.int64)
            position[np.argsort(-exact[i], kind="stable")] = np.arange(1, 502)
            assert ranks.of(i).tolist() == sorted(position[relevant[i]].tolist())


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 10), st.integers(1, 12))
def test_transpose_turns_the_relation_around(seed: int, n_queries: int, n_items: int) -> None:
    _, _, relevant = integer_case(seed, n_queries, n_items)
    turned = transpose(relevant, n_items)
    assert [row.tolist() for row in turned] == [
        [query for query in range(n_queries) if item in relevant[query]] for item in range(n_items)
    ]
    assert [row.tolist() for row in transpose(turned, n_queries)] == relevant


def test_bad_input_is_refused() -> None:
    queries, gallery, _ = integer_case(0, 2, 5)
    broken = gallery.copy()
    broken[2, 0] = np.nan
    cases = [
        (queries, gallery, [[1]], "1 rows for 2 queries"),
        (queries, gallery, [[], []], "no query has a relevant item"),
        (queries, gallery, [[5], []], "outside the gallery of 5"),
        (queries, gallery, [[-1], []], "outside the gallery of 5"),
        (queries, gallery[:0], [[0], []], "the gallery is empty"),
        (queries, gallery[:, :2], [[0], []], "do not fit together"),
        (queries, broken, [[0], []], "gallery hold values that are not finite"),
    ]
    for bad_queries, bad_gallery, relevant, why in cases:
        with pytest.raises(InputError, match=why):
            relevant_ranks(bad_queries, bad_gallery, relevant)


def test_memory_stays_far_below_queries_times_gallery() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((300, 8)).astype(np.float32)
    gallery = rng.standard_normal((20_000, 8)).astype(np.float32)
    relevant = [[i, 2 * i] for i in range(1, 301)]
    tracemalloc.start()
    try:
        relevant_ranks(queries, gallery, relevant, query_block=50, gallery_block=2000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6e6  # the full matrix of scores alone is 24 MB
