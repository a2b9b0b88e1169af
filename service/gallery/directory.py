"""The directory of a gallery: making it, and the lock that one writer holds."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from service.gallery import catalog, manifest
from service.gallery.manifest import Manifest
from service.gallery.types import GalleryError, GalleryLocked
from service.layout import JOURNAL_NAME, MODELS_NAME

INDEX_NAME = "index"
IMAGES_NAME = "images"
LOCK_NAME = "writer.lock"
UNCLEAN_NAME = ".unclean"  # there while a writer works; found when opening, a writer was killed
_OWN_NAMES = {manifest.FILE_NAME, INDEX_NAME, IMAGES_NAME, LOCK_NAME, UNCLEAN_NAME, MODELS_NAME}


def holds_gallery(path: Path) -> bool:
    return (path / manifest.FILE_NAME).is_file()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[FileLock]:
    """The writer's lock: still held when the block ends well, released when it raises.

    Raises GalleryLocked, or GalleryError where nothing can be written.
    """
    # Not thread-local: a service may close the gallery in another thread than the one that opened it.
    lock = FileLock(path / LOCK_NAME, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise GalleryLocked(
            f"{path}: another process is writing to this gallery (a running server counts); "
            "use the server's API, or stop it"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise GalleryError(f"{path}: cannot be written: {reason}; it can be opened read-only") from error
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def make_directory(path: Path) -> None:
    """Raises GalleryError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GalleryError(f"{path}: cannot be made: {error.strerror or error}") from error


def fill_directory(path: Path, *, model_name: str, fingerprint: str, dim: int) -> None:
    """Make an empty gallery in `path`, whose lock is held. What a killed run left there is written over.

    Raises GalleryError: there is a gallery, or something else.
    """
    if holds_gallery(path):
        raise GalleryError(f"{path}: there is a gallery here already")
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [
        name
        for name in names
        if name not in _OWN_NAMES and not name.startswith((catalog.FILE_NAME, JOURNAL_NAME, ".tmp-"))
    ]
    if foreign:
        raise GalleryError(f"{path}: is not a gallery and not empty (it holds {foreign[0]})")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    made = Manifest(manifest.SCHEMA, model_name, fingerprint, dim, uuid.uuid4().hex, now)
    catalog.create_catalog(path, made)
    manifest.write_manifest(path, made)  # last: it makes the directory a gallery
