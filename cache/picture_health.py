"""What is in a picture cache, what is wrong with it, and clearing that away."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.names import directory_name, hashed_name
from cache.picture_cache import Entry, PictureCache
from cache.picture_folder import Folder, State, folders, is_fresh
from cache.picture_locks import LOCKS, lock_name
from cache.picture_meta import META_NAME, timestamp

SUSPECT_QUERIES = 3  # as many queries with one and the same file make it suspect
OnProgress = Callable[[int, int], None]  # folders done, all


class Kind(str, Enum):
    """What can be wrong."""

    SIDECAR = "broken sidecar"
    LINK = "leads out"
    MISPLACED = "misplaced"  # in a folder where its query is not looked for
    DAMAGED = "damaged"
    MISSING = "missing"  # in the sidecar, but no file: a writer was killed
    SUSPECT = "suspect"
    SENTINEL = "stale mark"
    LEFTOVER = "half-written"
    EMPTY = "empty folder"
    OLD = "too old"  # for prune only
    EXPIRED = "expired miss"  # for prune only


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. number: of the picture, if it is about one."""

    kind: Kind
    path: Path
    detail: str = ""
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.kind.value}{f': {self.detail}' if self.detail else ''}"


@dataclass
class Stats:
    """Counts of one cache. queries: folders with a picture; pictures: files, good or not. by_number: queries
    that have picture n. misses: unexpired, by reason. sources: pictures by source, "unknown" without sidecar.
    oldest, newest: ISO 8601 times of fetching. broken: what is wrong with folders that tell nothing."""

    queries: int = 0
    pictures: int = 0
    by_number: Counter[int] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    bytes: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    oldest: str | None = None
    newest: str | None = None
    broken: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in a fixed order."""
        values = asdict(self)
        numbers = range(1, max([5, *self.by_number]) + 1)
        values["by_number"] = {str(number): self.by_number[number] for number in numbers}
        values["misses"] = dict(sorted(self.misses.items()))
        values["sources"] = dict(sorted(self.sources.items()))
        return values


def stats(cache: PictureCache, *, now: float) -> Stats:
    """Count, without reading the pictures. now: seconds since 1970. Raises CacheError without a cache."""
    counts = Stats()
    times: set[str] = set()
    for entry in cache.queries():
        counts.broken += [entry.problem] if entry.problem else []
        counts.queries += bool(entry.numbers)
        counts.pictures += len(entry.numbers)
        counts.by_number.update(entry.numbers)
        for number in entry.numbers:
            with contextlib.suppress(OSError):
                counts.bytes += (entry.folder.path / f"{number}.jpg").stat().st_size
            stored = entry.meta.pictures.get(number) if entry.meta else None
            origin = stored.provenance if stored else None
            counts.sources[origin.source if origin else "unknown"] += 1
            if origin:
                times.add(origin.fetched_at)
        if entry.meta and entry.meta.miss:
            if entry.meta.miss.expired(now):
                counts.expired += 1
            else:
                counts.misses[entry.meta.miss.reason] += 1
    ordered = sorted(times, key=timestamp)
    counts.oldest, counts.newest = (ordered[0], ordered[-1]) if ordered else (None, None)
    return counts


def verify(cache: PictureCache, *, now: float, on_progress: OnProgress | None = None) -> list[Problem]:
    """Everything that is wrong, by folder; every picture is read. Raises CacheError without a cache."""
    problems: list[Problem] = []
    copies: dict[str, list[Problem]] = defaultdict(list)
    for folder in each_folder(cache, on_progress):
        found, unsigned = inspect(cache, cache.entry(folder), now)
        # A writer between its two files looks like one that was killed there.
        if found and (cache.root / LOCKS).is_dir():
            with contextlib.suppress(CacheError), locked(cache, folder):
                found, unsigned = inspect(cache, cache.entry(folder), now)
        problems += found
        for digest, problem in unsigned:
            copies[digest].append(problem)
    for same in copies.values():
        queries = len({problem.path.parent for problem in same})
        if queries >= SUSPECT_QUERIES:
            detail = f"one file under {queries} queries, of unknown origin"
            problems += [replace(problem, detail=detail) for problem in same]
    return sorted(problems, key=lambda problem: problem.path.parts)


def inspect(cache: PictureCache, entry: Entry, now: float) -> tuple[list[Problem], list[tuple[str, Problem]]]:
    """What is wrong in one folder; and its good pictures of unknown origin, with their SHA-256, as the
    problems that they become if other queries have the same file."""
    folder, meta = entry.folder, entry.meta
    if not folder.exists():
        return [Problem(Kind.LINK, folder.path, "a link that leads out of the cache")], []
    found = [Problem(Kind.SENTINEL, path) for _, path in folder.sentinels() if not is_fresh(path, now)]
    found += [Problem(Kind.LEFTOVER, path) for path in folder.leftovers() if not is_fresh(path, now)]
    if entry.problem:
        path = folder.path / META_NAME
        return [Problem(Kind.SIDECAR, path, entry.problem.removeprefix(f"{path}: ")), *found], []
    unsigned = []
    busy = {number for number, path in folder.sentinels() if is_fresh(path, now)}
    for number in sorted({*entry.numbers, *(meta.pictures if meta else ())} - busy):
        picture = folder.picture(number, meta, cache.placeholders)
        if picture.state is not State.GOOD:
            there = picture.state is State.MISSING and number in entry.numbers
            kind = Kind.LINK if there else Kind[picture.state.name]
            found.append(Problem(kind, picture.path, picture.problem, number))
        elif picture.stored is None or picture.stored.provenance is None:
            digest = hashlib.sha256(picture.data).hexdigest()
            unsigned.append((digest, Problem(Kind.SUSPECT, picture.path, number=number)))
    if meta and folder.name not in (directory_name(meta.query), hashed_name(meta.query)):
        found.append(Problem(Kind.MISPLACED, folder.path, f"{meta.query[:80]!r} is not looked for here"))
    says_nothing = meta is None or not (meta.miss or meta.pictures)
    if says_nothing and not set(folder.names()) - {META_NAME} and not is_fresh(folder.path, now):
        found.append(Problem(Kind.EMPTY, folder.path))
    return found, unsigned


def each_folder(cache: PictureCache, on_progress: OnProgress | None) -> Iterator[Folder]:
    """Every folder of the cache, telling how far we are."""
    every = list(folders(cache.root))
    for done, folder in enumerate(every):
        yield folder
        if on_progress:
            on_progress(done + 1, len(every))


@contextlib.contextmanager
def locked(cache: PictureCache, folder: Folder) -> Iterator[None]:
    """Keep writers out of a folder. Raises CacheError."""
    query = cache.entry(folder).query
    with lock_name(cache.root, folder.name if query is None else directory_name(query)):
        yield
