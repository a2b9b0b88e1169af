"""Ranks of relevant items in the full gallery, and the retrieval metrics that follow. Pure numpy.

Ranks start at 1. **Tie rule**: of two gallery items with the same score, the one that comes first in the
gallery ranks first. Every ranking is therefore total, and no metric depends on how something was sorted.

Nothing of the size queries × gallery is ever held: both go through in blocks, and what stays is one rank
for each (query, relevant item). The rank of an item is 1 + the number of items that score higher (or the
same and come earlier), which blocks can count one by one. Scores are float32 inner products; two passes
compute the same blocks, so an item meets exactly its own score again. Items whose scores differ only in the
last bit may swap under another block size; that goes for copies of one picture, too: BLAS may sum the columns
at the edge of a block in another order, and then the tie rule does not apply to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
QUERY_BLOCK, GALLERY_BLOCK = 1024, 16_384  # 64 MiB of scores at a time
CUTOFFS = (1, 5, 10)


class Ranks(NamedTuple):
    """Ranks of relevant items, query by query.

    ranks: int64 (m,), ascending within each query. starts: int64 (n + 1,), query i owns
    `ranks[starts[i]:starts[i + 1]]`, which is never empty. queries: int64 (n,), the row of each query among
    those given; the others have no relevant item and are left out of every metric.
    """

    ranks: IntArray
    starts: IntArray
    queries: IntArray

    def of(self, i: int) -> IntArray:
        """The ranks of the i-th scored query."""
        return self.ranks[self.starts[i] : self.starts[i + 1]]


def _check(queries: FloatArray, gallery: FloatArray) -> tuple[FloatArray, FloatArray]:
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise InputError(f"embeddings: shapes {queries.shape} and {gallery.shape} do not fit together")
    if not len(gallery):
        raise InputError("embeddings: the gallery is empty")
    for name, values in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(values).all():
            raise InputError(f"embeddings: {name} hold values that are not finite")
    return queries, gallery


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def transpose(relevant: Sequence[npt.ArrayLike], n_items: int) -> list[IntArray]:
    """Turn "items of each query" into "queries of each item": `n_items` ascending int64 arrays."""
    items = [np.unique(np.asarray(row, np.int64)) for row in relevant]
    counts = [len(row) for row in items]
    item = np.concatenate(items) if items else np.empty(0, np.int64)
    query = np.repeat(np.arange(len(items)), counts)
    order = np.lexsort((query, item))
    return np.split(query[order], np.searchsorted(item[order], np.arange(1, n_items)))


def relevant_ranks(
    queries: FloatArray,
    gallery: FloatArray,
    relevant: Sequence[npt.ArrayLike],
    *,
    query_block: int = QUERY_BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> Ranks:
    """Rank the relevant items of every query in the full gallery.

    Args:
        queries: float32 (q, d). gallery: float32 (g, d). Scores are their inner products.
        relevant: for each query the rows of the gallery that satisfy it; many to many, possibly none.

    Raises:
        InputError: shapes that do not fit, values that are not finite, an empty gallery, a row number outside
            it, or no query with a relevant item.
    """
    queries, gallery = _check(queries, gallery)
    if len(relevant) != len(queries):
        raise InputError(f"relevant: {len(relevant)} rows for {len(queries)} queries")
    wanted = [np.unique(np.asarray(row, np.int64)) for row in relevant]
    scored = np.array([i for i, row in enumerate(wanted) if len(row)], np.int64)
    if not len(scored):
        raise InputError("relevant: no query has a relevant item")
    starts = np.concatenate([[0], np.cumsum([len(wanted[i]) for i in scored])])
    items = np.concatenate([wanted[i] for i in scored])
    if items.min() < 0 or items.max() >= len(gallery):
        raise InputError(f"relevant: an item outside the gallery of {len(gallery)}")
    ranks = np.empty(len(items), np.int64)
    for block in _blocks(len(scored), query_block):
        owned = slice(starts[block.start], starts[block.stop])
        local = starts[block.start : block.stop + 1] - starts[block.start]
        ranks[owned] = _rank_block(queries[scored[block]], gallery, items[owned], local, gallery_block)
    order = np.lexsort((ranks, np.repeat(np.arange(len(scored)), np.diff(starts))))
    return Ranks(ranks[order], starts, scored)


def _rank_block(
    queries: FloatArray, gallery: FloatArray, items: IntArray, starts: IntArray, gallery_block: int
) -> IntArray:
    """Ranks of `items` (those of query i at `starts[i]:starts[i + 1]`), int64, in the order given."""
    owner = np.repeat(np.arange(len(queries)), np.diff(starts))
    own_scores = np.empty(len(items), np.float32)
    for block in _blocks(len(gallery), gallery_block):
        inside = np.flatnonzero((items >= block.start) & (items < block.stop))
        if len(inside):
            scores = queries @ gallery[block].T
            own_scores[inside] = scores[owner[inside], items[inside] - block.start]
    ranks = np.ones(len(items), np.int64)
    for block in _blocks(len(gallery), gallery_block):
        scores = queries @ gallery[block].T  # (queries, block)
        ordered = np.sort(scores, axis=1)
        for i in range(len(queries)):
            mine = slice(starts[i], starts[i + 1])
            below = np.searchsorted(ordered[i], own_scores[mine], side="left")
            up_to = np.searchsorted(ordered[i], own_scores[mine], side="right")
            ranks[mine] += ordered.shape[1] - up_to
            ties = up_to - below
            # Equal scores count where they come earlier: all of an earlier block, none of a later one.
            ranks[mine] += np.where(items[mine] >= block.stop, ties, 0)
            for j in np.flatnonzero((ties > 1) & (items[mine] >= block.start) & (items[mine] < block.stop)):
                earlier = scores[i, : items[starts[i] + j] - block.start]
                ranks[starts[i] + j] += np.count_nonzero(earlier == own_scores[starts[i] + j])
    return ranks


def metrics(ranks: Ranks) -> dict[str, float]:
    """R@1, R@5, R@10, mean_recall, mAP, MRR and P@10, each a mean over the scored queries, in 0..1.

    R@k: 1 where a relevant item is among the first k (as Chinese-CLIP scores it). mean_recall: the mean of
    the three. mAP: precision at each relevant item, over the full ranking, averaged over all relevant items.
    MRR: 1 / rank of the first relevant item. P@10: relevant among the first 10 / min(10, relevant items).
    """
    per_query = query_metrics(ranks)
    result = {f"R@{k}": float(np.mean(per_query["first"] <= k)) for k in CUTOFFS}
    result["mean_recall"] = float(np.mean([result[f"R@{k}"] for k in CUTOFFS]))
    result["mAP"] = float(per_query["AP"].mean())
    result["MRR"] = float((1.0 / per_query["first"]).mean())
    result["P@10"] = float(per_query["P@10"].mean())
    return result


def query_metrics(ranks: Ranks) -> dict[str, npt.NDArray[np.float64]]:
    """For each scored query: `first` (rank of the first relevant item), `AP` and `P@10`, float64 (n,)."""
    starts, counts = ranks.starts[:-1], np.diff(ranks.starts)
    nth = np.arange(len(ranks.ranks)) - np.repeat(starts, counts) + 1
    return {
        "first": ranks.ranks[starts].astype(np.float64),
        "AP": np.add.reduceat(nth / ranks.ranks, starts) / counts,
        "P@10": np.add.reduceat(ranks.ranks <= 10, starts, dtype=np.float64) / np.minimum(counts, 10),
    }


def top_k(
    queries: FloatArray,
    gallery: FloatArray,
    k: int,
    *,
    query_block: int = QUERY_BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> tuple[FloatArray, IntArray]:
    """The k best gallery rows of every query, best first, under the tie rule above.

    Returns scores float32 and rows int64, both (q, min(k, g)). Raises InputError as `relevant_ranks` does.
    """
    queries, gallery = _check(queries, gallery)
    k = min(k, len(gallery))
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    for part in _blocks(len(queries), query_block):
        best_scores = np.empty((part.stop - part.start, 0), np.float32)
        best_rows = np.empty((part.stop - part.start, 0), np.int64)
        for block in _blocks(len(gallery), gallery_block):
            new_scores, new_rows = best_columns(
                queries[part] @ gallery[block].T, min(k, block.stop - block.start)
            )
            # Earlier rows stand left of later ones, so a stable sort keeps the tie rule.
            all_scores = np.concatenate([best_scores, new_scores], axis=1)
            all_rows = np.concatenate([best_rows, new_rows + block.start], axis=1)
            order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
            best_scores = np.take_along_axis(all_scores, order, axis=1)
            best_rows = np.take_along_axis(all_rows, order, axis=1)
        scores[part], rows[part] = best_scores, best_rows
    return scores, rows


def best_columns(scores: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    """The k best columns of each row, best first, equal ones from left to right."""
    threshold = np.partition(scores, -k, axis=1)[:, -k]
    rows = np.empty((len(scores), k), np.int64)
    for i, row in enumerate(scores):
        candidates = np.flatnonzero(row >= threshold[i])  # ascending, at least k
        rows[i] = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
    return np.take_along_axis(scores, rows, axis=1), rows
