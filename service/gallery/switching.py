"""Changing the model of a gallery while it is searched and written to.

    switch = gallery.switch_to(target, current=…)
    for digests in switch.pictures():                    # if the image tower is another one
        switch.stage({digest: vector, …})
    index = switch.index()                               # to look at before it counts
    switch.commit(embed)                                 # one transaction: vectors, model, revision

What is staged is durable, so that an interrupted switch goes on where it was: beginning the same one again
finds the vectors that are there. Until `commit` nothing of it is seen; a kill leaves the old model or the new
one, whole. Writes go on all the time: what they change is embedded again, the last of it inside `commit`,
while they wait. Searches never wait: they use the old revision until the new one is there with its index.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.gallery import vector_sets
from service.gallery.catalog import Catalog
from service.gallery.index import FlatIndex, VectorIndex
from service.gallery.live_index import LiveIndex
from service.gallery.manifest import Manifest
from service.gallery.model_ref import HISTORY, ModelRef, ModelState, read_state, write_state
from service.gallery.pictures import Pictures
from service.gallery.sampling import sample_set, sample_titles
from service.gallery.types import GalleryError, Nums, Row, Vector, check_vector
from service.gallery.writing import next_revision, set_index_stamp, set_revision

logger = logging.getLogger(__name__)

PAGE = 64  # pictures handed out, and vectors staged, at a time
MAX_PASSES = 6  # over what was written meanwhile; after that, writes wait for the rest
FEW = 8  # pictures that may be left for `commit`

Embed = Callable[[Sequence[bytes]], Vector]
"""Encoded pictures to vectors (n, dim). Raises ImageError for one that cannot be read."""


@dataclass(frozen=True)
class SwitchParts:
    """Of the gallery, whose own they are."""

    catalog: Catalog
    index: LiveIndex
    pictures: Pictures
    write_lock: AbstractContextManager[Any]
    manifest: Manifest


class Switch:
    """One change of the model. One thread uses it, and only one exists at a time."""

    def __init__(
        self,
        parts: SwitchParts,
        target: ModelRef,
        current: ModelRef,
        back: bool,
        committed: Callable[[], None],
    ) -> None:
        self.target = target
        self.total = self.done = 0  # items
        self.unreadable: dict[str, str] = {}  # why, by SHA-256 of the picture
        self._parts = parts
        self._current = current
        self._back = back
        self._committed = committed
        self._since: int | None = None  # all pictures of items written before this revision were handed out
        self._index: tuple[int, VectorIndex] | None = None  # with the revision it is of
        self.same_vectors = target.image_fingerprint == current.image_fingerprint
        self._begin()

    def _begin(self) -> None:
        for image_fingerprint in (self.target.image_fingerprint, self._current.image_fingerprint):
            vector_sets.check_fingerprint(image_fingerprint)
        with self._parts.catalog.write() as connection:
            if not self.same_vectors:
                vector_sets.make_set(connection, self.target.image_fingerprint)
        with self._parts.catalog.read() as view:
            state = read_state(view, self._parts.manifest)
            if state.active.fingerprint != self._current.fingerprint:
                raise GalleryError("the gallery is of another model by now")
            if not self.same_vectors:
                self.total = view.count()
                self.done = self.total - vector_sets.count_lacking(view, self.target.image_fingerprint)
        base = self._current if state.base.fingerprint == self._current.fingerprint else state.base
        self._write_state(
            replace(state, active=self._current, base=base, pending=self.target, back=self._back)
        )

    def without_picture(self) -> int:
        """How many items have no picture, and so cannot get a vector of another image tower."""
        with self._parts.catalog.read() as view:
            return 0 if self.same_vectors else vector_sets.count_without_picture(view)

    def pictures(self) -> Iterator[list[str]]:
        """SHA-256 of the pictures that must be embedded, a page at a time, each once; `stage` them before the
        next page. Goes on until at most a few are left of those that were written meanwhile."""
        for _ in range(MAX_PASSES):
            if self.same_vectors:
                return
            with self._parts.catalog.read() as view:
                revision = view.revision()
            handed_out = 0
            for page in self._pages():
                handed_out += len(page)
                yield page
            self._since = revision
            if handed_out <= FEW:
                return

    def _pages(self) -> Iterator[list[str]]:
        after = 0
        while True:
            with self._parts.catalog.read() as view:
                found = vector_sets.lacking(
                    view, self.target.image_fingerprint, after=after, since=self._since, limit=PAGE
                )
            if not found:
                return
            after = found[-1].num
            digests = dict.fromkeys(one.image_sha256 for one in found)
            if page := [digest for digest in digests if digest not in self.unreadable]:
                yield page

    def stage(self, vectors: Mapping[str, Vector], unreadable: Mapping[str, str] | None = None) -> None:
        """Store vectors (dim,) of pictures by SHA-256, and why others have none; durable when it returns, and
        in the `index` if that was made.

        Raises InputError: a vector that is not finite, or not of unit length.
        """
        checked = {
            digest: check_vector(vector, self._parts.manifest.dim, f"picture {digest[:16]}")
            for digest, vector in vectors.items()
        }
        self.unreadable.update(unreadable or {})
        with self._parts.catalog.write() as connection:
            revision = next_revision(connection) - 1
            self.done += vector_sets.stage(connection, self.target.image_fingerprint, checked, revision)
            owners = vector_sets.items_with(connection, list(checked))
        self.total = max(self.total, self.done)
        if self._index is not None:
            nums, rows = _arrays(checked, owners, self._parts.manifest.dim)
            self._index = (self._index[0], self._index[1].updated(nums, rows, nums[:0]))

    def picture(self, digest: str) -> bytes:
        """The encoded bytes of a picture. Raises CacheError if they are missing or damaged."""
        data = self._parts.pictures.read(Row("", "", {}, digest, None))
        return data or b""

    def check_readable(self) -> None:
        """Raises GalleryError naming an item whose picture could not be embedded, if there still is one."""
        with self._parts.catalog.read() as view:
            found = vector_sets.items_with(view.connection, list(self.unreadable))
            nums = [num for numbers in found.values() for num in numbers]
            if not nums:
                return
            row = view.rows(nums[:1])[nums[0]]
        why = self.unreadable[row.image_sha256 or ""]
        raise GalleryError(f"pictures of {len(nums):,} items cannot be embedded again: {row.id!r}: {why}")

    def index(self) -> VectorIndex:
        """The index of the next revision, all but what is written from now on."""
        if self._index is None:
            with self._parts.catalog.read() as view:
                if self.same_vectors:
                    index = self._parts.index.at(view)
                    if index is None:
                        return self.index()  # written to in the moment between
                else:
                    index = FlatIndex(self._parts.manifest.dim)
                    cursor = vector_sets.read_set(view, self.target.image_fingerprint)
                    for nums, vectors in view.chunks(cursor, vector_sets.CHUNK_ROWS):
                        index = index.updated(nums, vectors, nums[:0])
                self._index = (view.revision(), index)
        return self._index[1]

    def sample(self, most: int) -> Vector:
        """Vectors (n, dim) of different pictures, staged for the next model; at most `most`."""
        with self._parts.catalog.read() as view:
            return sample_set(view, self.target.image_fingerprint, most)

    def titles(self, most: int) -> list[str]:
        """Different titles of the gallery's items, at most `most`."""
        with self._parts.catalog.read() as view:
            return sample_titles(view, most)

    def titles_found(self, vector: Vector, k: int) -> list[str]:
        """Titles of the `k` items that the next model finds for its vector (dim,) of a query."""
        _, nums = self.index().search(vector[None], k)
        with self._parts.catalog.read() as view:
            return [row.title for row in view.rows(int(num) for num in nums[0]).values()]

    def commit(self, embed: Embed) -> None:
        """Exchange the model: what was written last is embedded, then one transaction. Writes wait for it.

        Raises:
            GalleryError: an item without a picture, or the disk refuses. ImageError, CacheError: a picture
            that cannot be embedded. Nothing is changed then.
        """
        self.check_readable()
        with self._parts.write_lock:
            if self.same_vectors:
                self._exchange({}, None)
            else:
                fresh = self._embed_rest(embed)
                self._exchange(fresh, self._final_index(fresh))
        try:
            self._committed()
        except GalleryError as error:  # it is healed when the gallery is opened next
            logger.warning("the model was changed, but the manifest could not be written: %s", error)

    def _embed_rest(self, embed: Embed) -> dict[str, Vector]:
        digests = [digest for page in self._pages() for digest in page]
        fresh: dict[str, Vector] = {}
        for start in range(0, len(digests), PAGE):
            part = digests[start : start + PAGE]
            fresh.update(zip(part, embed([self.picture(digest) for digest in part]), strict=True))
        return fresh

    def _final_index(self, fresh: Mapping[str, Vector]) -> VectorIndex:
        index = self.index()
        since = 0 if self._index is None else self._index[0]
        with self._parts.catalog.read() as view:
            removed = view.removed(since)
            owners = vector_sets.items_with(view.connection, list(fresh))
        return index.updated(*_arrays(fresh, owners, self._parts.manifest.dim), removed)

    def _exchange(self, fresh: Mapping[str, Vector], index: VectorIndex | None) -> None:
        with self._parts.index.replacing() as publish:
            with self._parts.catalog.write() as connection:
                revision = next_revision(connection)
                if index is not None:
                    target, current = self.target.image_fingerprint, self._current.image_fingerprint
                    vector_sets.stage(connection, target, fresh, revision - 1)
                    vector_sets.exchange(connection, current, target, revision)
                    set_index_stamp(connection, "")
                set_revision(connection, revision)
                write_state(connection, self._next_state())
            if index is not None:
                publish(revision, index)

    def _next_state(self) -> ModelState:
        with self._parts.catalog.read() as view:
            state = read_state(view, self._parts.manifest)
        history = state.history[:-1] if self._back else (*state.history, self._current)[-HISTORY:]
        return ModelState(self.target, state.base, history)

    def abandon(self) -> None:
        """Forget this switch, and what was staged unless it was in use before. The model stays as it is."""
        with self._parts.catalog.read() as view:
            state = read_state(view, self._parts.manifest)
            sets = vector_sets.read_sets(view.connection)
        self._write_state(replace(state, pending=None, back=False))
        if not self.same_vectors and sets.get(self.target.image_fingerprint) == 0:
            drop_sets(self._parts.catalog, keep={name for name in sets if sets[name]})

    def clean_up(self) -> None:
        """After `commit`: drop vectors of models other than the one in use and the one before."""
        if not self.same_vectors:
            drop_sets(self._parts.catalog, keep={self._current.image_fingerprint})

    def _write_state(self, state: ModelState) -> None:
        with self._parts.catalog.write() as connection:
            write_state(connection, state)


def drop_sets(catalog: Catalog, keep: set[str]) -> None:
    """Remove all sets of vectors but those in `keep`, a little at a time."""
    with catalog.read() as view:
        names = vector_sets.read_sets(view.connection).keys() - keep
    for name in sorted(names):
        gone = False
        while not gone:
            with catalog.write() as connection:
                gone = vector_sets.shrink_set(connection, name)


def _arrays(
    vectors: Mapping[str, Vector], owners: Mapping[str, Sequence[int]], dim: int
) -> tuple[Nums, Vector]:
    """Numbers (n,) and vectors (n, dim) of the items that have the pictures."""
    rows = [(num, vectors[digest]) for digest, nums in owners.items() for num in nums]
    nums = np.fromiter((num for num, _ in rows), dtype=np.int64, count=len(rows))
    stacked = np.stack([vector for _, vector in rows]) if rows else np.empty((0, dim))
    return nums, np.ascontiguousarray(stacked, dtype=np.float32)
