"""Clearing a picture cache of what `verify` finds, and of what has grown old."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import CacheError
from cache.picture_cache import Entry, PictureCache
from cache.picture_folder import State
from cache.picture_health import Kind, OnProgress, Problem, each_folder, inspect, locked, verify
from cache.picture_meta import DAY_S, META_NAME, Meta, timestamp, write_meta

REMOVED = {Kind.DAMAGED, Kind.MISSING, Kind.SENTINEL, Kind.LEFTOVER, Kind.SUSPECT, Kind.OLD, Kind.EXPIRED}


@dataclass
class Pruned:
    """What went, and what needs a human. bytes: of the removed files."""

    removed: list[Problem] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    bytes: int = 0


def prune(
    cache: PictureCache,
    *,
    now: float,
    older_than_s: float | None = None,
    suspects: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> Pruned:
    """Remove damaged pictures, stale marks, half-written files, expired misses and empty folders.

    Where a sidecar is broken, no picture is touched: nobody knows whose they are.

    Args:
        now: seconds since 1970.
        older_than_s: also pictures fetched longer ago than this (without provenance: last written).
        suspects: also what `verify` suspects to be copies of a placeholder.
        dry_run: only say what would go.

    Raises:
        CacheError: no cache there, or it cannot be written.
    """
    pruned = Pruned()
    suspected = {p.path for p in verify(cache, now=now) if p.kind is Kind.SUSPECT} if suspects else set()
    for folder in each_folder(cache, on_progress):
        with contextlib.ExitStack() as stack:
            if not dry_run:
                stack.enter_context(locked(cache, folder))
            entry = cache.entry(folder)
            found, unsigned = inspect(cache, entry, now)
            found += [problem for _, problem in unsigned if problem.path in suspected]
            if not entry.problem:
                found += _outdated(entry, cache, now, older_than_s)
            try:
                _clear(entry, _once(found), pruned, dry_run)
            except OSError as error:
                reason = error.strerror or error
                raise CacheError(f"{folder.path}: cannot be written: {reason}") from error
    return pruned


def _once(problems: list[Problem]) -> list[Problem]:
    """The first problem of each file."""
    first: dict[Path, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    return list(first.values())


def _outdated(entry: Entry, cache: PictureCache, now: float, older_than_s: float | None) -> Iterator[Problem]:
    meta = entry.meta
    if meta and meta.miss and meta.miss.expired(now):
        yield Problem(Kind.EXPIRED, entry.folder.path / META_NAME, meta.miss.reason)
    if older_than_s is None:
        return
    for number in entry.numbers:
        picture = entry.folder.picture(number, meta, cache.placeholders)
        if picture.state is not State.GOOD:
            continue
        origin = picture.stored.provenance if picture.stored else None
        when = timestamp(origin.fetched_at) if origin else picture.path.stat().st_mtime
        if now - when > older_than_s:
            yield Problem(Kind.OLD, picture.path, f"{(now - when) / DAY_S:.0f} days", number)


def _clear(entry: Entry, found: list[Problem], pruned: Pruned, dry_run: bool) -> None:
    """Remove what goes from one folder, then the folder if nothing is left of it; its lock is held."""
    folder = entry.folder
    going = [problem for problem in found if problem.kind in REMOVED]
    pruned.left += [problem for problem in found if problem.kind not in REMOVED | {Kind.EMPTY}]
    files = {problem.path for problem in going if problem.kind not in (Kind.MISSING, Kind.EXPIRED)}
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            pruned.bytes += path.lstat().st_size
            if not dry_run:
                path.unlink()
    pruned.removed += going
    meta = entry.meta and _without(entry.meta, going)
    if any(problem.kind is Kind.EMPTY for problem in found) or (
        going and not entry.problem and _is_empty(folder.names(), files, meta)
    ):
        pruned.removed.append(Problem(Kind.EMPTY, folder.path))
        if not dry_run:
            (folder.path / META_NAME).unlink(missing_ok=True)
            folder.path.rmdir()
    elif meta is not None and meta != entry.meta and not dry_run:
        write_meta(folder.path, meta)


def _is_empty(names: list[str], files: set[Path], meta: Meta | None) -> bool:
    left = set(names) - {path.name for path in files} - {META_NAME}
    return not left and not (meta and (meta.pictures or meta.miss))


def _without(meta: Meta, going: list[Problem]) -> Meta:
    gone = {problem.number for problem in going}
    pictures = {number: stored for number, stored in meta.pictures.items() if number not in gone}
    previous = {number: stored for number, stored in meta.previous.items() if number not in gone}
    expired = any(problem.kind is Kind.EXPIRED for problem in going)
    return Meta(meta.query, pictures, previous, None if expired else meta.miss)
