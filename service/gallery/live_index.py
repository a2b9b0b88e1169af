"""The vector index in memory, kept at the catalogue's revision."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from service.gallery.catalog import Catalog
from service.gallery.index import FlatIndex, VectorIndex
from service.gallery.index_store import Snapshot, load_index, save_index
from service.gallery.types import GalleryError
from service.gallery.view import View
from service.gallery.writing import set_index_stamp

logger = logging.getLogger(__name__)

SAVE_EVERY_ROWS = 65_536  # changed vectors after which saving is worth its while


class LiveIndex:
    """Publishes one immutable snapshot after the other, by swapping one reference.

    Starts from the index saved in `directory`, or from nothing if that is missing, stale or damaged.
    """

    def __init__(self, directory: Path, dim: int, catalog: Catalog) -> None:
        self._directory = directory
        self._dim = dim
        self._catalog = catalog
        self._publishing = threading.Lock()
        self._snapshot = Snapshot(0, FlatIndex(dim))
        self._changed_rows = 0
        self._must_save = True
        with catalog.read() as view:
            saved = load_index(directory, dim=dim, stamp=view.meta("index_stamp"))
            if saved is not None and _vectors_since(view) <= saved.revision <= view.revision():
                self._snapshot, self._must_save = saved, False
                if len(self._advance(view)) != view.count():
                    logger.warning("%s: does not match the catalogue, it is rebuilt", directory)
                    self._snapshot, self._must_save = Snapshot(0, FlatIndex(dim)), True
            self._advance(view)

    def at(self, view: View) -> VectorIndex | None:
        """The index of the view's revision; None if a later one was published, so that the view is old."""
        revision = view.revision()
        snapshot = self._snapshot
        if snapshot.revision < revision:
            with self._publishing:
                self._advance(view)
                snapshot = self._snapshot
        return snapshot.index if snapshot.revision == revision else None

    @contextlib.contextmanager
    def replacing(self) -> Iterator[Callable[[int, VectorIndex], None]]:
        """For a transaction that replaces all vectors: yields the function that publishes their index, under
        the catalogue's new revision. Until the block ends, whoever sees that revision waits for it."""
        with self._publishing:

            def publish(revision: int, index: VectorIndex) -> None:
                self._snapshot, self._must_save = Snapshot(revision, index), True

            yield publish

    def save_if_worthwhile(self) -> None:
        if self._changed_rows >= SAVE_EVERY_ROWS:
            self.save()

    def save(self) -> None:
        """Save what is published, if it is not saved yet. It is derived data: a failure is only logged."""
        if not (self._changed_rows or self._must_save):
            return
        with self._publishing:
            snapshot, self._changed_rows, self._must_save = self._snapshot, 0, False
        try:
            stamp = save_index(self._directory, snapshot)
            with self._catalog.write() as connection:
                set_index_stamp(connection, stamp)
        except GalleryError as error:
            self._must_save = True
            logger.warning("the index was not saved, it will be rebuilt: %s", error)

    def _advance(self, view: View) -> VectorIndex:
        revision = view.revision()
        since, index = self._snapshot.revision, self._snapshot.index
        if since < _vectors_since(view):  # another process changed the model
            since, index = 0, FlatIndex(self._dim)
        if since < revision:
            removed = view.removed(since)
            changed_rows = len(removed)
            for nums, vectors in view.changed_vectors(since):
                index = index.updated(nums, vectors, removed)
                changed_rows += len(nums)
                removed = removed[:0]
            if len(removed):
                index = index.updated(removed[:0], view.no_vectors(), removed)
            self._snapshot = Snapshot(revision, index)
            self._changed_rows += changed_rows
        return index


def _vectors_since(view: View) -> int:
    """The revision whose transaction exchanged all vectors for those of another model; 0: none did."""
    return int(view.meta("vectors_since") or 0)
