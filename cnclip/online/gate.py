"""Which fresh pictures may teach. Every refusal has a reason, and reasons are counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnclip.errors import ImageError
from cnclip.evaluation.ranks import FloatArray
from cnclip.image import decode_image
from cnclip.online.looks import MIN_SIDE, SAME_PICTURE, difference_hash, is_flat, nearest
from cnclip.online.source import FreshPicture

Bools = npt.NDArray[np.bool_]

UNREADABLE, TOO_SMALL, FLAT = "unreadable", "too small", "nothing to see"
LEAK, REPEATED, SHARED = "in the gallery", "seen before", "several queries"
FITS_ANOTHER, UNLIKE = "fits another query", "unlike the others"

# A picture is a cut or mirrored copy if it is nearer to one of the gallery than this share of the gallery's
# own pictures are to their nearest neighbours: with a hash that is similar, or with any.
_NEAR_SHARE, _SAME_SHARE, _SIMILAR_BITS = 0.9, 0.99, 16
_SAMPLE = 2_000  # gallery pictures that say what is usual
# An outlier is this many robust standard deviations on the wrong side of the median of its round. Of product
# photos of kinds the model did not know, with a fifth of them wrong, this finds 43 of 50 and 5 of 206 others.
_OUTLIER = 1.5
_MAD_TO_STD = 1.4826  # of a normal distribution
_FEWEST = 8  # pictures of a round, below which there is no telling what is usual


@dataclass(frozen=True)
class Candidate:
    """A decoded picture that may teach. problem: why it may not, as far as it can be seen alone."""

    picture: FreshPicture
    sha256: str
    hash: int = 0
    problem: str = ""

    @classmethod
    def of(cls, picture: FreshPicture) -> Candidate:
        sha256 = hashlib.sha256(picture.data).hexdigest()
        try:
            image = decode_image(picture.data, name=f"picture {picture.number} of {picture.query!r}")
        except ImageError:
            return cls(picture, sha256, problem=UNREADABLE)
        problem = TOO_SMALL if min(image.size) < MIN_SIDE else FLAT if is_flat(image) else ""
        return cls(picture, sha256, difference_hash(image), problem)


class Judged(NamedTuple):
    """reason: why it may not teach; empty if it may. similarity: cosine to its query, NaN if unknown."""

    candidate: Candidate
    reason: str
    similarity: float


@dataclass(frozen=True)
class Guarded:
    """The gallery that is measured on, and must not be learnt from. hashes: one for each picture that can be
    read. vectors: float32 (g, d)."""

    hashes: Sequence[int]
    vectors: FloatArray

    @cached_property
    def usual(self) -> tuple[float, float]:
        """Cosines that _NEAR_SHARE and _SAME_SHARE of the pictures do not reach with any other."""
        rows = np.arange(0, len(self.vectors), max(1, len(self.vectors) // _SAMPLE))
        cosines = self.vectors[rows] @ self.vectors.T
        cosines[np.arange(len(rows)), rows] = -1.0
        near, same = np.quantile(cosines.max(1), [_NEAR_SHARE, _SAME_SHARE])
        return float(near), float(same)


@dataclass(frozen=True)
class Bearings:
    """What the model makes of the round's texts, to judge its pictures by.

    queries: float32 (q, d), of the queries of the round. rivals: float32 (r, d), of other texts a picture may
    fit better. near: bool (q, r), rivals that mean about the same as a query. alike: bool (q, q), the same
    among the queries.
    """

    queries: FloatArray
    rivals: FloatArray
    near: Bools
    alike: Bools


def judge(
    candidates: Sequence[Candidate],
    vectors: FloatArray,
    asked: Sequence[int],
    bearings: Bearings,
    guarded: Guarded,
    used: Mapping[int, int],
) -> list[Judged]:
    """Decide about the pictures of one round together.

    Args:
        vectors: float32 (n, d), of each candidate; those with a `problem` have zeros.
        asked: number of the query of each.
        used: hash of each picture that taught in an earlier round → number of its query.
    """
    query_of = np.asarray(asked, np.int64)
    reasons = [candidate.problem for candidate in candidates]
    checks: tuple[Callable[[list[int]], dict[int, str]], ...] = (
        lambda rows: _leaks(rows, candidates, vectors, guarded),
        lambda rows: _repeats(rows, candidates, query_of, bearings.alike, used),
        lambda rows: _outliers(rows, vectors, query_of, bearings),
    )
    for check in checks:
        open_rows = [row for row, reason in enumerate(reasons) if not reason]
        for row, reason in check(open_rows).items():
            reasons[row] = reason
    similarity = (vectors * bearings.queries[query_of]).sum(1) if len(query_of) else np.empty(0)
    return [
        Judged(candidate, reason, float("nan") if candidate.problem else float(value))
        for candidate, reason, value in zip(candidates, reasons, similarity, strict=True)
    ]


def _leaks(
    rows: Sequence[int], candidates: Sequence[Candidate], vectors: FloatArray, guarded: Guarded
) -> dict[int, str]:
    """Pictures that are, more or less, in the gallery: to learn from those would be to cheat."""
    if not rows or not len(guarded.vectors):
        return {}
    bits = nearest([candidates[row].hash for row in rows], guarded.hashes)
    cosine = (vectors[list(rows)] @ guarded.vectors.T).max(1)
    near, same = guarded.usual
    leaked = (bits <= SAME_PICTURE) | ((bits <= _SIMILAR_BITS) & (cosine > near)) | (cosine > same)
    return {row: LEAK for row, bad in zip(rows, leaked.tolist(), strict=True) if bad}


def _repeats(
    rows: Sequence[int],
    candidates: Sequence[Candidate],
    query_of: npt.NDArray[np.int64],
    alike: Bools,
    used: Mapping[int, int],
) -> dict[int, str]:
    """One picture, one query. Offered for queries that mean different things, now or in earlier rounds, it
    teaches none of them; several times for one query, or for queries of one meaning, it teaches once."""
    reasons: dict[int, str] = {}
    groups: list[tuple[int, list[int]]] = []  # (hash, rows)
    for row in rows:
        value = candidates[row].hash
        group = next((g for h, g in groups if (h ^ value).bit_count() <= SAME_PICTURE), None)
        if group is None:
            groups.append((value, [row]))
        else:
            group.append(row)
    for value, group in groups:
        owners = {int(query_of[row]) for row in group}
        owners |= {query for h, query in used.items() if (h ^ value).bit_count() <= SAME_PICTURE}
        first = min(owners)
        if any(query != first and not alike[first, query] for query in owners):
            reasons.update(dict.fromkeys(group, SHARED))
        else:
            reasons.update(dict.fromkeys(group[1:], REPEATED))
    return reasons


def _outliers(
    rows: Sequence[int], vectors: FloatArray, query_of: npt.NDArray[np.int64], bearings: Bearings
) -> dict[int, str]:
    """Pictures that fit their query far worse than the others of the round fit theirs.

    A query the model does not know yet fits its pictures badly too, so what counts is not the similarity
    itself but how it stands out: against the texts a picture fits better, and against the other pictures of
    its query, which look alike if they are right.
    """
    if len(rows) < _FEWEST:
        return {}
    own_rows, queries = list(rows), query_of[list(rows)]
    pictures = vectors[own_rows]
    own = (pictures * bearings.queries[queries]).sum(1)
    rivals = np.where(bearings.near[queries], -1.0, pictures @ bearings.rivals.T).max(1)
    reasons = {own_rows[i]: FITS_ANOTHER for i in np.flatnonzero(low_outliers(own - rivals)).tolist()}
    together = peers(pictures, queries, bearings.alike)
    known = np.flatnonzero(np.isfinite(together))
    # If most look more like another query's pictures than like their own query's, none can be trusted.
    muddle = len(known) >= _FEWEST and np.median(together[known]) < 0
    for i in (known if muddle else known[low_outliers(together[known])]).tolist():
        reasons.setdefault(own_rows[i], UNLIKE)
    return reasons


def peers(pictures: FloatArray, queries: npt.NDArray[np.int64], alike: Bools) -> npt.NDArray[np.float64]:
    """How much more a picture looks like the others of its query than like those of the query it is nearest
    to otherwise, (n,): mean cosine to the former less mean cosine to the latter; NaN without any others."""
    cosines = (pictures @ pictures.T).astype(np.float64)
    np.fill_diagonal(cosines, np.nan)
    result = np.full(len(pictures), np.nan)
    columns = {int(query): np.flatnonzero(queries == query) for query in np.unique(queries)}
    for row, query in enumerate(queries.tolist()):
        mine = cosines[row, columns[query]]
        if np.isfinite(mine).sum() < 2:
            continue
        others = [
            cosines[row, cols].mean() for q, cols in columns.items() if q != query and not alike[query, q]
        ]
        if others:
            result[row] = np.nanmean(mine) - max(others)
    return result


def low_outliers(values: npt.NDArray[np.floating]) -> Bools:
    """Which values lie far below the median, bool (n,), by median absolute deviation: a few wrong ones do not
    move what is usual."""
    if len(values) < _FEWEST:
        return np.zeros(len(values), np.bool_)
    median = np.median(values)
    spread = _MAD_TO_STD * np.median(np.abs(values - median))
    outliers: Bools = values < median - _OUTLIER * max(float(spread), 1e-6)
    return outliers
