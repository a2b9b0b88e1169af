"""A gallery on disk: `Gallery.create`, `Gallery.open`, `upsert`, `delete`, `search`.

    manifest.json    what it is                          (manifest.py)
    catalog.sqlite   the source of truth                 (catalog.py)
    index/           a saved vector index, derived       (live_index.py, index_store.py)
    images/          pictures by content                 (cache/blob_store.py)
    writer.lock      held by the one process that writes

Order of writes: pictures, then the transaction, then the index in memory; pictures that no item has any more
go last. A kill between any two leaves at most unreferenced pictures, which the next writer sweeps away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from service.gallery import directory
from service.gallery.catalog import Catalog
from service.gallery.live_index import LiveIndex
from service.gallery.manifest import read_manifest, write_manifest
from service.gallery.model_ref import ModelRef, ModelState, healed, read_state
from service.gallery.pictures import Pictures
from service.gallery.reading import GalleryReader, check_unchanged
from service.gallery.searching import FilterMasks
from service.gallery.switching import Switch, SwitchParts
from service.gallery.types import GalleryError, Item, StoredImage, UpsertResult
from service.gallery.writing import CheckedItem, delete_items, label_folder, write_items

logger = logging.getLogger(__name__)


class Gallery(GalleryReader):
    """One opened gallery. Any number of threads may search while one at a time writes.

    A request sees one revision of everything: it reads inside one transaction, with the index of that
    revision. What another process commits is seen by the next request.
    """

    def __init__(self, path: Path, lock: FileLock | None, expected: tuple[str, str | None] | None) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.manifest = read_manifest(path)
        self._lock = lock
        self._pictures = Pictures(path / directory.IMAGES_NAME)
        self._write_lock = threading.RLock()
        self._masks = FilterMasks()
        self._catalog = Catalog(path, self.manifest, read_only=lock is None)
        try:
            self._heal_manifest()
            if expected is not None:
                self.check_model(*expected)
            if lock is not None:
                self._recover()
            self._index = LiveIndex(path / directory.INDEX_NAME, self.manifest.dim, self._catalog)
        except BaseException:
            self._catalog.close()
            raise

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether there is a gallery at `path`."""
        return directory.holds_gallery(Path(path))

    @classmethod
    def create(cls, path: str | Path, *, model_name: str, fingerprint: str, dim: int) -> Gallery:
        """Make an empty gallery for the vectors of one model, and open it for writing.

        Raises:
            GalleryError: there is something at `path` already, or it cannot be written.
            GalleryLocked: another process is making it.
        """
        path = Path(path)
        directory.make_directory(path)
        with directory.locked(path) as lock:
            directory.fill_directory(path, model_name=model_name, fingerprint=fingerprint, dim=dim)
            return cls(path, lock, None)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: str | None = None,
        read_only: bool = False,
        model_name: str | None = None,
    ) -> Gallery:
        """Open a gallery.

        Args:
            fingerprint: of the model whose vectors will be added or searched with; None is not checked.
            read_only: never writes, needs no lock, and works where the directory cannot be written.
            model_name: what the error calls the model of `fingerprint`.

        Raises:
            GalleryError: missing or damaged. GalleryLocked: another process writes to it.
            ModelMismatchError: it was made with another model.
        """
        path = Path(path)
        expected = None if fingerprint is None else (fingerprint, model_name)
        if read_only or not cls.exists(path):
            return cls(path, None, expected)
        with directory.locked(path) as lock:
            return cls(path, lock, expected)

    def check_model(self, fingerprint: str, model_name: str | None = None) -> None:
        """Raises ModelMismatchError, naming both models, if the gallery was made with another one."""
        self.manifest.check_model(self.path, fingerprint, model_name)

    @property
    def read_only(self) -> bool:
        return self._lock is None

    def close(self) -> None:
        """Save the index if it changed, merge the log, release the lock. Closing twice does nothing."""
        with self._write_lock:
            if self._lock is None or not self._lock.is_locked:
                self._catalog.close()
                return
            try:
                self._save()
                with self._catalog.read() as view:
                    self._pictures.release_all(view)
                (self.path / directory.UNCLEAN_NAME).unlink(missing_ok=True)
            finally:
                self._catalog.close()
                self._lock.release()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def put_image(self, data: bytes) -> StoredImage:
        """Store the encoded bytes of a picture for an Item to refer to; durable when it returns. Any thread.

        One that no item has by the time of `close` is removed. Raises CacheError: the disk refuses.
        """
        self._check_writable()
        return self._pictures.put(data)

    def release_image(self, image: StoredImage) -> None:
        """Take back a `put_image` that no item will refer to, before `close` does."""
        with self._write_lock, self._catalog.read() as view:
            self._pictures.release(image, view)

    def upsert(
        self, items: Sequence[Item], *, delete: Sequence[str] = (), model: str | None = None
    ) -> UpsertResult:
        """Add items, or replace those of the same id; in one transaction, durable when it returns.

        Items with the ids in `delete` go in the same transaction. An item whose picture, title and attributes
        are as they were is unchanged and keeps its vector.

        Args:
            model: fingerprint of the model that made the vectors; None is not checked.

        Raises:
            ModelChanged: the gallery's vectors are of another model by now; nothing is written.
            InputError: an item that cannot be stored, naming it and the field; nothing is written then.
            GalleryError: read-only, closed, or the disk refuses.
        """
        self._check_writable()
        with self._catalog.read() as view:
            check_unchanged(view.connection, model)  # before pictures are stored in vain
        ready = [CheckedItem.of(item, self.manifest.dim) for item in items]
        ready = [self._with_stored_image(item) for item in ready]
        with self._write_lock:
            pictures = [picture for item in ready if (picture := item.stored_image) is not None]
            for picture in pictures:
                if picture not in self._pictures:
                    raise GalleryError(f"{self.path}: the picture {picture.sha256} of an item is missing")
            with self._catalog.write() as connection:
                check_unchanged(connection, model)
                changes = write_items(connection, ready)
                _, freed = delete_items(connection, delete)
            self._pictures.unpin(pictures)
            self._drop_pictures(changes.freed | freed)
            self.refresh()
            self._index.save_if_worthwhile()
        return UpsertResult(changes.added, changes.updated, changes.unchanged)

    def delete(self, ids: Iterable[str]) -> int:
        """Delete items, with the pictures that no other item has. Returns how many of the ids there were."""
        self._check_writable()
        with self._write_lock:
            with self._catalog.write() as connection:
                deleted, freed = delete_items(connection, ids)
            self._drop_pictures(freed)
            self.refresh()
        return deleted

    def label_folder(self, name: str, path: str) -> str:
        """The label of a folder of pictures, the same every time: its name, numbered if that is taken."""
        with self._catalog.write() as connection:
            return label_folder(connection, name, path)

    def switch_to(self, target: ModelRef, *, current: ModelRef, back: bool = False) -> Switch:
        """Begin to change the model whose vectors are in use; see switching.py.

        Args:
            target: the next model. current: the one in use, with its image fingerprint.
            back: the next one is the last of `models().history`.

        Raises GalleryError: read-only, or the disk refuses.
        """
        self._check_writable()
        parts = SwitchParts(self._catalog, self._index, self._pictures, self._write_lock, self.manifest)
        return Switch(parts, target, current, back, self._heal_manifest)

    def _with_stored_image(self, item: CheckedItem) -> CheckedItem:
        return replace(item, image=self.put_image(item.image)) if isinstance(item.image, bytes) else item

    def _drop_pictures(self, freed: Iterable[str]) -> None:
        with self._catalog.read() as view:
            self._pictures.drop(freed, view)

    def _heal_manifest(self) -> None:
        """Make the manifest say what the catalogue does, which a change of the model wrote first."""
        manifest = healed(self.manifest, self.models().active)
        if manifest == self.manifest:
            return
        self.manifest = manifest
        if self._lock is not None:
            write_manifest(self.path, manifest)

    def _recover(self) -> None:
        marker = self.path / directory.UNCLEAN_NAME
        if marker.exists():
            with self._catalog.read() as view:
                removed = self._pictures.sweep(view)
            if removed:
                logger.info("%s: removed %d pictures that an interrupted run left behind", self.path, removed)
        marker.touch()

    def _save(self) -> None:
        self.refresh()
        self._index.save()
        facts = self.stats()
        manifest = replace(self.manifest, items=facts["items"], revision=facts["revision"])
        if manifest != self.manifest:
            write_manifest(self.path, manifest)
            self.manifest = manifest

    def _check_writable(self) -> None:
        if self._lock is None:
            raise GalleryError(f"{self.path}: was opened read-only")


def read_models(path: str | Path) -> ModelState:
    """Which model the gallery at `path` is of, and which it was of before; looks, and does nothing else.

    Raises GalleryError: missing or damaged.
    """
    path = Path(path)
    manifest = read_manifest(path)
    catalog = Catalog(path, manifest, read_only=True)
    try:
        with catalog.read() as view:
            return read_state(view, manifest)
    finally:
        catalog.close()
