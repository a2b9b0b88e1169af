"""The best k of a large gallery straight from features: no score matrix, one block of the gallery at a time.

Scores are float32 inner products. Of items with the same score, the one that comes first in the gallery ranks
first; BLAS may give copies of one picture scores that differ in the last bit, and then that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.evaluation.ranks import best_columns

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Method = Literal["auto", "faiss", "matmul"]
Search = Callable[[FloatArray, FloatArray, int], tuple[FloatArray, IntArray]]
QUERY_BLOCK = 4096
_BLOCK_BYTES = 256 * 2**20  # of the gallery, as float32
_MATMUL_QUERIES = 512  # times a gallery block is 256 MiB of scores at 512 dimensions


class Rows(Protocol):
    """Vectors that can be taken in slices: an array, a mapped file, or something made as it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]: ...


def _by_faiss(queries: FloatArray, gallery: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    import faiss

    more = min(k + 1, len(gallery))
    scores, rows = faiss.knn(queries, gallery, more, metric=faiss.METRIC_INNER_PRODUCT)
    if more > k:
        # FAISS keeps any of those that share the last place; the others are the same either way.
        shared = scores[:, k] == scores[:, k - 1]
        scores, rows = scores[:, :k], rows[:, :k]
        if shared.any():
            scores[shared], rows[shared] = _by_matmul(queries[shared], gallery, k)
    return scores, rows


def _by_matmul(queries: FloatArray, gallery: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    parts = []
    for start in range(0, len(queries), _MATMUL_QUERIES):
        parts.append(best_columns(queries[start : start + _MATMUL_QUERIES] @ gallery.T, k))
    scores, rows = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(rows)


def _search(method: Method) -> Search:
    if method == "matmul":
        return _by_matmul
    try:
        import faiss  # noqa: F401
    except ImportError:
        if method == "faiss":
            raise InputError("faiss is not installed (pip install faiss-cpu), matmul does without") from None
        return _by_matmul
    return _by_faiss


def top_k_blocks(
    queries: Rows,
    gallery: Rows,
    k: int,
    *,
    first: int = 0,
    method: Method = "auto",
    query_block: int = QUERY_BLOCK,
    gallery_block: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[FloatArray, IntArray]]:
    """The best k of the gallery for each query from the `first` on, in blocks of queries.

    Args:
        queries: (q, d). gallery: (g, d); both of any float type, read slice by slice.
        method: "faiss", "matmul", or whichever is there.
        query_block: queries of one pass over the gallery. gallery_block: rows of it in memory; about 256 MiB.
        advance: called with (multiplications done, in all), counted in queries x gallery rows.

    Yields:
        scores float32 and rows of the gallery int64, both (n, min(k, g)), best first.

    Raises:
        InputError: vectors that are not finite, an empty gallery, or a method that is not there.
    """
    if not len(gallery):
        raise InputError("features: the gallery is empty")
    search, k = _search(method), min(k, len(gallery))
    if gallery_block is None:
        gallery_block = max(1, _BLOCK_BYTES // (4 * gallery[:1].shape[1]))
    for start in range(first, len(queries), query_block):
        block = _finite(queries[start : start + query_block], "a text or picture that is searched with")
        scores = np.empty((len(block), 0), np.float32)
        rows = np.empty((len(block), 0), np.int64)
        for low in range(0, len(gallery), gallery_block):
            part = _finite(gallery[low : low + gallery_block], "the gallery")
            new_scores, new_rows = search(block, part, min(k, len(part)))
            scores, rows = _merged(scores, rows, new_scores, new_rows + low, k)
            if advance is not None:
                advance(start * len(gallery) + len(block) * (low + len(part)), len(queries) * len(gallery))
        yield scores, rows


def _finite(vectors: npt.NDArray[Any], what: str) -> FloatArray:
    values = np.ascontiguousarray(vectors, np.float32)
    # A sum is finite exactly if every value is, short of overflow, and takes no memory.
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise InputError(f"features: {what} holds values that are not finite")
    return values


def _merged(
    scores: FloatArray, rows: IntArray, new_scores: FloatArray, new_rows: IntArray, k: int
) -> tuple[FloatArray, IntArray]:
    """The best k of both, equal scores in the order of their rows."""
    scores, rows = np.concatenate([scores, new_scores], axis=1), np.concatenate([rows, new_rows], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
