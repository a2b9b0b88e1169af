"""One search over one revision: nearest vectors, keywords, or both fused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from cache.lru import LruCache
from cnclip.errors import InputError
from service.gallery.index import Mask, VectorIndex
from service.gallery.keyword import match_expression
from service.gallery.types import Hit, SearchMode, Vector, check_vector
from service.gallery.view import View

RRF_K = 60  # Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms …", SIGIR 2009
FUSION_DEPTH = 100  # how far down each list the fusion looks, at least


@dataclass(frozen=True)
class Query:
    """A search whose parts were checked (`checked`). vector: (dim,)."""

    vector: Vector | None
    k: int
    text: str
    mode: SearchMode
    filter: Mapping[str, Any]
    min_relevance: float | None

    @classmethod
    def checked(
        cls,
        dim: int,
        vector: Vector | None,
        k: int,
        text: str | None,
        mode: SearchMode,
        filter: Mapping[str, Any] | None,
        min_relevance: float | None,
    ) -> Query:
        """Raises InputError: a part that the mode needs is missing, or one does not fit."""
        if mode not in get_args(SearchMode):
            raise InputError(f"search: unknown mode {mode!r} (known: {', '.join(get_args(SearchMode))})")
        if k < 1:
            raise InputError(f"search: k must be at least 1, not {k}")
        if mode != "keyword" and vector is None:
            raise InputError(f"search: mode {mode!r} needs a query vector")
        if mode != "vector" and text is None:
            raise InputError(f"search: mode {mode!r} needs a query text")
        checked = None if vector is None else check_vector(vector, dim, "search")
        return cls(checked, k, text or "", mode, filter or {}, min_relevance)


class FilterMasks:
    """Which items a filter lets through; those of the last filters are kept while the revision lasts."""

    def __init__(self, max_entries: int = 32) -> None:
        self._masks: LruCache[tuple[int, str], Mask] = LruCache(max_entries)

    def get(self, view: View, query: Query) -> Mask | None:
        """By number, (largest number + 1,); None where the index is not asked or everything is allowed."""
        if not query.filter or query.mode == "keyword":
            return None
        key = (view.revision(), json.dumps(query.filter, sort_keys=True, default=repr))
        mask = self._masks.get(key)
        if mask is None:
            mask = view.allowed(query.filter)
            self._masks.put(key, mask)
        return mask


@dataclass(frozen=True)
class _Ranked:
    num: int
    score: float
    cosine: float | None


def find(view: View, index: VectorIndex, query: Query, allowed: Mask | None) -> list[Hit]:
    """Hits of `query`, best first. `view` and `index` are of one revision; `allowed` is its filter's mask,
    needed for the modes "vector" and "hybrid"."""
    if query.mode == "vector":
        ranked = _by_vector(index, query, query.k, allowed)
    elif query.mode == "keyword":
        asked = query.min_relevance is not None and query.vector is not None
        ranked = _by_keyword(view, query, len(index) if asked else query.k)
    else:
        depth = max(query.k, FUSION_DEPTH)
        ranked = _fuse(_by_vector(index, query, depth, allowed), _by_keyword(view, query, depth))
    ranked = _relevant(view, query, ranked)
    rows = view.rows(hit.num for hit in ranked)
    return [Hit(rows[hit.num], hit.score, hit.cosine) for hit in ranked]


def _by_vector(index: VectorIndex, query: Query, k: int, allowed: Mask | None) -> list[_Ranked]:
    if query.vector is None or len(index) == 0:
        return []
    scores, nums = index.search(query.vector[None], min(k, len(index)), allowed)
    cosines = np.clip(scores[0], -1.0, 1.0)
    return [
        _Ranked(int(num), float(cosine), float(cosine))
        for num, cosine in zip(nums[0], cosines, strict=True)
        if num >= 0
    ]


def _by_keyword(view: View, query: Query, k: int) -> list[_Ranked]:
    expression = match_expression(query.text)
    if expression is None:
        return []
    return [_Ranked(num, score, None) for num, score in view.match(expression, k, query.filter)]


def _fuse(*lists: list[_Ranked]) -> list[_Ranked]:
    """Reciprocal rank fusion: score = sum over the lists of 1 / (60 + rank), ranks from 1."""
    scores: dict[int, float] = {}
    cosines: dict[int, float] = {}
    for ranked in lists:
        for rank, hit in enumerate(ranked, start=1):
            scores[hit.num] = scores.get(hit.num, 0.0) + 1.0 / (RRF_K + rank)
            if hit.cosine is not None:
                cosines[hit.num] = hit.cosine
    order = sorted(scores, key=lambda num: (-scores[num], -cosines.get(num, -1.0), num))
    return [_Ranked(num, scores[num], cosines.get(num)) for num in order]


def _relevant(view: View, query: Query, ranked: list[_Ranked]) -> list[_Ranked]:
    """The first `k` hits that are relevant enough, with their cosines."""
    if query.min_relevance is None:
        return _with_cosines(view, query, ranked[: query.k])
    kept: list[_Ranked] = []
    chunk = max(query.k, FUSION_DEPTH)
    for start in range(0, len(ranked), chunk):
        hits = _with_cosines(view, query, ranked[start : start + chunk])
        kept += [hit for hit in hits if hit.cosine is None or hit.cosine >= query.min_relevance]
        if len(kept) >= query.k:
            break
    return kept[: query.k]


def _with_cosines(view: View, query: Query, ranked: list[_Ranked]) -> list[_Ranked]:
    """The same hits, with the cosine of those that only keywords found."""
    if query.vector is None:
        return ranked
    vectors = view.vectors_by_num(hit.num for hit in ranked if hit.cosine is None)
    return [
        hit
        if hit.cosine is not None
        else _Ranked(hit.num, hit.score, float(np.clip(vectors[hit.num] @ query.vector, -1.0, 1.0)))
        for hit in ranked
    ]
