"""One batch of an ingestion: what to write, decided entry by entry, and its transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from service.gallery.gallery import Gallery
from service.gallery.sources import Dropped, SourceItem, path_text
from service.gallery.types import AttributeValue, Item, StoredImage, Vector
from service.gallery.writing import same_attributes

if TYPE_CHECKING:
    from service.gallery.ingest import IngestReport

Pixels = npt.NDArray[np.uint8]

FILES = "files"  # the attribute that lists the names of a picture that came from a folder
SAME_ID = "id seen before"
SAME_PICTURE = "same picture under another name"


def content_id(sha256: str) -> str:
    """The id of a picture that is known by its content: the first 16 digits of its SHA-256."""
    return sha256[:16]


@dataclass(frozen=True)
class Prepared:
    """A picture that was read and stored. pixels: (size, size, 3), or None if the gallery has its vector."""

    item: SourceItem
    id: str
    image: StoredImage | None
    pixels: Pixels | None


@dataclass(frozen=True)
class _Entry:
    """What will be written under an id. outcome: how the report counts it; None if it is no new entry."""

    title: str
    attributes: dict[str, AttributeValue]
    image: StoredImage | None
    pixels: Pixels | None = None
    outcome: Literal["added", "updated"] | None = None

    @property
    def files(self) -> list[str]:
        files = self.attributes.get(FILES)
        return [str(name) for name in files] if isinstance(files, list) else []

    def with_files(self, files: list[str]) -> _Entry:
        return replace(self, attributes={**self.attributes, FILES: list(files)})


class Batch:
    """Collects entries until `commit`, which encodes their pictures and writes all in one transaction."""

    def __init__(
        self, gallery: Gallery, encode_pixels: Callable[[Pixels], Vector], report: IngestReport
    ) -> None:
        self._gallery = gallery
        self._encode_pixels = encode_pixels
        self._report = report
        self._entries: dict[str, _Entry] = {}
        self._deleted: set[str] = set()
        self._seen: set[str] = set()
        self._labels: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self._entries) + len(self._deleted)

    def add(self, prepared: Prepared, prepare: Callable[[SourceItem], Prepared | Dropped]) -> None:
        """Decide what becomes of a picture. `prepare` is asked again where the gallery changed meanwhile."""
        named = prepared.item.id is not None
        if named and prepared.id in self._seen:
            self._release(prepared)
            message = f"{prepared.item.name}: id {prepared.id!r} was there before"
            self._report.drop(Dropped(SAME_ID, message))
            return
        current = self._current(prepared.id)
        if prepared.pixels is None and (current is None or current.image != prepared.image):
            # Its item was deleted, or got another picture, after it was prepared.
            again = prepare(prepared.item)
            if isinstance(again, Dropped):
                self._report.drop(again)
                return
            prepared, current = again, self._current(again.id)
        if named:
            self._add_named(prepared, current)
        else:
            self._add_file(prepared, current)

    def commit(self) -> None:
        """Encode and write; durable, and counted in the report, when it returns."""
        if not len(self):
            return
        fresh = [item_id for item_id, entry in self._entries.items() if entry.pixels is not None]
        vectors = self._gallery.vectors(item_id for item_id in self._entries if item_id not in fresh)
        if fresh:
            stack = np.stack([p for entry in self._entries.values() if (p := entry.pixels) is not None])
            vectors.update(zip(fresh, self._encode_pixels(stack), strict=True))
        items = [
            Item(item_id, vectors[item_id], entry.title, entry.attributes, entry.image)
            for item_id, entry in self._entries.items()
        ]
        self._gallery.upsert(items, delete=sorted(self._deleted))
        for entry in self._entries.values():
            self._report.added += entry.outcome == "added"
            self._report.updated += entry.outcome == "updated"
        self._report.removed += len(self._deleted)
        self._entries, self._deleted = {}, set()

    def _add_named(self, prepared: Prepared, current: _Entry | None) -> None:
        item = prepared.item
        self._seen.add(prepared.id)
        known = prepared.pixels is None and current is not None and current.title == item.title
        if known and current is not None and same_attributes(current.attributes, item.attributes):
            self._report.unchanged += 1
            return
        outcome: Literal["added", "updated"] = "added" if current is None else "updated"
        self._entries[prepared.id] = _Entry(
            item.title, item.attributes, prepared.image, prepared.pixels, outcome
        )
        self._deleted.discard(prepared.id)

    def _add_file(self, prepared: Prepared, current: _Entry | None) -> None:
        name = f"{self._label(prepared.item)}/{prepared.item.file}"
        files = [] if current is None else current.files
        if name in files:
            self._release(prepared)
            if files[0] == name:
                self._report.unchanged += 1
            else:
                self._report.drop(Dropped(SAME_PICTURE))
            return
        replaced = self._take_name(name)
        if current is None:
            outcome: Literal["added", "updated"] = "updated" if replaced else "added"
            fresh = _Entry(prepared.item.title, {}, prepared.image, prepared.pixels, outcome)
            self._entries[prepared.id] = fresh.with_files([name])
        else:
            self._release(prepared)
            self._entries[prepared.id] = current.with_files([*files, name])
            self._report.drop(Dropped(SAME_PICTURE))
        self._deleted.discard(prepared.id)

    def _take_name(self, name: str) -> bool:
        """Take a file's name from the picture it had before; whether there was one."""
        taken = False
        for item_id in self._gallery.ids({FILES: name}):
            old = self._current(item_id)
            if old is None or old.image is None or content_id(old.image.sha256) != item_id:
                continue  # not a picture from a folder; its attribute `files` is somebody else's
            taken = True
            rest = [other for other in old.files if other != name]
            if rest:
                title = Path(rest[0]).stem if old.files[0] == name else old.title
                self._entries[item_id] = replace(old.with_files(rest), title=title)
            else:
                self._entries.pop(item_id, None)
                self._deleted.add(item_id)
        return taken

    def _current(self, item_id: str) -> _Entry | None:
        """An item as it will be after the transactions so far."""
        if item_id in self._entries:
            return self._entries[item_id]
        row = None if item_id in self._deleted else self._gallery.get(item_id)
        return None if row is None else _Entry(row.title, row.attributes, row.image)

    def _release(self, prepared: Prepared) -> None:
        """Its picture was stored in vain: it is another item's already, or not wanted."""
        if prepared.pixels is not None and prepared.image is not None:
            self._gallery.release_image(prepared.image)

    def _label(self, item: SourceItem) -> str:
        folder = item.folder or Path()
        if folder not in self._labels:
            where = folder.resolve()
            self._labels[folder] = self._gallery.label_folder(
                path_text(where.name) or "root", path_text(where)
            )
        return self._labels[folder]
