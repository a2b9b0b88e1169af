"""Reading the catalogue inside one read transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.gallery.filters import compile_filter
from service.gallery.types import Nums, Row, Vector

CHUNK_ROWS = 65_536
_ROW = "num, id, title, attributes, image_sha256, image_mime"


class View:
    """The catalogue at one revision; lives as long as the transaction that `Catalog.read` opened."""

    def __init__(self, connection: sqlite3.Connection, dim: int) -> None:
        self._connection = connection
        self._dim = dim

    @property
    def connection(self) -> sqlite3.Connection:
        """For other modules' queries in the same transaction."""
        return self._connection

    def meta(self, key: str) -> Any:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def revision(self) -> int:
        return int(self.meta("revision"))

    def count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM items").fetchone()[0])

    def row(self, item_id: str) -> Row | None:
        found = self._connection.execute(f"SELECT {_ROW} FROM items WHERE id = ?", (item_id,)).fetchone()
        return None if found is None else make_row(found)

    def rows(self, nums: Iterable[int]) -> dict[int, Row]:
        """Rows by number; numbers that are not there are left out."""
        found = self._connection.execute(
            f"SELECT {_ROW} FROM items WHERE num IN (SELECT value FROM json_each(?))",
            (json.dumps([int(num) for num in nums]),),
        )
        return {fields[0]: make_row(fields) for fields in found}

    def ids(self, filter: Mapping[str, Any] | None) -> list[str]:
        """Ids in the order in which the items came, of all or of those that `filter` lets through."""
        if not filter:
            return [item_id for (item_id,) in self._connection.execute("SELECT id FROM items ORDER BY num")]
        sql, parameters = compile_filter(filter)
        selected = f"SELECT id FROM items WHERE num IN ({sql}) ORDER BY num"
        return [item_id for (item_id,) in self._connection.execute(selected, parameters)]

    def vectors(self, ids: Iterable[str]) -> dict[str, Vector]:
        """Vectors (dim,) by id; ids that are not there are left out."""
        found = self._connection.execute(
            "SELECT id, vector FROM items JOIN vectors USING (num)"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return {item_id: np.frombuffer(blob, dtype="<f4").astype(np.float32) for item_id, blob in found}

    def vectors_by_num(self, nums: Iterable[int]) -> dict[int, Vector]:
        """Vectors (dim,) by number; numbers that are not there are left out."""
        found = self._connection.execute(
            "SELECT num, vector FROM vectors WHERE num IN (SELECT value FROM json_each(?))",
            (json.dumps([int(num) for num in nums]),),
        )
        return {num: np.frombuffer(blob, dtype="<f4").astype(np.float32) for num, blob in found}

    def allowed(self, filter: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
        """Which numbers `filter` lets through: (largest number + 1,)."""
        largest = self._connection.execute("SELECT coalesce(max(num), 0) FROM items").fetchone()[0]
        sql, parameters = compile_filter(filter)
        nums = np.fromiter((num for (num,) in self._connection.execute(sql, parameters)), dtype=np.int64)
        mask = np.zeros(largest + 1, dtype=np.bool_)
        mask[nums] = True
        return mask

    def match(self, expression: str, k: int, filter: Mapping[str, Any] | None) -> list[tuple[int, float]]:
        """The `k` best (num, BM25) of a full-text query, best first; larger is better."""
        sql = ""
        parameters: list[Any] = []
        if filter:
            selected, parameters = compile_filter(filter)
            sql = f" AND rowid IN ({selected})"
        found = self._connection.execute(
            f"SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ?{sql}"
            " ORDER BY score DESC, rowid LIMIT ?",
            [expression, *parameters, k],
        )
        return [(int(num), float(score)) for num, score in found]

    def changed_vectors(self, since: int) -> Iterator[tuple[Nums, Vector]]:
        """Vectors written after revision `since`, in chunks of (n,) numbers and (n, dim) vectors."""
        # Without the +, SQLite walks through all vectors to save the sort.
        changed = " WHERE revision > ? ORDER BY +num" if since else " ORDER BY num"
        cursor = self._connection.execute(
            f"SELECT num, vector FROM vectors{changed}", (since,) if since else ()
        )
        yield from self.chunks(cursor, CHUNK_ROWS)

    def chunks(self, cursor: sqlite3.Cursor, rows_at_once: int) -> Iterator[tuple[Nums, Vector]]:
        """The rows (num, vector) of a query, as (n,) numbers and (n, dim) vectors."""
        size = self._dim * 4
        while rows := cursor.fetchmany(rows_at_once):
            nums = np.fromiter((num for num, _ in rows), dtype=np.int64, count=len(rows))
            if any(len(blob) != size for _, blob in rows):
                raise sqlite3.DatabaseError("a vector has the wrong size")
            vectors = np.frombuffer(b"".join([blob for _, blob in rows]), dtype="<f4")
            yield nums, vectors.reshape(-1, self._dim).astype(np.float32, copy=False)

    def no_vectors(self) -> Vector:
        """(0, dim)"""
        return np.empty((0, self._dim), dtype=np.float32)

    def removed(self, since: int) -> Nums:
        """Numbers of items deleted after revision `since`."""
        found = self._connection.execute("SELECT num FROM removed WHERE revision > ?", (since,))
        return np.fromiter((num for (num,) in found), dtype=np.int64)

    def has_image(self, sha256: str) -> bool:
        """Whether any item has this picture."""
        found = self._connection.execute("SELECT 1 FROM items WHERE image_sha256 = ? LIMIT 1", (sha256,))
        return found.fetchone() is not None


def make_row(fields: tuple[Any, ...]) -> Row:
    """A Row from the columns num, id, title, attributes, image_sha256, image_mime."""
    num, item_id, title, attributes, image_sha256, image_mime = fields
    return Row(item_id, title, json.loads(attributes), image_sha256, image_mime, num)
