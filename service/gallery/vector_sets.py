"""Vectors of models that are not in use: being made for the next one, or kept for the way back.

The table `vectors` has those in use; every other set is a table of the same shape, named by the fingerprint
of the image tower, and they change places by being renamed. `meta.sets` says of each as of which revision it
was in use (0: never). A vector in it is good as long as its item got no other picture since: while the
revision of the one in `vectors` is not larger than its own, or than that of the set.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.gallery.types import GalleryError, Vector
from service.gallery.view import View

CHUNK_ROWS = 4096
_FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")

# A set lacks these items, or has the vector of a picture that they have no longer.
_LACKING = """
    FROM items JOIN vectors AS used ON used.num = items.num LEFT JOIN {table} AS own ON own.num = items.num
    WHERE items.image_sha256 IS NOT NULL AND (own.num IS NULL OR max(own.revision, :as_of) < used.revision)
"""


@dataclass(frozen=True)
class Lacking:
    """An item whose picture must be embedded: its number, the SHA-256 of the picture."""

    num: int
    image_sha256: str


def check_fingerprint(image_fingerprint: str) -> str:
    """The fingerprint, if it can be part of a table's name. Raises GalleryError."""
    if not _FINGERPRINT.fullmatch(image_fingerprint):
        raise GalleryError(f"not the fingerprint of an image tower: {image_fingerprint[:80]!r}")
    return image_fingerprint


def table_of(image_fingerprint: str) -> str:
    """Name of the table of a set. Raises GalleryError."""
    return f"vectors_{check_fingerprint(image_fingerprint)}"


def read_sets(connection: sqlite3.Connection) -> dict[str, int]:
    """The revision as of which each set was in use, by image fingerprint."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'sets'").fetchone()
    return {} if row is None else {str(name): int(as_of) for name, as_of in json.loads(row[0]).items()}


def _write_sets(connection: sqlite3.Connection, sets: Mapping[str, int]) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('sets', ?)", (json.dumps(dict(sets)),))


def make_set(connection: sqlite3.Connection, image_fingerprint: str) -> None:
    """An empty set, unless there is one."""
    sets = read_sets(connection)
    if image_fingerprint in sets:
        return
    table = table_of(image_fingerprint)
    connection.execute(
        f"CREATE TABLE {table} (num INTEGER PRIMARY KEY, revision INTEGER NOT NULL, vector BLOB NOT NULL)"
    )
    connection.execute(f"CREATE INDEX {table}_revision ON {table} (revision)")
    _write_sets(connection, {**sets, image_fingerprint: 0})


def lacking(
    view: View, image_fingerprint: str, *, after: int = 0, since: int | None = None, limit: int = 256
) -> list[Lacking]:
    """The first `limit` items by number, from the one behind `after`, that the set lacks.

    Args:
        since: only items whose vectors were written after this revision, which is quick to tell.
    """
    some = "" if since is None else "AND items.num IN (SELECT num FROM vectors WHERE revision > :since)"
    found = view.connection.execute(
        f"SELECT items.num, items.image_sha256 {_lacking(image_fingerprint)} AND items.num > :after {some}"
        " ORDER BY items.num LIMIT :limit",
        {**_as_of(view, image_fingerprint), "after": after, "since": since, "limit": limit},
    )
    return [Lacking(int(num), str(sha256)) for num, sha256 in found]


def count_lacking(view: View, image_fingerprint: str) -> int:
    """How many items the set lacks; those without a picture do not count."""
    sql = f"SELECT count(*) {_lacking(image_fingerprint)}"
    return int(view.connection.execute(sql, _as_of(view, image_fingerprint)).fetchone()[0])


def count_without_picture(view: View) -> int:
    """How many items have no picture that could be embedded again."""
    found = view.connection.execute("SELECT count(*) FROM items WHERE image_sha256 IS NULL").fetchone()
    return int(found[0])


def stage(
    connection: sqlite3.Connection, image_fingerprint: str, vectors: Mapping[str, Vector], revision: int
) -> int:
    """Put the vectors (dim,) of pictures, by SHA-256, into the set for every item that has them now.

    Args:
        revision: the catalogue's.

    Returns: how many items those are.
    """
    staged = 0
    for sha256, vector in vectors.items():
        blob = vector.astype("<f4", copy=False).tobytes()
        staged += connection.execute(
            f"INSERT OR REPLACE INTO {table_of(image_fingerprint)} (num, revision, vector)"
            " SELECT num, ?, ? FROM items WHERE image_sha256 = ?",
            (revision, blob, sha256),
        ).rowcount
    return staged


def items_with(connection: sqlite3.Connection, digests: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of the items that have these pictures, by SHA-256."""
    found: dict[str, list[int]] = {}
    for num, sha256 in connection.execute(
        "SELECT num, image_sha256 FROM items WHERE image_sha256 IN (SELECT value FROM json_each(?))",
        (json.dumps(list(digests)),),
    ):
        found.setdefault(str(sha256), []).append(int(num))
    return found


def read_set(view: View, image_fingerprint: str) -> sqlite3.Cursor:
    """(num, vector) of all items that the set has, by number."""
    return view.connection.execute(
        f"SELECT num, vector FROM {table_of(image_fingerprint)}"
        " WHERE num IN (SELECT num FROM items) ORDER BY num"
    )


def exchange(connection: sqlite3.Connection, used: str, following: str, revision: int) -> None:
    """Make the set of the image fingerprint `following` the one in use, and keep the one of `used`.

    Args:
        revision: what this transaction makes the catalogue's.

    Raises GalleryError if the set is not whole; nothing is changed then.
    """
    sets = read_sets(connection)
    table, as_of = table_of(following), sets.pop(following)
    connection.execute(
        f"DELETE FROM {table} WHERE num IN (SELECT num FROM removed WHERE revision > ?)", (as_of,)
    )
    have, want = (
        int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in (table, "items")
    )
    if have != want:
        raise GalleryError(f"the new model has vectors of {have:,} items, the gallery has {want:,}")
    connection.execute(f"ALTER TABLE vectors RENAME TO {table_of(used)}")
    connection.execute(f"ALTER TABLE {table} RENAME TO vectors")
    _write_sets(connection, {**sets, used: revision})
    # An index of an earlier revision cannot be brought up to date from here: it is of the other vectors.
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('vectors_since', ?)", (revision,))


def shrink_set(connection: sqlite3.Connection, image_fingerprint: str) -> bool:
    """Drop a few thousand rows of a set, or what is left of it; whether it is gone. Dropping all at once
    would make writes wait."""
    sets = read_sets(connection)
    if image_fingerprint not in sets:
        return True
    table = table_of(image_fingerprint)
    deleted = connection.execute(
        f"DELETE FROM {table} WHERE num IN (SELECT num FROM {table} LIMIT {CHUNK_ROWS})"
    ).rowcount
    if deleted == CHUNK_ROWS:
        return False
    connection.execute(f"DROP TABLE {table}")
    del sets[image_fingerprint]
    _write_sets(connection, sets)
    return True


def _lacking(image_fingerprint: str) -> str:
    return _LACKING.format(table=table_of(image_fingerprint))


def _as_of(view: View, image_fingerprint: str) -> dict[str, int]:
    return {"as_of": read_sets(view.connection)[image_fingerprint]}
