"""One file for one or several splits of a picture cache, to carry crawled pictures to another machine.

A plain tar: `<split>/<folder>/meta.json`, `<split>/<folder>/<n>.jpg`, and at the end `manifest.json`:

    {"version": 1, "splits": {"valid": {"queries": 2, "pictures": 3, "misses": 1}},
     "files": {"valid/红裙/1.jpg": "<sha256>", …}}

The same pictures give the same bytes. Only good pictures travel.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import CacheError
from cache.files import open_durably
from cache.names import is_safe_name
from cache.picture_cache import PictureCache
from cache.picture_folder import Folder, State, folders
from cache.picture_locks import writing
from cache.picture_meta import META_NAME, Meta, Stored, dump_meta

VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64_000_000
MAX_FILES = 400_000
MEMBER = re.compile(
    r"(?P<split>[^/]+)/(?P<folder>[^/]+)/(?P<file>meta\.json|(?P<number>[1-9][0-9]{0,2})\.jpg)"
)
OnProgress = Callable[[int, int], None]  # folders done, all


@dataclass
class Exported:
    """What went into an archive, by split: queries, pictures, misses. left_out: pictures that are not good,
    and folders whose name cannot travel, by reason."""

    splits: dict[str, Counter[str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


def export_archive(
    caches: Sequence[PictureCache], out: Path, on_progress: OnProgress | None = None
) -> Exported:
    """Write the splits of `caches` to `out`, complete or not at all; a split is called as its folder.

    Raises:
        CacheError: no cache there, two of one name, a broken sidecar, too much for one archive, or `out`
            cannot be written.
    """
    by_name: dict[str, PictureCache] = {}
    for cache in caches:
        name = cache.root.resolve().name
        if name in by_name:
            raise CacheError(f"{cache.root}: a second split called {name}")
        if not is_safe_name(name):
            raise CacheError(f"{cache.root}: its name cannot be that of a split")
        by_name[name] = cache
    work = [(name, folder) for name in sorted(by_name) for folder in folders(by_name[name].root)]
    exported = Exported({name: Counter(queries=0, pictures=0, misses=0) for name in sorted(by_name)})
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(out))
        file = stack.enter_context(open_durably(out))
        writer = _Writer(stack.enter_context(tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)))
        for done, (split, folder) in enumerate(work):
            _export_folder(writer, by_name[split], split, folder, exported)
            if on_progress:
                on_progress(done + 1, len(work))
        writer.add_manifest(exported)
    exported.bytes = out.stat().st_size
    return exported


def _export_folder(
    writer: _Writer, cache: PictureCache, split: str, folder: Folder, exported: Exported
) -> None:
    meta, pictures, bad = _snapshot(cache, folder)
    exported.left_out.update(bad)
    miss = meta.miss if meta else None
    if not pictures and miss is None:
        return
    if not is_safe_name(folder.name):
        exported.left_out["name that cannot travel"] += 1
        return
    base = f"{split}/{folder.name}"
    if meta is not None:
        signed = {number: stored for number, (_, stored) in pictures.items() if stored is not None}
        writer.add(f"{base}/{META_NAME}", dump_meta(Meta(meta.query, signed, {}, miss)))
    for number, (data, _) in pictures.items():
        writer.add(f"{base}/{number}.jpg", data)
    counts = exported.splits[split]
    counts["queries"] += bool(pictures)
    counts["pictures"] += len(pictures)
    counts["misses"] += miss is not None


def _snapshot(
    cache: PictureCache, folder: Folder
) -> tuple[Meta | None, dict[int, tuple[bytes, Stored | None]], Counter[str]]:
    """The sidecar and the good pictures that go with it, and why others do not."""
    while True:
        entry = cache.entry(folder)
        if not folder.exists():
            return None, {}, Counter({"a link that leads out of the cache": 1})
        if entry.problem:
            raise CacheError(entry.problem)
        pictures, bad = {}, Counter[str]()
        for number in entry.numbers:
            picture = folder.picture(number, entry.meta, cache.placeholders)
            if picture.state is State.GOOD:
                pictures[number] = picture.data, picture.stored
            else:
                bad[picture.problem] += 1
        if not bad or cache.entry(folder) == entry:  # else somebody is writing here
            return entry.meta, pictures, bad


class _Writer:
    """Adds files to a tar so that only names and contents matter, and keeps the manifest."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._digests: dict[str, str] = {}

    def add(self, name: str, data: bytes) -> None:
        if len(self._digests) >= MAX_FILES:
            raise CacheError(f"more than {MAX_FILES:,} files: export the splits one by one")
        self._digests[name] = hashlib.sha256(data).hexdigest()
        self._add(name, data)

    def add_manifest(self, exported: Exported) -> None:
        splits = {name: dict(counts) for name, counts in exported.splits.items()}
        manifest = {"version": VERSION, "splits": splits, "files": self._digests}
        self._add(MANIFEST_NAME, json.dumps(manifest, ensure_ascii=False, indent=1).encode())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # time 0, no owner
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))
