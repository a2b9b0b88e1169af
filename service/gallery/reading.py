"""The half of a gallery that only reads: items, vectors, pictures, search."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service.gallery.catalog import Catalog
from service.gallery.index import VectorIndex
from service.gallery.live_index import LiveIndex
from service.gallery.manifest import Manifest
from service.gallery.model_ref import ModelState, read_state
from service.gallery.pictures import Pictures
from service.gallery.searching import FilterMasks, Query, find
from service.gallery.types import Hit, ModelChanged, Row, SearchMode, Vector
from service.gallery.vector_sets import count_without_picture
from service.gallery.view import View


def check_unchanged(connection: sqlite3.Connection, model: str | None) -> None:
    """Raises ModelChanged if the catalogue's vectors are not those of `model` (a fingerprint; None is not
    checked) in the transaction of `connection`."""
    if model is None:
        return
    (now,) = connection.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    if now != model:
        raise ModelChanged(f"the vectors are of another model by now (fingerprint {now[:12]})")


class GalleryReader:
    """What `Gallery` offers to those who read. Any number of threads; each call sees one revision."""

    path: Path
    manifest: Manifest
    _catalog: Catalog
    _index: LiveIndex
    _pictures: Pictures
    _masks: FilterMasks

    def __len__(self) -> int:
        with self._consistent() as (_, index):
            return len(index)

    def get(self, item_id: str) -> Row | None:
        with self._catalog.read() as view:
            return view.row(item_id)

    def ids(self, filter: Mapping[str, Any] | None = None) -> list[str]:
        """Ids of all items, or of those that `filter` lets through, in the order in which they came."""
        with self._catalog.read() as view:
            return view.ids(filter)

    def vectors(self, ids: Iterable[str], *, model: str | None = None) -> dict[str, Vector]:
        """Vectors, float32 (dim,), by id; ids that are not there are left out.

        Raises ModelChanged if `model` is given and the vectors are of another one (its fingerprint).
        """
        with self._catalog.read() as view:
            check_unchanged(view.connection, model)
            return view.vectors(ids)

    def without_picture(self) -> int:
        """How many items have no picture, and so no vector that another image tower could make."""
        with self._catalog.read() as view:
            return count_without_picture(view)

    def models(self) -> ModelState:
        """Which model the vectors are of now, and which were before; read anew each time."""
        with self._catalog.read() as view:
            return read_state(view, self.manifest)

    def image_path(self, row: Row) -> Path | None:
        """The file with the picture's original bytes; None if the item has none, or it was deleted."""
        return self._pictures.path(row)

    def read_image(self, row: Row) -> bytes | None:
        """The picture's original bytes, verified. Raises CacheError if they are missing or damaged."""
        return self._pictures.read(row)

    def stats(self) -> dict[str, Any]:
        """Facts for people and metrics; cheap."""
        with self._consistent() as (view, index):
            model = read_state(view, self.manifest).active
            return {
                "model_name": model.model,
                "fingerprint": model.fingerprint,
                "dim": self.manifest.dim,
                "items": len(index),
                "revision": view.revision(),
                "index": index.kind,
                "catalog_bytes": self._catalog.path.stat().st_size,
            }

    def search(
        self,
        vector: Vector | None,
        k: int,
        *,
        text: str | None = None,
        mode: SearchMode = "vector",
        filter: Mapping[str, Any] | None = None,
        min_relevance: float | None = None,
        model: str | None = None,
    ) -> list[Hit]:
        """The `k` best items, best first; fewer if there are not so many.

        Args:
            vector: of the query, float32 (dim,), unit length; needed for "vector" and "hybrid".
            text: needed for "keyword" and "hybrid". Any text will do; nothing in it is syntax.
            filter: see filters.py. Applied before the search, so it never costs results.
            min_relevance: drops hits of a lower cosine. Keyword hits have a cosine if there is a `vector`.
            model: fingerprint of the model that made `vector`; None is not checked.

        Raises:
            ModelChanged: the gallery's vectors are of another model by now.
            InputError: a query without what its mode needs, a vector that does not fit, an unknown operator.
        """
        query = Query.checked(self.manifest.dim, vector, k, text, mode, filter, min_relevance)
        with self._consistent() as (view, index):
            check_unchanged(view.connection, model)
            return find(view, index, query, self._masks.get(view, query))

    def refresh(self) -> int:
        """Catch up with what was committed, here or elsewhere, as every search does. Returns the revision."""
        with self._consistent() as (view, _):
            return view.revision()

    @contextlib.contextmanager
    def _consistent(self) -> Iterator[tuple[View, VectorIndex]]:
        while True:
            with self._catalog.read() as view:
                index = self._index.at(view)
                if index is not None:
                    yield view, index
                    return
