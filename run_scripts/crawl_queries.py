"""Where the queries of a crawl come from: a text file, JSONL, an LMDB split, or standard input."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnclip.errors import InputError
from crawler.provider import PARENT_VARIABLE

PARENT_POLL_S = 1.0
FIELDS = ("query", "text", "query_text")


def read_queries(source: str) -> Iterable[str]:
    """Queries in order, repeated ones once: a list, or for `-` an iterator that gives them as they come.

    Args:
        source: `-`; a split directory of LMDB shards; a `.jsonl` file with `query`, `text` (as MUGE has it)
            or `query_text` in each row; or any other file with one query a line, empty lines skipped.

    Raises:
        InputError: nothing readable there, or a broken row: `file:line: field F: why`.
    """
    if source == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed")
        if isinstance(sys.stdin, io.TextIOWrapper):  # what is not UTF-8 is no query, and no reason to stop
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        return _from_stream(sys.stdin)
    path = Path(source)
    if path.is_dir():
        from cnclip.data.lmdb_store import read_texts

        return list(dict.fromkeys(row.text for row in read_texts(path)))
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None
    as_rows = path.suffix in (".jsonl", ".json")
    numbered = ((f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
    queries = list(dict.fromkeys(_row(place, line) if as_rows else line.strip() for place, line in numbered))
    if not queries:
        raise InputError(f"{path}: no queries in it")
    return queries


def _from_stream(lines: Iterable[str]) -> Iterator[str]:
    """Queries as they come; an `urgent` one goes before all that were read and not yet given."""
    waiting: deque[str | InputError | None] = deque()
    arrived = threading.Condition()

    def read() -> None:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix("\ufeff")
            if not line.strip():
                continue
            item: str | InputError
            try:
                item, urgent = _live(f"standard input:{number}", line)
            except InputError as error:
                item, urgent = error, False
            with arrived:
                (waiting.appendleft if urgent else waiting.append)(item)
                arrived.notify()
        with arrived:
            waiting.append(None)
            arrived.notify()

    # A daemon, as nothing can wake it from reading.
    threading.Thread(target=read, name="queries", daemon=True).start()
    while True:
        with arrived:
            while not waiting:
                arrived.wait(PARENT_POLL_S)
                if _orphaned():
                    return
            item = waiting.popleft()
        if item is None or _orphaned():
            return
        if isinstance(item, InputError):
            raise item
        yield item


def _live(place: str, line: str) -> tuple[str, bool]:
    if not line.startswith("{"):
        return line.strip(), False
    return _row(place, line), bool(json.loads(line).get("urgent"))


def works_for_another() -> bool:
    """Whether another process has this crawl as its helper, and does the talking."""
    return PARENT_VARIABLE in os.environ


def _orphaned() -> bool:
    """Whether the process that this crawl works for has ended."""
    parent = os.environ.get(PARENT_VARIABLE)
    return parent is not None and parent != str(os.getppid())


def _row(place: str, line: str) -> str:
    """The query of a JSON row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: not JSON") from None
    value = next((row[name] for name in FIELDS if name in row), None) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise InputError(f"{place}: field query: a text is needed (as query, text or query_text)")
    return value.strip()
