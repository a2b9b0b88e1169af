"""What an online worker remembers: what it was told, what it has learnt from, what comes next.

One SQLite file. Being told and having learnt are two things: what was told is stored at once; that something
was learnt is stored after the decision about it, so that a worker killed in between takes it up again. A kept
round is final with the version that it is published as: the version carries the round's `Done`, and a worker
that was killed before it could note that here does so when it starts.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cnclip.errors import InputError
from cnclip.online.settings import PICTURES
from cnclip.text import normalize

SCHEMA = 1
MAX_QUERIES = 100_000  # that are remembered; those wanted longest ago go first
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opinions (
    id INTEGER, time REAL, query TEXT NOT NULL, text TEXT NOT NULL, item_id TEXT NOT NULL,
    relevant INTEGER NOT NULL, image_sha256 TEXT, PRIMARY KEY (id, time)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS learnt (
    id INTEGER, time REAL, verdict TEXT NOT NULL, PRIMARY KEY (id, time)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queries (
    query TEXT PRIMARY KEY, text TEXT NOT NULL, times INTEGER NOT NULL, wanted REAL NOT NULL,
    due REAL NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 1
);
"""
# The last word on each query and item.
_LATEST = """
SELECT id, time, query, text, item_id, relevant, image_sha256 FROM (
    SELECT *, row_number() OVER (PARTITION BY query, item_id ORDER BY time DESC, id DESC) AS nth FROM opinions
) WHERE nth = 1"""


class Opinion(Protocol):
    """Somebody said whether an item's picture is right for a query. id and time (seconds since 1970) together
    are its own. image_sha256: of the picture that the item had then."""

    @property
    def id(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def query(self) -> str: ...
    @property
    def item_id(self) -> str: ...
    @property
    def relevant(self) -> bool: ...
    @property
    def image_sha256(self) -> str | None: ...


class Said(NamedTuple):
    """An opinion, as it is remembered. query: normalised; text: as it was typed."""

    id: int
    time: float
    query: str
    text: str
    item_id: str
    relevant: bool
    image_sha256: str | None


class Wanted(NamedTuple):
    """A query to ask for: its text, and the number of the picture that is next."""

    text: str
    number: int


@dataclass(frozen=True)
class Done:
    """What a decided round means for the memory.

    verdict: the version's label, "rolled back" or "skipped". opinions: (id, time) of those done with.
    queries: normalised text → number of the picture to ask for next, and when (seconds since 1970). pace: for
    the next round (see OnlineRound).
    """

    round: int
    verdict: str
    opinions: Sequence[tuple[int, float]] = ()
    queries: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    pace: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Done:
        """Raises ValueError, KeyError, TypeError for what is no such record."""
        return cls(
            int(values["round"]),
            str(values["verdict"]),
            [(int(number), float(moment)) for number, moment in values["opinions"]],
            {str(query): (int(nth), float(due)) for query, (nth, due) in values["queries"].items()},
            float(values["pace"]),
        )


class WorkerState:
    """See the module's docstring. One process's; close it.

    Raises InputError for whatever SQLite reports.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._named():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            with self._transaction() as connection:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA,))
            if self._number("schema") > SCHEMA:
                raise InputError(f"{path}: was written by a newer version")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def hear(self, opinions: Iterable[Opinion]) -> int:
        """Remember opinions; those known already are passed over. Returns the largest id."""
        rows = [
            (one.id, one.time, key, one.query.strip(), one.item_id, int(one.relevant), one.image_sha256)
            for one in opinions
            if (key := _key(one.query))
        ]
        with self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO opinions VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return max((row[0] for row in rows), default=0)

    def want(self, queries: Iterable[str], *, bookmark: tuple[str, int] | None = None) -> None:
        """Remember queries that were asked, and (name, place) up to where a source of them was read."""
        counts: dict[str, list[Any]] = {}
        for text in map(str.strip, queries):
            if key := _key(text):
                counts.setdefault(key, [text, 0])[1] += 1
        now = time.time()
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO queries (query, text, times, wanted) VALUES (?, ?, ?, ?) ON CONFLICT (query)"
                " DO UPDATE SET times = times + excluded.times, wanted = excluded.wanted",
                [(key, text, times, now) for key, (text, times) in counts.items()],
            )
            connection.execute(
                "DELETE FROM queries WHERE query IN"
                " (SELECT query FROM queries ORDER BY wanted DESC, rowid LIMIT -1 OFFSET ?)",
                (MAX_QUERIES,),
            )
            if bookmark is not None:
                connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", bookmark)

    def bookmark(self, name: str) -> int:
        """The place that was remembered last, or 0."""
        return int(self._number(name))

    @property
    def round(self) -> int:
        """The number of the next round."""
        return int(self._number("round"))

    @property
    def pace(self) -> float:
        """For the next round."""
        return self._number("pace", 1.0)

    def praise(self) -> list[Said]:
        """Pairs that the last word on them praises, and that nothing was learnt from yet; oldest first."""
        return self._said(
            f"{_LATEST} AND relevant AND (id, time) NOT IN (SELECT id, time FROM learnt) ORDER BY time, id"
        )

    def dislikes(self) -> list[Said]:
        """Pairs that the last word on them rejects."""
        return self._said(f"{_LATEST} AND NOT relevant ORDER BY time, id")

    def due(self, most: int, now: float) -> list[Wanted]:
        """Up to `most` queries to ask for now (seconds since 1970): those waiting longest, then those wanted
        most often."""
        sql = (
            "SELECT text, next FROM queries WHERE next <= ? AND due <= ?"
            " ORDER BY due, times DESC, rowid LIMIT ?"
        )
        with self._named():
            return [Wanted(*row) for row in self._connection.execute(sql, (PICTURES, now, most))]

    def commit(self, done: Done) -> None:
        """Note what a round has come to; doing so twice changes nothing."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO learnt VALUES (?, ?, ?)",
                [(number, moment, done.verdict) for number, moment in done.opinions],
            )
            connection.executemany(
                "INSERT INTO queries (query, text, times, wanted, next, due) VALUES (?, ?, 0, 0, ?, ?)"
                " ON CONFLICT (query) DO UPDATE SET next = max(next, excluded.next), due = excluded.due",
                [(query, query, number, due) for query, (number, due) in done.queries.items()],
            )
            numbers = {"round": max(done.round + 1, self.round), "pace": done.pace}
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", numbers.items())

    def _said(self, sql: str) -> list[Said]:
        with self._named():
            rows = self._connection.execute(sql).fetchall()
        return [Said(*row)._replace(relevant=bool(row[5])) for row in rows]

    def _number(self, key: str, default: float = 0) -> float:
        with self._named():
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return float(row[0]) if row else default

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{self.path}: {error}") from error


def _key(text: str) -> str:
    """By which a query is known; empty for what is none, such as broken characters."""
    key = normalize(text.strip())
    return "" if any("\ud800" <= character <= "\udfff" for character in key) else key


def read_done(text: str, name: str) -> tuple[Done, dict[str, float]]:
    """A round's `Done` and its balance, from the file `name` that a version carries. Raises InputError."""
    try:
        values = json.loads(text)
        balance = {str(group): float(total) for group, total in values["balance"].items()}
        return Done.from_json(values["done"]), balance
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: damaged ({type(error).__name__}: {error})") from error


def write_done(done: Done, balance: Mapping[str, float]) -> str:
    """What `read_done` reads."""
    return json.dumps({"done": done.to_json(), "balance": dict(balance)}, ensure_ascii=False, indent=1)
