"""Content-addressed files: the bytes with SHA-256 `ab12…` are the file `ab/ab12…`.

A blob is complete or absent: it is written to a temporary file, synced, and renamed. The same bytes are
stored once, whoever brings them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from cache.errors import CacheError
from cache.files import TEMPORARY_PREFIX, write_durably

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """Blobs below the directory `root`, which is made when the first blob is put."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest (SHA-256, hex); durable when it returns.

        A stored blob that was damaged meanwhile is replaced. Raises CacheError if it cannot be written.
        """
        digest = self.digest(data)
        path = self.path(digest)
        try:
            if path.is_file() and path.read_bytes() == data:
                return digest
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, data)
        except OSError as error:
            raise CacheError(f"{path}: cannot be written: {error.strerror or error}") from error
        return digest

    @staticmethod
    def digest(data: bytes) -> str:
        """The digest under which `data` is stored."""
        return hashlib.sha256(data).hexdigest()

    def get(self, digest: str) -> bytes:
        """The bytes with this digest, verified. Raises CacheError if they are missing or damaged."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise CacheError(f"{path}: damaged (its content does not match its name)")
        return data

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises CacheError if `digest` is not 64 lower-case hex digits."""
        if not _DIGEST.fullmatch(digest):
            raise CacheError(f"not a SHA-256 digest: {digest[:80]!r}")
        return self.root / digest[:2] / digest

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def __iter__(self) -> Iterator[str]:
        """Digests of all blobs, in no order."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if _DIGEST.fullmatch(path.name):
                yield path.name

    def remove(self, digest: str) -> bool:
        """Remove a blob; whether there was one."""
        try:
            self.path(digest).unlink()
        except FileNotFoundError:
            return False
        return True

    def sweep(self, keep: Callable[[str], bool]) -> int:
        """Remove every blob that `keep` does not want, and what interrupted writes left; how many files.

        Nobody may put blobs meanwhile.
        """
        leftovers = list(self.root.glob(f"[0-9a-f][0-9a-f]/{TEMPORARY_PREFIX}*"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        unwanted = [digest for digest in self if not keep(digest)]
        return len(leftovers) + sum(self.remove(digest) for digest in unwanted)
