"""One query's folder: `<n>.jpg`, `meta.json`, and what others left there.

Only reading; nothing here raises for damaged files, except where a broken sidecar is asked for. A link that
leads out of the cache is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cache.errors import CacheError
from cache.files import TEMPORARY_PREFIX
from cache.names import clash_key
from cache.picture_content import MAX_BYTES, Look, legacy_problem
from cache.picture_meta import (
    MAX_META_BYTES,
    META_NAME,
    ForeignSidecarError,
    Meta,
    Stored,
    parse_meta,
)

# Online-CNCLIP's code marks a picture it is working on, and a failure leaves the mark there for ever.
UNFINISHED_S = 600.0  # after that it is nobody's; also for temporary files and folders just made
_PICTURE = re.compile(r"([1-9][0-9]{0,2})\.jpg")
_SENTINEL = re.compile(r"0_([1-9][0-9]{0,2})\.jpg")


class State(str, Enum):
    """What a picture's file is."""

    GOOD = "good"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Picture:
    """A picture's file, looked at. data: its bytes. stored: the sidecar's entry that they match, None for one
    by Online-CNCLIP's code. problem: why it is not good."""

    path: Path
    state: State
    data: bytes = b""
    stored: Stored | None = None
    problem: str = ""


@dataclass(frozen=True)
class Folder:
    """The folder `path`, directly below the cache's `root`."""

    path: Path
    root: Path

    @property
    def name(self) -> str:
        return self.path.name

    def exists(self) -> bool:
        try:
            return self.path.is_dir() and not self.leads_out(self.path)
        except OSError:
            return False

    def leads_out(self, path: Path) -> bool:
        """Whether `path`, in or at this folder, is a link to somewhere outside the cache."""
        return path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve())

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        """The content of a file here, cut off after `max_bytes` + 1; None if it is no regular file of the
        cache, or cannot be read."""
        path = self.path / name
        try:
            # A pipe would be waited for, and a device read without end.
            if not stat.S_ISREG(path.stat().st_mode) or self.leads_out(path):
                return None
            with path.open("rb") as file:
                return file.read(max_bytes + 1)
        except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
            return None

    def meta(self) -> Meta | None:
        """The sidecar; None if there is none. Raises CacheError for a broken one, naming file and field."""
        path = self.path / META_NAME
        data = self.read(META_NAME, MAX_META_BYTES)
        if data is None and os.path.lexists(path):
            data = self.read(META_NAME, MAX_META_BYTES)  # it may have come this moment
            if data is None:
                raise ForeignSidecarError(f"{path}: cannot be read, or is not a file of this cache")
        return None if data is None else parse_meta(path, data)

    def numbers(self) -> list[int]:
        """Pictures that have a file, good or not, ascending."""
        return sorted(int(match[1]) for name in self.names() if (match := _PICTURE.fullmatch(name)))

    def picture(self, number: int, meta: Meta | None, placeholders: tuple[Look, ...]) -> Picture:
        """Look at a picture: its bytes must be those in the sidecar, if it has an entry there; where nothing
        tells its origin it must pass for a picture."""
        path = self.path / f"{number}.jpg"
        data = self.read(path.name)
        if data is None:
            problem = "not a file of this cache" if os.path.lexists(path) else "no file"
            return Picture(path, State.MISSING, problem=problem)
        digest = hashlib.sha256(data).hexdigest()
        entries = meta.entries(number) if meta else []
        stored = next((entry for entry in entries if entry.sha256 == digest), None)
        if entries and stored is None:
            return Picture(path, State.DAMAGED, data, problem="not the content that its sidecar names")
        if stored is not None and stored.provenance is not None:
            return Picture(path, State.GOOD, data, stored)
        problem = legacy_problem(data, placeholders)
        return Picture(path, State.DAMAGED if problem else State.GOOD, data, stored, problem)

    def sentinels(self) -> list[tuple[int, Path]]:
        """Marks `0_<n>.jpg` of another tool, with their n."""
        return [
            (int(match[1]), self.path / name) for name in self.names() if (match := _SENTINEL.fullmatch(name))
        ]

    def leftovers(self) -> list[Path]:
        """What killed writers left half-written."""
        return [self.path / name for name in self.names() if name.startswith(TEMPORARY_PREFIX)]

    def names(self) -> list[str]:
        """Of everything in the folder, sorted."""
        try:
            return sorted(path.name for path in self.path.iterdir())
        except OSError:
            return []


class FolderNames:
    """The names below `root`, listed again when something changed there; thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: set[str] = set()
        self._keys: set[str] = set()
        self._as_of: int | None = None  # the root's time of change when it was listed
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        with self._lock:
            self._refresh()
            return name in self._names

    def clashes(self, name: str) -> bool:
        """Whether there is this name, or one that some file system takes for it."""
        with self._lock:
            self._refresh()
            return clash_key(name) in self._keys

    def make(self, name: str) -> None:
        """Make the folder `name`. Raises OSError; FileExistsError if somebody else made it just now."""
        with self._lock:
            self._refresh()
            try:
                (self._root / name).mkdir()
            except FileExistsError:
                self._as_of = None  # two changes within one tick of the file system's clock
                raise
            self._add(name)
            self._as_of = self._root.stat().st_mtime_ns

    def _refresh(self) -> None:
        try:
            changed = self._root.stat().st_mtime_ns
            if changed != self._as_of:
                self._names, self._keys = set(), set()
                for path in self._root.iterdir():
                    self._add(path.name)
                self._as_of = changed
        except OSError:
            self._names, self._keys, self._as_of = set(), set(), None

    def _add(self, name: str) -> None:
        self._names.add(name)
        self._keys.add(clash_key(name))


def is_fresh(path: Path, now: float) -> bool:
    """Whether somebody may still be at work on `path`: changed within UNFINISHED_S of `now` (seconds since
    1970). A clock that is ahead by more does not keep a file for ever."""
    try:
        return abs(now - path.lstat().st_mtime) < UNFINISHED_S
    except OSError:
        return False


def folders(root: Path) -> Iterator[Folder]:
    """Everything below `root` that is or may be a query's folder, by name; links that lead out too."""
    try:
        paths = sorted(root.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise CacheError(f"{root}: cannot be read: {error.strerror or error}") from error
    for path in paths:
        if not path.name.startswith(".") and (path.is_dir() or path.is_symlink()):
            yield Folder(path, root)
