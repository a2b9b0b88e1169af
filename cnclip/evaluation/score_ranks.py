"""Ranks of relevant items where the scores are given, not the vectors (see `cnclip.evaluation.ranks`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.evaluation.ranks import FloatArray, IntArray, Ranks


def score_ranks(blocks: Iterable[FloatArray], relevant: Sequence[npt.ArrayLike]) -> Ranks:
    """Rank the relevant items of every query, under the tie rule of `cnclip.evaluation.ranks`.

    Args:
        blocks: scores of the first queries, of the next ones, … float32 (n, gallery).
        relevant: for each query the columns that satisfy it, possibly none.

    Raises:
        InputError: no query with a relevant item, or another number of queries than of rows.
    """
    wanted = [np.unique(np.asarray(columns, np.int64)) for columns in relevant]
    ranks: list[IntArray] = []
    scored: list[int] = []
    number = 0
    for block in blocks:
        for row in block:
            if number < len(wanted) and len(wanted[number]):
                ranks.append(np.sort(_row_ranks(row, wanted[number])))
                scored.append(number)
            number += 1
    if number != len(wanted):
        raise InputError(f"relevant: {len(wanted)} rows for {number} queries")
    if not scored:
        raise InputError("relevant: no query has a relevant item")
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ranks])])
    return Ranks(np.concatenate(ranks), starts, np.array(scored, np.int64))


def _row_ranks(row: FloatArray, items: IntArray) -> IntArray:
    """Rank of each item: 1 + items that score higher, or the same and come earlier. int64 (n,)."""
    ordered, own = np.sort(row), row[items]
    above = len(row) - np.searchsorted(ordered, own, side="right")
    ties = np.searchsorted(ordered, own, side="right") - np.searchsorted(ordered, own, side="left")
    earlier = [
        int(np.count_nonzero(row[:i] == row[i])) if n > 1 else 0 for i, n in zip(items, ties, strict=True)
    ]
    return np.asarray(above + 1 + np.array(earlier, np.int64), np.int64)
