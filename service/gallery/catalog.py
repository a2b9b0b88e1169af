"""`catalog.sqlite`, the source of truth: rows, attributes, words, vectors, and what changed when.

Every transaction that changes something raises `revision` by one, and every vector carries the revision that
wrote it; `removed` remembers the numbers of deleted items. So an index of any earlier revision can be brought
up to date by reading what changed since (`View.changed_vectors`, `View.removed`), and a rebuild is the same
from revision 0. Numbers (`num`) are never used again. Vectors of models that are not in use are in tables of
their own (vector_sets.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from service.gallery.manifest import FILE_NAME as MANIFEST_NAME
from service.gallery.manifest import Manifest
from service.gallery.types import GalleryError
from service.gallery.view import View

FILE_NAME = "catalog.sqlite"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    attributes TEXT NOT NULL,
    image_sha256 TEXT,
    image_mime TEXT
);
CREATE INDEX items_image ON items (image_sha256);
CREATE TABLE vectors (num INTEGER PRIMARY KEY, revision INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX vectors_revision ON vectors (revision);
CREATE TABLE removed (num INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
CREATE INDEX removed_revision ON removed (revision);
CREATE TABLE attribute_values (field TEXT, value, num INTEGER, PRIMARY KEY (field, value, num)) WITHOUT ROWID;
CREATE INDEX attribute_values_num ON attribute_values (num);
CREATE TABLE folders (label TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE VIRTUAL TABLE words USING fts5 (tokens, tokenize = 'unicode61');
"""
_BUSY_TIMEOUT_S = 30.0
_LOG_SUFFIXES = ("-journal", "-wal", "-shm")  # of the files that SQLite keeps beside its own
_PAGE_BYTES = 16_384  # seven vectors of 512 dimensions; 4 kB would hold one, and waste half


def create_catalog(directory: Path, manifest: Manifest) -> None:
    """Make an empty catalogue. One that was begun and never finished is renamed, with its logs.

    Raises GalleryError: there is one with items in it (whose manifest was lost), or one that cannot be read.
    """
    path = directory / FILE_NAME
    if path.exists() and _has_items(path):
        raise GalleryError(
            f"{directory}: holds a catalogue with items, but no {MANIFEST_NAME}; not overwritten"
        )
    aside = path.with_name(f"{FILE_NAME}.unfinished-{manifest.gallery_id[:8]}")
    for suffix in ("", *_LOG_SUFFIXES):
        leftover = path.with_name(FILE_NAME + suffix)
        if leftover.exists():
            leftover.replace(aside.with_name(aside.name + suffix))
    with _named(path), contextlib.closing(_connect(path, "rwc")) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        values = {
            "gallery_id": manifest.gallery_id,
            "fingerprint": manifest.fingerprint,
            "dim": manifest.dim,
            "revision": 0,
            "index_stamp": "",
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", values.items())


def _has_items(path: Path) -> bool:
    """Raises GalleryError where that cannot be told: it may be full."""
    log = path.with_name(f"{FILE_NAME}-wal")
    if path.stat().st_size == 0:
        if log.exists() and log.stat().st_size > 0:  # SQLite would delete it when it opens an empty file
            raise GalleryError(f"{path}: empty, but its write-ahead log is not; not overwritten")
        return False
    try:
        with contextlib.closing(_connect(path, "rw")) as connection:
            return connection.execute("SELECT 1 FROM items LIMIT 1").fetchone() is not None
    except sqlite3.Error as error:
        if str(error) == "no such table: items":
            return False  # begun and never finished
        raise GalleryError(f"{path}: {error}; there is no {MANIFEST_NAME}; not overwritten") from error


class Catalog:
    """Connections to one catalogue: any number of readers in any threads, one writer at a time.

    Raises GalleryError for whatever SQLite reports (damaged, disk full, …).
    """

    def __init__(self, directory: Path, manifest: Manifest, *, read_only: bool) -> None:
        self.path = directory / FILE_NAME
        self._dim = manifest.dim
        self._closed = False
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._write_lock = threading.RLock()
        self._poolable = True
        self._writer: sqlite3.Connection | None = None
        if not self.path.is_file():
            raise GalleryError(f"{self.path}: missing")
        try:
            with _named(self.path):
                if not read_only:
                    self._writer = _connect(self.path, "rw")
                    self._writer.execute("PRAGMA journal_mode = WAL")
                    self._writer.execute("PRAGMA synchronous = FULL")  # durable when a commit returns
            self._check_belongs_to(manifest)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def read(self) -> Iterator[View]:
        """One read transaction: all that is read inside is of one revision."""
        with _named(self.path):
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield View(connection, self._dim)
            finally:
                self._give_back(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, committed (and on disk) when the block ends, undone if it raises."""
        with self._write_lock, _named(self.path):
            if self._writer is None:
                raise GalleryError(f"{self.path.parent}: the gallery is closed or was opened read-only")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close what is idle now, and what is in use when it is given back."""
        with self._idle_lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        with self._write_lock:
            if self._writer is not None:
                with contextlib.suppress(sqlite3.Error):  # a reader holds it; the log is merged later
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._writer.close()
                self._writer = None

    def _take(self) -> sqlite3.Connection:
        with self._idle_lock:
            if self._closed:
                raise GalleryError(f"{self.path.parent}: the gallery is closed")
            if self._idle:
                return self._idle.pop()
        return self._open_reader()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        usable = True
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            usable = False
        with self._idle_lock:
            if usable and self._poolable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _open_reader(self) -> sqlite3.Connection:
        connection = _connect(self.path, "ro")
        try:
            connection.execute("SELECT 1 FROM meta").fetchone()  # opens the log, too
            return connection
        except sqlite3.OperationalError as error:
            connection.close()
            log = self.path.with_name(f"{FILE_NAME}-wal")
            if log.exists() and log.stat().st_size > 0:
                raise GalleryError(
                    f"{self.path}: has a write-ahead log that cannot be read here ({error}); "
                    "open the gallery once where its directory can be written"
                ) from error
        except sqlite3.Error:
            connection.close()
            raise
        # Nobody writes, and the directory has no room for the log's shared memory. Such a connection does not
        # notice changes, so each serves one transaction only.
        self._poolable = False
        return _connect(self.path, "immutable")

    def _check_belongs_to(self, manifest: Manifest) -> None:
        with self.read() as view:
            # A switch to another model is in the catalogue first: what differs then is healed (model_ref.py).
            switched = view.meta("model") is not None
            for key in ("gallery_id", "dim") if switched else ("gallery_id", "dim", "fingerprint"):
                if view.meta(key) != getattr(manifest, key):
                    files = f"{MANIFEST_NAME} and {FILE_NAME}"
                    raise GalleryError(
                        f"{self.path.parent}: {files} are of different galleries ({key} differs)"
                    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    query = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are begun and ended here, nowhere else
        check_same_thread=False,  # a pooled connection serves one thread at a time
    )


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise GalleryError(f"{path}: {error}") from error
