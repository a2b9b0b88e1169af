"""What the weights of an ensemble are learnt from: for each query the items that could rank high.

An item that no member ranks among its first `POOL` will not rank high in any blend, so a query is its
relevant items and the first ones of each member. Where the gallery is no larger than that, the pool is the
gallery and nothing is approximate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnclip.evaluation.ranks import best_columns
from cnclip.prediction.ensemble import Member
from cnclip.prediction.ids import IntArray
from cnclip.prediction.matrix import row_blocks

FloatArray = npt.NDArray[np.float32]
POOL = 100
_ABSENT = np.float32(-1e9)  # below any score; times a weight it still is


@dataclass(frozen=True)
class Pool:
    """Queries with relevant items.

    scores: float32 (members, n, p), normalised, _ABSENT where a query has fewer than p items. relevant: bool
    (n, p). queries: int64 (n,), rows of the ensemble.
    """

    scores: FloatArray
    relevant: npt.NDArray[np.bool_]
    queries: IntArray

    def part(self, rows: IntArray) -> Pool:
        """Some of the queries."""
        return Pool(self.scores[:, rows], self.relevant[rows], self.queries[rows])

    def members(self, kept: Sequence[int]) -> Pool:
        """Some of the members."""
        return Pool(self.scores[list(kept)], self.relevant, self.queries)

    def blended(self, weights: npt.NDArray[np.float64]) -> FloatArray:
        """Scores of a blend, float32 (n, p)."""
        return np.tensordot(weights.astype(np.float32), self.scores, 1)


def build_pool(members: Sequence[Member], relevant: Sequence[IntArray], size: int = POOL) -> Pool:
    """Gather the pool; one block of each member is in memory at a time.

    relevant: for each text of the ensemble its columns, possibly none.
    """
    n_texts, n_images = members[0].matrix.scores.shape
    size = min(size, n_images)
    picked: list[list[FloatArray]] = []  # for each query, the scores of each member
    marks: list[npt.NDArray[np.bool_]] = []
    queries = [i for i, columns in enumerate(relevant) if len(columns)]
    for rows in row_blocks(n_texts, n_images * len(members)):
        blocks = [member.block(rows) for member in members]
        tops = [best_columns(block, size)[1] for block in blocks]
        for i in range(rows.stop - rows.start):
            wanted = relevant[rows.start + i]
            if len(wanted):
                columns = np.unique(np.concatenate([wanted, *(top[i] for top in tops)]))
                picked.append([block[i, columns] for block in blocks])
                marks.append(np.isin(columns, wanted))
    width = max(len(mark) for mark in marks)
    scores = np.full((len(members), len(marks), width), _ABSENT, np.float32)
    found = np.zeros((len(marks), width), np.bool_)
    for i, (values, mark) in enumerate(zip(picked, marks, strict=True)):
        scores[:, i, : len(mark)] = values
        found[i, : len(mark)] = mark
    return Pool(scores, found, np.array(queries, np.int64))


def pool_metric(pool: Pool, weights: npt.NDArray[np.float64], metric: str) -> npt.NDArray[np.float64]:
    """A metric of each query under a blend (see `cnclip.evaluation.ranks.metrics`), float64 (n,)."""
    scores = pool.blended(weights)
    if metric == "mAP":
        order = np.argsort(-scores, axis=1, kind="stable")
        hits = np.take_along_axis(pool.relevant, order, axis=1)
        precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
        return np.asarray((precision * hits).sum(axis=1) / hits.sum(axis=1), np.float64)
    best = np.where(pool.relevant, scores, -np.inf).max(axis=1)
    first = 1 + (scores > best[:, None]).sum(axis=1)
    if metric == "mean_recall":
        return np.asarray(np.mean([first <= k for k in (1, 5, 10)], axis=0), np.float64)
    return np.asarray(first <= int(metric.removeprefix("R@")), np.float64)
