"""Vector indexes: the derived half of a gallery.

A `VectorIndex` is immutable: `updated` returns a new one and the old one stays valid, so that a request keeps
the index it began with while the next revision is published.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from service.gallery.types import Nums, Vector

Mask = npt.NDArray[np.bool_]

SEGMENT_ROWS = 65_536  # merging costs at most this much at once, and this much memory on top
_faiss: Any = faiss  # its stubs describe the C++ side, not the Python wrappers
_DEAD_SHARE = 0.25  # a segment with more dead rows than this is rewritten


class VectorIndex(Protocol):
    """Nearest neighbours by inner product, for vectors of unit length, under the catalogue's numbers."""

    kind: str
    dim: int

    def __len__(self) -> int: ...

    def search(self, queries: Vector, k: int, allowed: Mask | None = None) -> tuple[Vector, Nums]:
        """Nearest vectors of each query.

        Args:
            queries: (q, dim) float32. k: at least 1.
            allowed: by number, (largest number + 1,); only these are looked at. None is all.

        Returns:
            scores (q, m) float32, descending, and numbers (q, m), where m ≤ k. Where a query has fewer
            neighbours than another, its row ends with the number -1. Equal scores: the smaller number first.
        """
        ...

    def updated(self, nums: Nums, vectors: Vector, removed: Nums) -> VectorIndex:
        """An index with `vectors` (n, dim) under `nums` (distinct; new, or taking the place of the old ones),
        and without `removed`."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs besides the parts; JSON."""
        ...

    def parts(self) -> Mapping[str, Callable[[], bytes]]:
        """Files to save, each made when called for. A name is never used again for other content."""
        ...


@dataclass(frozen=True)
class _Segment:
    """Vectors in a FAISS index that is not changed any more. nums: (n,) ascending. alive: (n,); None: all."""

    index: Any
    nums: Nums
    alive: Mask | None = None
    name: str = field(default_factory=lambda: f"{uuid.uuid4().hex}.faiss")

    @property
    def count(self) -> int:
        return len(self.nums) if self.alive is None else int(np.count_nonzero(self.alive))

    def without(self, gone: Nums) -> _Segment:
        """The segment with the numbers `gone` (any order) marked dead."""
        places = np.searchsorted(self.nums, gone)
        inside = places < len(self.nums)
        places = places[inside][self.nums[places[inside]] == gone[inside]]
        if len(places) == 0:
            return self
        alive = np.ones(len(self.nums), dtype=np.bool_) if self.alive is None else self.alive.copy()
        alive[places] = False
        return _Segment(self.index, self.nums, alive, self.name)

    def living(self) -> tuple[Nums, Vector]:
        vectors = self.index.reconstruct_n(0, len(self.nums))
        return (self.nums, vectors) if self.alive is None else (self.nums[self.alive], vectors[self.alive])

    def search(self, queries: Vector, k: int, allowed: Mask | None) -> tuple[Vector, Nums]:
        mask = self.alive
        if allowed is not None:
            # A number beyond the mask belongs to a row that is dead here and deleted in the catalogue.
            known = allowed[np.minimum(self.nums, len(allowed) - 1)] & (self.nums < len(allowed))
            mask = known if mask is None else known & mask
        k = min(k, len(self.nums) if mask is None else int(np.count_nonzero(mask)))
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if mask is None:
            scores, places = self.index.search(queries, k)
        else:
            selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            scores, places = self.index.search(queries, k, params=_faiss.SearchParameters(sel=selector))
        return scores, np.where(places < 0, -1, self.nums[places])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS in one thread. For a query or a few, its OpenMP threads mostly wait for each other (one query on
    two busy cores: 22 ms against 6), and a service answers many requests at a time. The setting belongs to
    the calling thread, which may want its threads back for a model."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _segment(dim: int, parts: Sequence[tuple[Nums, Vector]]) -> _Segment:
    """One segment of all `parts`, whose numbers are distinct."""
    if len(parts) == 1:
        nums, vectors = parts[0]
    else:
        nums = np.concatenate([nums for nums, _ in parts])
        vectors = np.concatenate([vectors for _, vectors in parts])
    if np.any(np.diff(nums) < 0):
        order = np.argsort(nums)
        nums, vectors = nums[order], vectors[order]
    index = faiss.IndexFlatIP(dim)
    index.add(vectors)
    return _Segment(index, nums)


class FlatIndex:
    """Exact search. Vectors lie in segments of at most SEGMENT_ROWS rows, as in a log-structured merge tree:
    a small batch becomes a small segment, neighbours of like size are merged, and full segments are left
    alone. An update therefore costs O(batch · log) and never copies the whole gallery."""

    kind = "flat"

    def __init__(self, dim: int, segments: Sequence[_Segment] = ()) -> None:
        self.dim = dim
        self._segments = tuple(segments)
        self._count = sum(segment.count for segment in self._segments)

    def __len__(self) -> int:
        return self._count

    def search(self, queries: Vector, k: int, allowed: Mask | None = None) -> tuple[Vector, Nums]:
        with _one_thread():
            found = [segment.search(queries, k, allowed) for segment in self._segments]
        if not found:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scores = np.concatenate([part for part, _ in found], axis=1)
        nums = np.concatenate([part for _, part in found], axis=1)
        scores = np.where(nums < 0, -np.inf, scores).astype(np.float32)
        order = np.lexsort((nums, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(nums, order, axis=1)

    def updated(self, nums: Nums, vectors: Vector, removed: Nums) -> FlatIndex:
        gone = np.concatenate([nums, removed])
        segments: list[_Segment] = []
        for old in self._segments:
            left = old.without(gone)
            if left.count > (1 - _DEAD_SHARE) * len(left.nums):
                segments.append(left)
            elif left.count:
                segments.append(_segment(self.dim, [left.living()]))
        for start in range(0, len(nums), SEGMENT_ROWS):
            rows = slice(start, start + SEGMENT_ROWS)
            segments.append(_segment(self.dim, [(nums[rows], vectors[rows])]))
        return FlatIndex(self.dim, _merge_tail(self.dim, segments))

    def state(self) -> dict[str, Any]:
        return {
            "segments": [
                {
                    "file": segment.name,
                    "rows": len(segment.nums),
                    "dead": [] if segment.alive is None else np.flatnonzero(~segment.alive).tolist(),
                }
                for segment in self._segments
            ]
        }

    def parts(self) -> Mapping[str, Callable[[], bytes]]:
        return {segment.name: partial(_serialize, segment) for segment in self._segments}

    @classmethod
    def restore(cls, dim: int, state: Mapping[str, Any], read: Callable[[str], bytes]) -> FlatIndex:
        """The index that `state` and `parts` describe. Raises ValueError if they do not fit together."""
        segments = []
        for description in state["segments"]:
            index, nums = _deserialize(read(description["file"]))
            if index.d != dim or len(nums) != description["rows"] or np.any(np.diff(nums) <= 0):
                raise ValueError(f"{description['file']}: not the segment that was saved")
            alive = None
            if description["dead"]:
                alive = np.ones(len(nums), dtype=np.bool_)
                alive[np.asarray(description["dead"], dtype=np.int64)] = False
            segments.append(_Segment(index, nums, alive, description["file"]))
        return cls(dim, segments)


def _merge_tail(dim: int, segments: list[_Segment]) -> list[_Segment]:
    """Merge the last segments while the one before is at most twice as large as all behind it."""
    first = len(segments) - 1
    total = segments[first].count if segments else 0
    while first > 0 and segments[first - 1].count <= min(2 * total, SEGMENT_ROWS - total):
        first -= 1
        total += segments[first].count
    if first >= len(segments) - 1:
        return segments
    return [*segments[:first], _segment(dim, [segment.living() for segment in segments[first:]])]


def _serialize(segment: _Segment) -> bytes:
    """A FAISS file of its own: the vectors with their numbers."""
    mapped = faiss.IndexIDMap2(faiss.IndexFlatIP(segment.index.d))
    mapped.add_with_ids(segment.index.reconstruct_n(0, len(segment.nums)), segment.nums)
    data: bytes = faiss.serialize_index(mapped).tobytes()
    return data


def _deserialize(data: bytes) -> tuple[Any, Nums]:
    mapped = _faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    nums: Nums = faiss.vector_to_array(mapped.id_map)
    index = _faiss.downcast_index(mapped.index)
    index.referenced_objects = [mapped]  # which owns it
    return index, nums
