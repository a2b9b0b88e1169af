"""The pictures of a gallery: original bytes by content, each stored once, kept while an item has it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from pathlib import Path

from cache.blob_store import BlobStore
from service.gallery.types import Row, StoredImage, sniff_mime
from service.gallery.view import View


class Pictures:
    """Pictures are put before the transaction that refers to them. Until then they are pinned, so that the
    deletion of another item with the same picture does not take it away. Each `put` has a pin of its own: an
    item that refers to the same picture otherwise does not undo it."""

    def __init__(self, root: Path) -> None:
        self._blobs = BlobStore(root)
        self._pinned: dict[int, str] = {}  # digest by pin
        self._next_pin = itertools.count()
        self._lock = threading.Lock()

    def put(self, data: bytes) -> StoredImage:
        """Store and pin a picture; durable when it returns. Raises CacheError if it cannot be written."""
        sha256 = BlobStore.digest(data)
        with self._lock:
            pin = next(self._next_pin)
            self._pinned[pin] = sha256
        self._blobs.put(data)
        return StoredImage(sha256, sniff_mime(data), pin)

    def unpin(self, images: Iterable[StoredImage]) -> None:
        """These are referred to by a committed item now. Those without a pin stay as they are."""
        with self._lock:
            for image in images:
                if image.pin is not None:
                    self._pinned.pop(image.pin, None)

    def release(self, image: StoredImage, view: View) -> None:
        """This one was put, and no item will refer to it after all."""
        self.unpin([image])
        self.drop([image.sha256], view)

    def release_all(self, view: View) -> None:
        """No item will refer to what is still pinned."""
        with self._lock:
            pinned, self._pinned = set(self._pinned.values()), {}
        self.drop(pinned, view)

    def drop(self, digests: Iterable[str], view: View) -> None:
        """Remove those that no item has and nobody has pinned."""
        for sha256 in digests:
            with self._lock:
                if sha256 not in self._pinned.values() and not view.has_image(sha256):
                    self._blobs.remove(sha256)

    def sweep(self, view: View) -> int:
        """Remove everything that no item has, and what interrupted writes left; how many files."""
        return self._blobs.sweep(view.has_image)

    def __contains__(self, image: StoredImage) -> bool:
        return image.sha256 in self._blobs

    def path(self, row: Row) -> Path | None:
        path = None if row.image_sha256 is None else self._blobs.path(row.image_sha256)
        return path if path is not None and path.is_file() else None

    def read(self, row: Row) -> bytes | None:
        return None if row.image_sha256 is None else self._blobs.get(row.image_sha256)
