"""Crawled pictures on disk: `<root>/<folder of the query>/<n>.jpg`, as Online-CNCLIP's code reads and writes
them, with a sidecar that says whose they are and what they must be.

A picture is complete or missing, whoever is killed when. Several processes may write; reading needs no lock.
Reading never makes or changes a file. Several queries may have one plain folder name, so a plain folder whose
sidecar cannot be used is nobody's: it is neither read nor written. A hashed folder is its query's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cache.errors import CacheError
from cache.files import sync_directory, write_durably
from cache.names import canonical, directory_name, hashed_name, plain_name
from cache.picture_content import Look, own_problem, placeholder_look
from cache.picture_folder import Folder, FolderNames, Picture, State, folders, is_fresh
from cache.picture_locks import LOCK_TIMEOUT_S, lock_name, writing
from cache.picture_meta import (
    MAX_NUMBER,
    ForeignSidecarError,
    Meta,
    Miss,
    Provenance,
    Stored,
    write_meta,
)

__all__ = ["Entry", "Miss", "PictureCache", "Provenance"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 5  # to read a folder that a writer is changing


@dataclass(frozen=True)
class Entry:
    """One folder, as `PictureCache.queries` lists it. query: None where no usable sidecar says whose it is.
    numbers: of the pictures that have a file, good or not. problem: what is wrong with its sidecar."""

    folder: Folder
    query: str | None
    meta: Meta | None
    numbers: tuple[int, ...]
    problem: str = ""


class PictureCache:
    """The pictures of one split.

    Args:
        root: the split's folder, e.g. DATAPATH/valid; made when something is first stored.
        placeholders: hashes by `placeholder_look` of pictures that stand for none. `assets/fail.jpg` beside
            the root or in the working directory is known without being named.
    """

    def __init__(self, root: str | Path, *, placeholders: Collection[str] = ()) -> None:
        self.root = Path(root)
        self._given = tuple(Look.parse(text) for text in placeholders)
        self._names = FolderNames(self.root)

    @cached_property
    def placeholders(self) -> tuple[Look, ...]:
        """What files without a sidecar must not look like."""
        found = {*self._given}
        for assets in (self.root.absolute().parent, Path.cwd()):
            path = assets / "assets" / "fail.jpg"
            if path.is_file():
                try:
                    found.add(Look.parse(placeholder_look(path)))
                except CacheError as error:
                    logger.warning("%s", error)
        return tuple(found)

    # Reading

    def directory(self, query: str) -> Path:
        """Where the query's pictures are, or would be if it were stored now."""
        folder, _ = self._locate(query)
        return folder.path if folder else self.root / self._free_name(query)

    def get(self, query: str, number: int) -> Path | None:
        """A good picture's file, or None. Never raises for damaged files."""
        picture = self.picture(query, number)
        return picture.path if picture else None

    def picture(self, query: str, number: int) -> Picture | None:
        """A good picture with its bytes, read once, and what the sidecar says of them; or None. What does not
        fit together is read again while somebody is writing there."""
        seen = self._locate(query)
        for _ in range(_ATTEMPTS):
            folder, meta = seen
            if folder is None:
                return None
            picture = folder.picture(number, meta, self.placeholders)
            if picture.state is State.GOOD:
                return picture
            now = self._locate(query)
            if now == seen:
                return None
            seen = now
        return None

    def pictures(self, query: str) -> dict[int, Path]:
        """All good pictures of the query, by number."""
        folder, _ = self._locate(query)
        found = ((number, self.get(query, number)) for number in (folder.numbers() if folder else []))
        return {number: path for number, path in found if path is not None}

    def provenance(self, query: str, number: int) -> Provenance | None:
        """Where a good picture came from; None if there is none, or Online-CNCLIP's code wrote it."""
        picture = self.picture(query, number)
        return picture.stored.provenance if picture and picture.stored else None

    def miss(self, query: str, *, now: float | None = None) -> Miss | None:
        """What was found instead of pictures, unless it has expired by `now` (default: this moment)."""
        _, meta = self._locate(query)
        if meta is None or meta.miss is None or meta.miss.expired(time.time() if now is None else now):
            return None
        return meta.miss

    def unfinished(self, query: str, number: int, *, now: float | None = None) -> bool:
        """Whether another tool seems to be at work on this picture: its mark `0_<n>.jpg` is fresh."""
        folder, _ = self._locate(query)
        mark = f"0_{number}.jpg"
        return folder is not None and is_fresh(folder.path / mark, time.time() if now is None else now)

    def queries(self) -> Iterator[Entry]:
        """Every folder, by name. Raises CacheError if `root` cannot be read."""
        return (self.entry(folder) for folder in folders(self.root))

    def entry(self, folder: Folder) -> Entry:
        """What is in a folder now."""
        if not folder.exists():
            return Entry(folder, None, None, (), f"{folder.path}: a link that leads out of the cache")
        try:
            meta = folder.meta()
        except CacheError as error:
            return Entry(folder, None, None, tuple(folder.numbers()), str(error))
        return Entry(folder, meta.query if meta else None, meta, tuple(folder.numbers()))

    # Writing

    def put(self, query: str, number: int, jpeg: bytes, provenance: Provenance) -> Path:
        """Store a picture, on disk when it returns; the query's miss is forgotten.

        Raises:
            ForeignSidecarError: the query's hashed folder has a sidecar that must be left alone.
            CacheError: not a 224 x 224 RGB JPEG, a bad number, or it cannot be written.
        """
        if problem := own_problem(jpeg):
            raise CacheError(f"picture {number} of {query[:80]!r}: {problem}")
        stored = Stored(hashlib.sha256(jpeg).hexdigest(), provenance)
        return self._put(query, number, jpeg, stored)

    def adopt(self, query: str, number: int, data: bytes) -> Path:
        """Store a picture without provenance, as Online-CNCLIP's code would have. Raises CacheError."""
        return self._put(query, number, data, Stored(hashlib.sha256(data).hexdigest(), None))

    def unclaimed_folder(self, name: str) -> Folder | None:
        """The folder `name` that is no query's own, made if need be; None if the name is taken. For pictures
        of which nobody knows the exact query; `lock_name` is held. Raises CacheError."""
        folder = Folder(self.root / name, self.root)
        if folder.exists():
            entry = self.entry(folder)
            return None if entry.query is not None or entry.problem else folder
        if self._names.clashes(name):
            return None
        with writing(self.root):
            self._names.make(name)
            sync_directory(self.root)
        return folder

    def put_miss(self, query: str, reason: str, detail: str, *, now: float) -> Miss:
        """Remember until it expires that the query has no (further) picture. now: seconds since 1970.

        Raises:
            ValueError: for a reason that `cache.picture_meta.EXPIRY_DAYS` does not have.
            CacheError: it cannot be written.
        """
        miss = Miss.new(reason, detail, now)
        self.keep_miss(query, miss)
        return miss

    def keep_miss(self, query: str, miss: Miss) -> None:
        """Store a miss as it is. Raises CacheError."""
        with self.lock(query), writing(self.root):
            folder, meta = self._claim(query)
            write_meta(folder.path, replace(meta, miss=miss))

    @contextlib.contextmanager
    def lock(self, query: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Keep all other writers of this query out, in other threads and processes; the same thread may enter
        again. Raises CacheError after `timeout_s` seconds."""
        with lock_name(self.root, directory_name(query), timeout_s):
            yield

    # How

    def _locate(self, query: str) -> tuple[Folder | None, Meta | None]:
        """The query's own folder and its sidecar; else one that may be read for it, and None: the plain one
        without sidecar, or the hashed one without a usable sidecar, as it can be no other query's."""
        query = canonical(query)
        hashed = hashed_name(query)
        unclaimed: Folder | None = None
        for name in dict.fromkeys((directory_name(query), hashed)):
            folder = Folder(self.root / name, self.root)
            if not folder.exists():
                continue
            try:
                meta = folder.meta()
            except CacheError:
                if name != hashed:
                    continue  # nobody knows whose pictures those are
                meta = None
            if meta is not None and meta.query == query:
                return folder, meta
            if meta is None:
                unclaimed = folder  # the hashed name wins: no other query has it
        return unclaimed, None

    def _put(self, query: str, number: int, data: bytes, stored: Stored) -> Path:
        if not 1 <= number <= MAX_NUMBER:
            raise CacheError(f"picture {number} of {query[:80]!r}: numbers go from 1 to {MAX_NUMBER}")
        with self.lock(query), writing(self.root):
            folder, meta = self._claim(query)
            old = folder.picture(number, meta, self.placeholders)
            previous = {n: kept for n, kept in meta.previous.items() if n != number}
            meta = Meta(meta.query, {**meta.pictures, number: stored}, previous)
            replaces = old.state is State.GOOD
            if replaces:
                kept = old.stored or Stored(hashlib.sha256(old.data).hexdigest(), None)
                previous = {**previous, number: kept}
            write_meta(folder.path, replace(meta, previous=previous))
            write_durably(old.path, data)
            if replaces:
                write_meta(folder.path, meta)
            (folder.path / f"0_{number}.jpg").unlink(missing_ok=True)
        return old.path

    def _claim(self, query: str) -> tuple[Folder, Meta]:
        """The query's own folder, made or taken over if need be, and its sidecar, to be written next.
        The lock is held. Raises ForeignSidecarError."""
        for _ in range(_ATTEMPTS):
            folder, meta = self._locate(query)
            if folder is None:
                try:
                    folder = self._make(query)
                except FileExistsError:
                    continue  # another tool was quicker; its folder is looked at
            elif meta is None:
                _refuse_foreign(folder)
            return folder, meta or Meta(canonical(query))
        raise CacheError(f"{self.root}: no folder can be made for {query[:80]!r}")

    def _make(self, query: str) -> Folder:
        """A new folder, on disk."""
        path = self.root / self._free_name(query)
        if path.name in self._names:
            raise CacheError(f"{path}: cannot be used for {query[:80]!r}, something else has this name")
        self._names.make(path.name)
        sync_directory(self.root)
        return Folder(path, self.root)

    def _free_name(self, query: str) -> str:
        """The name that a new folder of the query gets."""
        plain = plain_name(query)
        return plain if plain is not None and not self._names.clashes(plain) else hashed_name(query)


def _refuse_foreign(folder: Folder) -> None:
    """Raises ForeignSidecarError; any other sidecar may be written anew."""
    try:
        folder.meta()
    except ForeignSidecarError:
        raise
    except CacheError as error:
        logger.warning("%s; a new one is written", error)
