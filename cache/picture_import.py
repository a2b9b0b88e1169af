"""Reading an archive of `cache.picture_archive` into the caches below a folder.

The archive may come from anybody: every header is checked before anything is written, every content before it
is stored. What is here and good stays; what is missing or damaged is filled. Folder names are found anew, as
the names may be taken here. An import that was stopped is completed by the same import.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.files import write_durably
from cache.names import is_safe_name
from cache.picture_archive import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MEMBER,
    VERSION,
    OnProgress,
)
from cache.picture_cache import PictureCache
from cache.picture_content import MAX_BYTES, legacy_problem, own_problem
from cache.picture_folder import State
from cache.picture_locks import lock_name, writing
from cache.picture_meta import MAX_META_BYTES, META_NAME, Meta, parse_meta

# What damaged and hostile archives make tarfile raise.
_READING = (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, ArithmeticError, LookupError)


@dataclass
class Imported:
    """By split: pictures added (none was there), kept (a good one was), replaced (a damaged one was) and
    refused, and misses; refused: why, over all splits."""

    splits: dict[str, Counter[str]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)


def import_archive(
    path: Path,
    data_path: Path,
    *,
    now: float,
    placeholders: Collection[str] = (),
    on_progress: OnProgress | None = None,
) -> Imported:
    """Merge the archive `path` into `data_path/<split>`. now: seconds since 1970.

    Raises:
        CacheError: not such an archive, truncated, a member that has no place in one, or a cache that cannot
            be written.
    """
    imported = Imported()
    caches: dict[str, PictureCache] = {}
    with contextlib.ExitStack() as stack:
        try:
            tar = stack.enter_context(tarfile.open(path, "r:"))
            archive = _Archive(path, tar)
        except _READING as error:
            raise CacheError(f"{path}: cannot be read as a tar archive ({_reason(error)})") from error
        for split in sorted({split for split, _ in archive.folders}):
            caches[split] = PictureCache(data_path / split, placeholders=placeholders)
            imported.splits[split] = Counter(added=0, kept=0, replaced=0, refused=0, misses=0)
        for done, (split, name) in enumerate(archive.in_order()):
            merge = _Merge(archive, caches[split], split, name, imported)
            merge.run(now)
            if on_progress:
                on_progress(done + 1, len(archive.folders))
    return imported


class _Archive:
    """An opened archive whose headers and manifest are in order."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self.path, self._tar = path, tar
        self.folders: dict[tuple[str, str], dict[str, tarfile.TarInfo]] = defaultdict(dict)
        self._digests = self._manifest(self._members())

    def in_order(self) -> list[tuple[str, str]]:
        """(split, folder): of each split first those that are a query's own, lest an unclaimed one pass for
        theirs."""
        return sorted(self.folders, key=lambda key: (key[0], META_NAME not in self.folders[key], key[1]))

    def content(self, member: tarfile.TarInfo) -> bytes | None:
        """Of a member; None if it is not what the manifest says."""
        data = self._read(member)
        return data if hashlib.sha256(data).hexdigest() == self._digests.get(member.name) else None

    def _read(self, member: tarfile.TarInfo) -> bytes:
        try:
            file = self._tar.extractfile(member)
            data = file.read() if file else b""
        except _READING as error:
            raise CacheError(f"{self.path}: {member.name}: cannot be read ({_reason(error)})") from error
        return data

    def _members(self) -> dict[str, tarfile.TarInfo]:
        """All of them, by name. Raises CacheError for one that has no place here."""
        members: dict[str, tarfile.TarInfo] = {}
        for member in self._tar:
            if len(members) > MAX_FILES:
                raise CacheError(f"{self.path}: more than {MAX_FILES:,} files")
            self._check(member)  # a negative size too, after which older tarfile modules read on for ever
            if member.name in members:
                raise CacheError(f"{self.path}: {member.name[:300]!r} is there twice")
            members[member.name] = member
        return members

    def _check(self, member: tarfile.TarInfo) -> None:
        label = f"{self.path}: member {member.name[:300]!r}"
        match = MEMBER.fullmatch(member.name)
        is_place = match and is_safe_name(match["split"]) and is_safe_name(match["folder"])
        if member.name != MANIFEST_NAME and not is_place:
            raise CacheError(f"{label}: has no place in an archive of pictures")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise CacheError(f"{label}: not a regular file")
        limits = {MANIFEST_NAME: MAX_MANIFEST_BYTES, META_NAME: MAX_META_BYTES}
        limit = limits.get(match["file"] if match else member.name, MAX_BYTES)
        if not 0 <= member.size <= limit:
            raise CacheError(f"{label}: {member.size} bytes, at most {limit} are possible")
        if match:
            self.folders[match["split"], match["folder"]][match["file"]] = member

    def _manifest(self, members: dict[str, tarfile.TarInfo]) -> Mapping[str, str]:
        """SHA-256 by member. Raises CacheError if it does not describe these members."""
        label = f"{self.path}: {MANIFEST_NAME}"
        if MANIFEST_NAME not in members:
            raise CacheError(f"{label}: missing; the archive is truncated, or not one of ours")
        try:
            values = json.loads(self._read(members.pop(MANIFEST_NAME)))
        except (ValueError, RecursionError) as error:
            raise CacheError(f"{label}: not JSON ({_reason(error)})") from error
        version = values.get("version") if isinstance(values, dict) else None
        if version != VERSION:
            raise CacheError(f"{label}: field version: {json.dumps(version)[:80]}, not {VERSION}")
        digests = values.get("files")
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise CacheError(f"{label}: field files: not a table of digests")
        if different := sorted(digests.keys() ^ members.keys()):
            raise CacheError(f"{label}: field files: {different[0][:300]!r} is not in both")
        self._check_counts(values.get("splits"), label)
        return digests

    def _check_counts(self, splits: Any, label: str) -> None:
        for split in {split for split, _ in self.folders}:
            pictures = [
                sum(name != META_NAME for name in files)
                for key, files in self.folders.items()
                if key[0] == split
            ]
            found = {"queries": sum(map(bool, pictures)), "pictures": sum(pictures)}
            said = splits.get(split) if isinstance(splits, dict) else None
            for name, count in found.items():
                if not isinstance(said, dict) or said.get(name) != count:
                    raise CacheError(f"{label}: field splits.{split}.{name}: not {count}, as in the archive")


class _Merge:
    """One folder of the archive on its way into a cache."""

    def __init__(
        self, archive: _Archive, cache: PictureCache, split: str, name: str, imported: Imported
    ) -> None:
        self._archive, self._cache, self._name = archive, cache, name
        self._files = archive.folders[split, name]
        self._counts, self._refused = imported.splits[split], imported.refused
        self._label = f"{archive.path}: {split}/{name}/{META_NAME}"

    def run(self, now: float) -> None:
        meta: Meta | None = None
        numbers = sorted(int(name.removesuffix(".jpg")) for name in self._files if name != META_NAME)
        if META_NAME in self._files:
            data = self._archive.content(self._files[META_NAME])
            try:
                meta = parse_meta(self._label, data) if data is not None else None
            except CacheError:
                meta = None
            if meta is None:  # nobody knows whose pictures these are
                return self._refuse("broken sidecar", len(numbers))
        if meta is None:
            with lock_name(self._cache.root, self._name):
                self._unclaimed(numbers)
        else:
            with self._cache.lock(meta.query):
                self._owned(meta, numbers, now)

    def _owned(self, meta: Meta, numbers: list[int], now: float) -> None:
        cache, query = self._cache, meta.query
        nothing_here = not cache.pictures(query) and cache.miss(query, now=now) is None
        for number in numbers:
            if cache.get(query, number):
                self._counts["kept"] += 1
                continue
            data = self._archive.content(self._files[f"{number}.jpg"])
            stored = meta.pictures.get(number)
            origin = stored.provenance if stored else None
            if data is None or (stored and stored.sha256 != hashlib.sha256(data).hexdigest()):
                self._refuse("damaged")
            elif problem := own_problem(data) if origin else legacy_problem(data, cache.placeholders):
                self._refuse(problem)
            else:
                self._count(cache.directory(query) / f"{number}.jpg")
                if origin:
                    cache.put(query, number, data, origin)
                else:
                    cache.adopt(query, number, data)
        if nothing_here and meta.miss and not meta.miss.expired(now):
            cache.keep_miss(query, meta.miss)
            self._counts["misses"] += 1

    def _unclaimed(self, numbers: list[int]) -> None:
        folder = self._cache.unclaimed_folder(self._name)
        if folder is None:
            return self._refuse("without sidecar, and the folder's name is taken here", len(numbers))
        for number in numbers:
            here = folder.picture(number, None, self._cache.placeholders)
            if here.state is State.GOOD:
                self._counts["kept"] += 1
                continue
            data = self._archive.content(self._files[f"{number}.jpg"])
            if data is None:
                self._refuse("damaged")
            elif problem := legacy_problem(data, self._cache.placeholders):
                self._refuse(problem)
            else:
                self._count(here.path)
                with writing(here.path):
                    write_durably(here.path, data)

    def _count(self, path: Path) -> None:
        """Before a picture is written to `path`."""
        self._counts["replaced" if path.exists() else "added"] += 1

    def _refuse(self, reason: str, pictures: int = 1) -> None:
        self._counts["refused"] += pictures
        self._refused[reason] += pictures


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]
