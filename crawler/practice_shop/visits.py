"""What the shop saw: one record per request, the ground truth of a rehearsal."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crawler.errors import SettingsError

Origin = Literal["search", "login", "images"]
# Requests to the controls and to the phone's page are no visits.
Kind = Literal["search", "xhr", "image", "item", "login", "poll", "scan", "confirm", "cancel", "other"]


@dataclass(frozen=True)
class Visit:
    """One request.

    t: when it came, seconds since 1970. kind: search (a result page), xhr (data a page asks for), image,
    item, login (pages and steps of it), poll (a page asking how its code is), scan, confirm, cancel (the
    phone), other. path: without its query string. query: the text searched for, or the one an item or
    picture belongs to. cookies_login: whether `unb` came along. status: of the answer, 0 for none (hung up,
    still hanging). port: of the visitor's end. blocked: whether the answer was a block.
    """

    t: float
    origin: Origin
    kind: Kind
    method: str
    path: str
    query: str
    cookie_names: tuple[str, ...]
    cookies_login: bool
    referer: str
    user_agent: str
    status: int
    port: int
    blocked: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


class VisitLog:
    """All visits in order of arrival; with `path` also a JSONL file, in order of the answers.

    Raises:
        SettingsError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._visits: list[Visit] = []
        self._round = 0  # visits that began before a `clear` must not come back by being answered
        try:
            self._file = None if path is None else path.open("ab", buffering=0)
        except OSError as error:
            raise SettingsError(f"practice shop: log {path}: {error.strerror or error}") from None

    def begin(self, visit: Visit) -> tuple[int, int]:
        """Note a request that came; returns what `answered` takes."""
        with self._lock:
            self._visits.append(visit)
            return self._round, len(self._visits) - 1

    def answered(self, place: tuple[int, int], visit: Visit) -> None:
        """Replace the record at `place` now that its answer is known, and write it to the file."""
        with self._lock:
            number, index = place
            if number == self._round:
                self._visits[index] = visit
            if self._file is not None:
                self._file.write(json.dumps(visit.to_json(), ensure_ascii=False).encode() + b"\n")

    def visits(self, kind: str | None = None) -> list[Visit]:
        """A copy, of one kind or of all."""
        with self._lock:
            return [visit for visit in self._visits if kind in (None, visit.kind)]

    def clear(self) -> None:
        """Forget all visits; the file keeps them."""
        with self._lock:
            self._visits.clear()
            self._round += 1

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
