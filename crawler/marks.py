"""`mark_log/`: what happened to each query, in the files users of Online-CNCLIP know and as events.

`mark.txt` (`mark_test.txt` for the split `test`) says `directory: number of good pictures`, `unurl.txt` says
`directory: n` for each picture n that was not found, `events.jsonl` says all that is known, without secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from crawler.clock import Clock
from crawler.errors import SettingsError
from crawler.types import QueryReport


class Marks:
    """Appends to the files of `folder`, each line in one write. Raises OSError if the disk is full."""

    def __init__(self, folder: Path, split: str, clock: Clock) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"{folder}: cannot be written: {error.strerror or error}") from None
        self.folder = folder
        self.dumps = folder / "dumps"
        self._mark = folder / ("mark_test.txt" if split == "test" else "mark.txt")
        self._clock = clock

    def query(self, report: QueryReport, directory: str, missing: Iterable[int], url: str = "") -> None:
        """One query that was asked for, and the numbers of the pictures it still lacks."""
        _append(self._mark, f"{directory}: {report.pictures}")
        for number in missing:
            _append(self.folder / "unurl.txt", f"{directory}: {number}")
        self.event(
            report.outcome.value,
            query=report.query,
            dir=directory,
            pictures=report.pictures,
            state=report.state.value if report.state else None,
            layout=report.layout or None,
            url_host=urlsplit(url).hostname,
            refused=dict(report.refused) or None,
            detail=report.detail or None,
        )

    def event(self, outcome: str, **details: object) -> None:
        """One line of events.jsonl; details that are None are left out."""
        stamp = datetime.fromtimestamp(self._clock.now(), timezone.utc).isoformat(timespec="milliseconds")
        shown = {name: value for name, value in details.items() if value is not None}
        line = json.dumps({"ts": stamp, "outcome": outcome, **shown}, ensure_ascii=False)
        _append(self.folder / "events.jsonl", line.encode("utf-8", "backslashreplace").decode())


def _append(path: Path, line: str) -> None:
    """Append a line in one write. The reference writes no newlines: its last line is ended first."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
        unfinished = end > 0 and file.read(1) != b"\n"
        file.write(("\n" * unfinished + line + "\n").encode("utf-8", "backslashreplace"))
