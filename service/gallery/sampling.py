"""A few items of a gallery, the same ones every time, spread over all of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.gallery.types import Vector
from service.gallery.vector_sets import table_of
from service.gallery.view import View


def sample_titles(view: View, most: int) -> list[str]:
    """Different titles of items, at most `most`."""
    titles: dict[str, None] = {}
    for num in _spread(view, most):
        row = view.connection.execute(
            "SELECT title FROM items WHERE num >= ? AND title != '' ORDER BY num LIMIT 1", (num,)
        ).fetchone()
        if row is not None:
            titles.setdefault(str(row[0]))
    return list(titles)


def sample_set(view: View, image_fingerprint: str, most: int) -> Vector:
    """Vectors (n, dim) of different pictures in a set that is not in use (vector_sets.py), at most `most`."""
    found: dict[str, Vector] = {}
    for num in _spread(view, most):
        row = view.connection.execute(
            f"SELECT image_sha256, vector FROM {table_of(image_fingerprint)} JOIN items USING (num)"
            " WHERE num >= ? AND image_sha256 IS NOT NULL ORDER BY num LIMIT 1",
            (num,),
        ).fetchone()
        if row is not None:
            found[str(row[0])] = np.frombuffer(row[1], dtype="<f4").astype(np.float32)
    return np.stack(list(found.values())) if found else view.no_vectors()


def _spread(view: View, most: int) -> Iterator[int]:
    """Up to `most` different numbers at equal distances, the first item's first."""
    low, high = view.connection.execute("SELECT min(num), max(num) FROM items").fetchone()
    if low is None:
        return
    count = min(most, high - low + 1)
    for i in range(count):
        yield low + i * (high - low + 1) // count
