"""The pictures of a gallery: original bytes by content, each stored once, kept while an item has it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cache.blob_store import BlobStore
from service.gallery.types import Row, StoredImage, sniff_mime
from service.gallery.view import View


class Pictures:
    """Pictures are put before the transaction that refers to them. Until then they are pinned, so that the
    deletion of another item with the same picture does not take it away."""

    def __init__(self, root: Path) -> None:
        self._blobs = BlobStore(root)
        self._pinned: Counter[str] = Counter()
        self._lock = threading.Lock()

    def put(self, data: bytes) -> StoredImage:
        """Store and pin a picture; durable when it returns. Raises CacheError if it cannot be written."""
        image = StoredImage(BlobStore.digest(data), sniff_mime(data))
        with self._lock:
            self._pinned[image.sha256] += 1
        self._blobs.put(data)
        return image

    def unpin(self, images: Iterable[StoredImage]) -> None:
        """These are referred to by a committed item now."""
        with self._lock:
            self._pinned -= Counter(image.sha256 for image in images)

    def release(self, image: StoredImage, view: View) -> None:
        """This one was put, and no item will refer to it after all."""
        self.unpin([image])
        self.drop([image.sha256], view)

    def release_all(self, view: View) -> None:
        """No item will refer to what is still pinned."""
        with self._lock:
            pinned, self._pinned = set(self._pinned), Counter()
        self.drop(pinned, view)

    def drop(self, digests: Iterable[str], view: View) -> None:
        """Remove those that no item has and nobody has pinned."""
        for sha256 in digests:
            with self._lock:
                if sha256 not in self._pinned and not view.has_image(sha256):
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
