"""A last look at a model before it is activated: a few queries, asked of it and of the model in use.

Vectors must be finite, of unit length and not all alike. Where items have titles, the titles are the queries,
and the share that finds an item of that title among the first results may not fall by more than a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cnclip.errors import CnclipError
from service.batcher import Vectors
from service.gallery.types import UNIT_TOLERANCE

MAX_QUERIES = 64
MAX_PICTURES = 256
ALIKE = 0.99  # mean cosine of different texts, or pictures, at which a model tells nothing apart
# Asked where the gallery has no titles and nobody has searched yet.
PLAIN_QUERIES = ("红色连衣裙", "苹果", "手机", "实木书桌", "儿童雨伞", "不锈钢水杯")


class CanaryError(CnclipError):
    """The new model is not fit to be activated; the message says why."""


@dataclass(frozen=True)
class Canary:
    """What was asked, and how it went. before, after: share of the titles found among the first `depth`
    results by the old and the new model; None where that was not asked."""

    queries: int
    depth: int = 0
    before: float | None = None
    after: float | None = None

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"{self.queries} queries, none of them compared"
        return (
            f"{self.queries} titles, found among the first {self.depth}: {self.before:.3f} before, "
            f"{self.after:.3f} after"
        )


def depth_of(n_items: int) -> int:
    """How far down a title is looked for: ten results, and in a small gallery no more than a tenth of it."""
    return max(1, min(10, n_items // 10))


def check_vectors(vectors: Vectors, what: str) -> None:
    """Raises CanaryError if vectors (n, dim) of n different inputs are none, or tell nothing apart."""
    if not np.isfinite(vectors).all():
        raise CanaryError(f"the new model's vectors of {what} are not finite")
    lengths = np.linalg.norm(vectors, axis=1)
    if len(vectors) and np.abs(lengths - 1.0).max() > UNIT_TOLERANCE:
        raise CanaryError(f"the new model's vectors of {what} have length {lengths.min():.3f}, not 1")
    if len(vectors) < 2:
        return
    total = vectors.sum(axis=0, dtype=np.float64)
    mean = (float(total @ total) - float((lengths.astype(np.float64) ** 2).sum())) / (
        len(vectors) * (len(vectors) - 1)
    )
    if mean > ALIKE:
        raise CanaryError(f"the new model takes all {what} for alike (mean cosine {mean:.4f})")


def check_share(
    titles: Sequence[str],
    depth: int,
    margin: float,
    old: Callable[[int, int], Sequence[str]],
    new: Callable[[int, int], Sequence[str]],
) -> Canary:
    """Compare the models on the gallery's own titles.

    Args:
        margin: how much smaller the share of titles found may be.
        old, new: titles of the first `depth` results of query number i, by either model.

    Raises:
        CanaryError: the new model finds too little.
    """
    before, after = (
        float(np.mean([title in results(i, depth) for i, title in enumerate(titles)]))
        for results in (old, new)
    )
    canary = Canary(len(titles), depth, before, after)
    if after < before - margin:
        raise CanaryError(f"the new model finds less ({canary}; it may be {margin:g} less)")
    return canary
