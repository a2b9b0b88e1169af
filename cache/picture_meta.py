"""`meta.json` in a query's folder: whose pictures these are, where they came from, and what was not found.

    {"version": 1, "query": "红 裙", "pictures": {"1": {"sha256": "…", "source": "…", …}}, "previous": {},
     "miss": {"reason": "empty", "detail": "", "recorded_at": "…", "expires_at": "…"}}

`pictures` says what each `<n>.jpg` is, or is about to be: it is written first, the file next. `previous` says
what a file may still be while it is being replaced, so that a kill between the two loses neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import CacheError
from cache.files import write_durably

META_NAME = "meta.json"
VERSION = 1
MAX_META_BYTES = 1_000_000
MAX_NUMBER = 999
DAY_S = 86_400
EXPIRY_DAYS = {"empty": 7, "no_good_picture": 1, "load_failed": 1, "unusable_query": 30}

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,2}")
T = TypeVar("T")


class ForeignSidecarError(CacheError):
    """A sidecar that must be left alone: a newer version of this program wrote it, or it cannot be read."""


@dataclass(frozen=True)
class Provenance:
    """Where a picture came from. fetched_at: ISO 8601 with offset (UTC). original_sha256, width, height
    (pixels): of the file that was fetched. dhash: 64-bit difference hash, 16 hex digits. layout: of the page
    it was found on."""

    source: str
    item_id: str
    image_url: str
    page_url: str
    title: str
    layout: str
    fetched_at: str
    original_sha256: str
    width: int
    height: int
    dhash: str


_PROVENANCE: dict[str, type] = {
    name.name: int if name.name in ("width", "height") else str for name in fields(Provenance)
}


@dataclass(frozen=True)
class Stored:
    """What the sidecar says of one file. provenance: None if unknown (Online-CNCLIP's code wrote it)."""

    sha256: str
    provenance: Provenance | None


@dataclass(frozen=True)
class Miss:
    """A query that had no picture. reason: a key of EXPIRY_DAYS. Times: ISO 8601, UTC."""

    reason: str
    detail: str
    recorded_at: str
    expires_at: str

    @classmethod
    def new(cls, reason: str, detail: str, now: float) -> Miss:
        """A miss found at `now` (seconds since 1970). Raises ValueError for a reason it does not know."""
        if reason not in EXPIRY_DAYS:
            raise ValueError(f"not a reason for a miss: {reason!r}")
        recorded = datetime.fromtimestamp(now, timezone.utc)
        expires = recorded + timedelta(days=EXPIRY_DAYS[reason])
        return cls(reason, detail, recorded.isoformat("T", "seconds"), expires.isoformat("T", "seconds"))

    def expired(self, now: float) -> bool:
        """Whether the query may be asked again at `now` (seconds since 1970)."""
        return timestamp(self.expires_at) <= now


@dataclass(frozen=True)
class Meta:
    """The content of one sidecar."""

    query: str
    pictures: Mapping[int, Stored] = field(default_factory=dict)
    previous: Mapping[int, Stored] = field(default_factory=dict)
    miss: Miss | None = None

    def entries(self, number: int) -> list[Stored]:
        """What picture `number` may be: what it is to be, and what it was."""
        found = (self.pictures.get(number), self.previous.get(number))
        return [stored for stored in found if stored is not None]


def timestamp(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time with an offset. Raises ValueError."""
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
    if time.tzinfo is None:
        raise ValueError("no offset from UTC")
    return time.timestamp()


def dump_meta(meta: Meta) -> bytes:
    """As JSON: the same bytes for the same content."""
    values = {
        "version": VERSION,
        "query": meta.query,
        "pictures": _dump_pictures(meta.pictures),
        "previous": _dump_pictures(meta.previous),
        "miss": None if meta.miss is None else asdict(meta.miss),
    }
    text = json.dumps(values, ensure_ascii=False, indent=1) + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes JSON's own \udXXX


def write_meta(folder: Path, meta: Meta) -> None:
    """Write the sidecar of `folder`, on disk when it returns. Raises OSError; CacheError for content that
    could not be read again."""
    data = dump_meta(meta)
    parse_meta(folder / META_NAME, data)
    write_durably(folder / META_NAME, data)


def _dump_pictures(pictures: Mapping[int, Stored]) -> dict[str, Any]:
    return {
        str(number): {"sha256": stored.sha256, **(asdict(stored.provenance) if stored.provenance else {})}
        for number, stored in sorted(pictures.items())
    }


def parse_meta(path: Path | str, data: bytes) -> Meta:
    """Read a sidecar; `path` is for messages. Unknown fields are passed over.

    Raises:
        ForeignSidecarError: written by a newer version.
        CacheError: anything else that is wrong with it, naming file and field.
    """
    if len(data) > MAX_META_BYTES:
        raise CacheError(f"{path}: more than {MAX_META_BYTES:,} bytes")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path}: not JSON ({error})") from error
    top = _Fields(path, "", values)
    version = top.get("version", int)
    if version > VERSION:
        raise ForeignSidecarError(f"{path}: field version: {version} is newer than this program's {VERSION}")
    if version != VERSION:
        top.refuse("version", f"unknown: {version}")
    return Meta(
        top.get("query", str),
        _pictures(top.table("pictures")),
        _pictures(top.table("previous")) if "previous" in values else {},
        _miss(top.table("miss")) if values.get("miss") is not None else None,
    )


class _Fields:
    """Typed access to a JSON object."""

    def __init__(self, path: Path | str, where: str, values: Any) -> None:
        self._path, self._where = path, where
        if not isinstance(values, dict):
            raise CacheError(f"{path}: {f'field {where}: ' if where else ''}not a JSON object")
        self.values: dict[str, Any] = values

    def get(self, name: str, kind: type[T]) -> T:
        if name not in self.values:
            self.refuse(name, "missing")
        value = self.values[name]
        if type(value) is not kind:  # true is no number
            self.refuse(name, f"not {'a text' if kind is str else 'a whole number'}")
        return value  # type: ignore[no-any-return]

    def matching(self, name: str, fits: Callable[[str], object], what: str) -> str:
        """A text for which `fits` is true and raises no ValueError."""
        text = self.get(name, str)
        try:
            good = bool(fits(text))
        except ValueError:
            good = False
        if not good:
            self.refuse(name, f"not {what}")
        return text

    def table(self, name: str) -> _Fields:
        if name not in self.values:
            self.refuse(name, "missing")
        return _Fields(self._path, f"{self._where}{'.' if self._where else ''}{name}", self.values[name])

    def refuse(self, name: str, reason: str) -> None:
        where = f"{self._where}.{name}" if self._where else name
        raise CacheError(f"{self._path}: field {where[:200]}: {reason}")


def _is_time(text: str) -> bool:
    return timestamp(text) is not None


def _miss(table: _Fields) -> Miss:
    return Miss(
        table.matching("reason", EXPIRY_DAYS.__contains__, "a known reason"),
        table.get("detail", str),
        table.matching("recorded_at", _is_time, "a time with its offset"),
        table.matching("expires_at", _is_time, "a time with its offset"),
    )


def _pictures(table: _Fields) -> dict[int, Stored]:
    found = {}
    for key in table.values:
        if not _NUMBER.fullmatch(key):
            table.refuse(key, f"not the number of a picture, 1..{MAX_NUMBER}")
        entry = table.table(key)
        sha256 = entry.matching("sha256", _SHA256.fullmatch, "a SHA-256 digest")
        found[int(key)] = Stored(sha256, _provenance(entry) if len(entry.values) > 1 else None)
    return found


def _provenance(entry: _Fields) -> Provenance:
    entry.matching("fetched_at", _is_time, "a time with its offset")
    for name in ("width", "height"):
        if entry.get(name, int) < 0:
            entry.refuse(name, "negative")
    found: dict[str, Any] = {name: entry.get(name, kind) for name, kind in _PROVENANCE.items()}
    return Provenance(**found)
