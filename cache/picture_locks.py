"""Locks of a picture cache: one writer per query, in all threads and processes of a machine."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cache.errors import CacheError
from cache.names import clash_key
from cache.picture_folder import Folder

LOCKS = ".locks"
LOCK_TIMEOUT_S = 60.0


@contextlib.contextmanager
def lock_name(root: Path, name: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Keep all other writers of the folder `name` out, and of every name that some file system takes for it.
    The same thread may enter again. Raises CacheError after `timeout_s` seconds."""
    # 256 files for any number of queries; now and then one waits for another.
    stripe = hashlib.sha1(clash_key(name).encode("utf-8", "surrogatepass")).hexdigest()[:2]
    path = root / LOCKS / f"{stripe}.lock"
    with writing(path):
        if Folder(path.parent, root).leads_out(path.parent):
            raise CacheError(f"{path.parent}: a link that leads out of the cache")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, is_singleton=True)  # one for all caches of this root in the process
        try:
            lock.acquire(timeout=timeout_s)
        except Timeout:
            raise CacheError(
                f"{root}: another process has been at work on {name[:80]!r} for {timeout_s:g} s"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns OSError into CacheError."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"{path}: cannot be written: {error.strerror or error}") from error
