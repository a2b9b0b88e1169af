"""What the service notes for the learner: feedback, and the texts of searches (the query log, if wanted).

One SQLite file, which other processes may read while the service writes:

    journal = Journal("shop/journal.sqlite")     # opens nothing yet; the file need not be there
    for feedback in journal.feedback(since=last_id):
        …
    for query in journal.queries(since=last_id):
        …

Ids rise, and are never used again: a reader that keeps the last one goes on where it was. Feedback is on disk
when `add_feedback` returns. The query log is written in batches (query_log.py), so a kill may cost what was
searched in the last second, and it holds a limited number of searches, of which the oldest go.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnclip.errors import InputError

SCHEMA = 1
_PAGE = 1000  # rows of one read transaction, so that readers do not keep the log from being merged
_BUSY_TIMEOUT_S = 30.0
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    query TEXT NOT NULL,
    item_id TEXT NOT NULL,
    relevant INTEGER NOT NULL,
    image_sha256 TEXT,
    fingerprint TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS queries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    text TEXT NOT NULL,
    results INTEGER NOT NULL,
    fingerprint TEXT NOT NULL
);
"""


class JournalError(InputError):
    """A journal that is damaged, of a newer version, or cannot be written."""


@dataclass(frozen=True)
class Feedback:
    """Somebody said whether an item is right for a query. time: seconds since 1970. image_sha256: the picture
    that the item had then. fingerprint: of the model in use."""

    id: int
    time: float
    query: str
    item_id: str
    relevant: bool
    image_sha256: str | None
    fingerprint: str


@dataclass(frozen=True)
class LoggedQuery:
    """A search by text. time: seconds since 1970. results: how many it had. fingerprint: of the model."""

    id: int
    time: float
    text: str
    results: int
    fingerprint: str


class Journal:
    """See the module's docstring. Any thread; `add_…` need `open` before.

    Raises JournalError for whatever SQLite reports.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._writer: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def open(self) -> Journal:
        """Make the file if need be, and be ready to write."""
        with self._named(), self._lock:
            writer = self._connect("rwc")
            try:
                writer.execute("PRAGMA journal_mode = WAL")
                writer.execute("PRAGMA synchronous = FULL")  # durable when a commit returns
                self._check_schema(writer)
                writer.executescript(_TABLES)
                writer.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA,))
            except BaseException:
                writer.close()
                raise
            self._writer = writer
        return self

    def close(self) -> None:
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def add_feedback(
        self,
        time: float,
        query: str,
        item_id: str,
        relevant: bool,
        image_sha256: str | None,
        fingerprint: str,
    ) -> int:
        """Store a feedback and return its id; on disk when it returns."""
        values = (time, query, item_id, int(relevant), image_sha256, fingerprint)
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT INTO feedback (time, query, item_id, relevant, image_sha256, fingerprint)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
            return int(cursor.lastrowid or 0)

    def add_queries(self, rows: Sequence[tuple[float, str, int, str]], keep: int) -> None:
        """Store searches (time, text, results, fingerprint), and drop all but the last `keep`."""
        with self._writing() as connection:
            connection.executemany(
                "INSERT INTO queries (time, text, results, fingerprint) VALUES (?, ?, ?, ?)", rows
            )
            connection.execute("DELETE FROM queries WHERE id <= (SELECT max(id) FROM queries) - ?", (keep,))

    def feedback(self, since: int = 0) -> Iterator[Feedback]:
        """Feedback with ids larger than `since`, in order; nothing if there is no journal (yet)."""
        columns = "id, time, query, item_id, relevant, image_sha256, fingerprint"
        for row in self._rows("feedback", columns, since):
            yield Feedback(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6])

    def queries(self, since: int = 0) -> Iterator[LoggedQuery]:
        """Searches with ids larger than `since`, in order; nothing if there is no journal (yet)."""
        for row in self._rows("queries", "id, time, text, results, fingerprint", since):
            yield LoggedQuery(*row)

    def recent_queries(self, most: int) -> list[str]:
        """The last `most` different texts that were searched for, newest first."""
        with self._reading() as connection:
            if connection is None:
                return []
            found = connection.execute("SELECT text FROM queries ORDER BY id DESC LIMIT ?", (20 * most,))
            return list(dict.fromkeys(text for (text,) in found))[:most]

    def _rows(self, table: str, columns: str, since: int) -> Iterator[tuple]:  # type: ignore[type-arg]
        while True:
            with self._reading() as connection:
                if connection is None:
                    return
                sql = f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT {_PAGE}"
                rows = connection.execute(sql, (since,)).fetchall()
            yield from rows
            if len(rows) < _PAGE:
                return
            since = rows[-1][0]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._named(), self._lock:
            if self._writer is None:
                raise JournalError(f"{self.path}: the journal is closed")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection for one query; None if there is no journal."""
        with self._named():
            if not self.path.is_file() or self.path.stat().st_size == 0:
                yield None
                return
            connection = self._open_reader()
            try:
                yield connection if self._check_schema(connection) else None
            finally:
                connection.close()

    def _open_reader(self) -> sqlite3.Connection:
        try:
            with contextlib.ExitStack() as stack:
                connection = self._connect("ro")
                stack.callback(connection.close)
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # opens the log, too
                stack.pop_all()
                return connection
        except sqlite3.OperationalError:
            log = self.path.with_name(f"{self.path.name}-wal")
            if log.exists() and log.stat().st_size > 0:
                raise
        # Nobody writes, and the directory has no room for the log's shared memory.
        return self._connect("ro&immutable=1")

    def _check_schema(self, connection: sqlite3.Connection) -> bool:
        """Whether there is a journal. Raises JournalError if it was written by a newer version."""
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'queries'").fetchone():
            return False
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row is not None and int(row[0]) > SCHEMA:
            raise JournalError(f"{self.path}: was written by a newer version (schema {row[0]})")
        return True

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,  # the lock lets one thread in at a time
        )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
