"""What one write transaction does to the catalogue's tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from service.gallery.keyword import index_tokens
from service.gallery.types import (
    AttributeValue,
    Item,
    StoredImage,
    Vector,
    check_attributes,
    check_id,
    check_title,
    check_vector,
)
from service.gallery.view import make_row


@dataclass(frozen=True)
class CheckedItem:
    """An item that has passed every check; its picture is in the blob store before it is written."""

    id: str
    vector: Vector
    title: str
    attributes: dict[str, AttributeValue]
    image: bytes | StoredImage | None

    @classmethod
    def of(cls, item: Item, dim: int) -> CheckedItem:
        """Raises InputError naming the item and the field."""
        return cls(
            check_id(item.id),
            check_vector(item.vector, dim, f"item {item.id!r}"),
            check_title(item.title, item.id),
            check_attributes(item.attributes, item.id),
            item.image,
        )

    @property
    def stored_image(self) -> StoredImage | None:
        """The picture as the catalogue records it."""
        if isinstance(self.image, bytes):
            raise TypeError(f"item {self.id!r}: its picture is not stored yet")
        return self.image


@dataclass
class Changes:
    """What a transaction did. `freed`: digests of pictures that an item no longer has."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    freed: set[str] = field(default_factory=set)


def write_items(connection: sqlite3.Connection, items: Iterable[CheckedItem]) -> Changes:
    """Insert or replace items; the revision rises if any of them changed."""
    revision = next_revision(connection)
    changes = Changes()
    for item in items:
        _write_item(connection, item, revision, changes)
    if changes.added or changes.updated:
        set_revision(connection, revision)
    return changes


def delete_items(connection: sqlite3.Connection, ids: Iterable[str]) -> tuple[int, set[str]]:
    """Delete items. Returns how many there were, and the digests of the pictures they had."""
    revision = next_revision(connection)
    deleted, freed = 0, set()
    for item_id in ids:
        found = connection.execute("SELECT num, image_sha256 FROM items WHERE id = ?", (item_id,)).fetchone()
        if found is None:
            continue
        num, sha256 = found
        _delete_words(connection, num)
        connection.execute("DELETE FROM vectors WHERE num = ?", (num,))
        connection.execute("DELETE FROM items WHERE num = ?", (num,))
        connection.execute("INSERT INTO removed VALUES (?, ?)", (num, revision))
        deleted += 1
        if sha256 is not None:
            freed.add(sha256)
    if deleted:
        set_revision(connection, revision)
    return deleted, freed


def set_index_stamp(connection: sqlite3.Connection, stamp: str) -> None:
    """Record which saved index belongs to this catalogue."""
    connection.execute("UPDATE meta SET value = ? WHERE key = 'index_stamp'", (stamp,))


def same_attributes(a: Mapping[str, AttributeValue], b: Mapping[str, AttributeValue]) -> bool:
    """Whether they are stored alike: unlike ==, this tells true from 1."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def label_folder(connection: sqlite3.Connection, name: str, path: str) -> str:
    """The label under which the folder `path` is known: `name`, or `name-2`, … if another folder has it."""
    known = connection.execute("SELECT label FROM folders WHERE path = ?", (path,)).fetchone()
    if known is not None:
        return str(known[0])
    taken = {label for (label,) in connection.execute("SELECT label FROM folders")}
    label, n = name, 1
    while label in taken:
        n += 1
        label = f"{name}-{n}"
    connection.execute("INSERT INTO folders VALUES (?, ?)", (label, path))
    return label


def _write_item(connection: sqlite3.Connection, item: CheckedItem, revision: int, changes: Changes) -> None:
    found = connection.execute(
        "SELECT num, id, title, attributes, image_sha256, image_mime FROM items WHERE id = ?", (item.id,)
    ).fetchone()
    attributes = json.dumps(item.attributes, ensure_ascii=False)
    picture = item.stored_image
    image = (None, None) if picture is None else (picture.sha256, picture.mime)
    blob = item.vector.astype("<f4", copy=False).tobytes()
    if found is None:
        cursor = connection.execute(
            "INSERT INTO items (id, title, attributes, image_sha256, image_mime) VALUES (?, ?, ?, ?, ?)",
            (item.id, item.title, attributes, *image),
        )
        _write_words(connection, int(cursor.lastrowid or 0), item)
        connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (cursor.lastrowid, revision, blob))
        changes.added += 1
        return
    row = make_row(found)
    stored = connection.execute("SELECT vector FROM vectors WHERE num = ?", (row.num,)).fetchone()[0]
    # The vector of a picture may differ in its last bits from run to run; the picture is what counts. Two
    # pictures that one model cannot tell apart may differ for the next one.
    same_picture = row.image_sha256 == image[0]
    same_vector = same_picture and (stored == blob or picture is not None)
    same_words = row.title == item.title and same_attributes(row.attributes, item.attributes)
    if same_vector and same_words:
        changes.unchanged += 1
        return
    connection.execute(
        "UPDATE items SET title = ?, attributes = ?, image_sha256 = ?, image_mime = ? WHERE num = ?",
        (item.title, attributes, *image, row.num),
    )
    if not same_words:
        _delete_words(connection, row.num)
        _write_words(connection, row.num, item)
    if not same_vector:
        connection.execute(
            "UPDATE vectors SET revision = ?, vector = ? WHERE num = ?", (revision, blob, row.num)
        )
    if row.image_sha256 is not None and not same_picture:
        changes.freed.add(row.image_sha256)
    changes.updated += 1


def _write_words(connection: sqlite3.Connection, num: int, item: CheckedItem) -> None:
    values = [
        (name, value, num)
        for name, values in item.attributes.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    # OR IGNORE: a list may hold a value twice.
    connection.executemany("INSERT OR IGNORE INTO attribute_values VALUES (?, ?, ?)", values)
    texts = [item.title, *(value for _, value, _ in values if isinstance(value, str))]
    if tokens := index_tokens(texts):
        connection.execute("INSERT INTO words (rowid, tokens) VALUES (?, ?)", (num, tokens))


def _delete_words(connection: sqlite3.Connection, num: int) -> None:
    connection.execute("DELETE FROM words WHERE rowid = ?", (num,))
    connection.execute("DELETE FROM attribute_values WHERE num = ?", (num,))


def next_revision(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()[0]) + 1


def set_revision(connection: sqlite3.Connection, revision: int) -> None:
    connection.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (revision,))
