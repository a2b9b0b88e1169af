"""From a source into a gallery: read and decode (threads) → encode (batches) → one transaction per batch.

A picture that is in the gallery already is not encoded again, so that an interrupted run is resumed by
repeating it. Files in folders are known by their content: the id is the first 16 digits of the picture's
SHA-256, and the attribute `files` lists the names it has. A file that changed takes its name with it, and a
picture that lost its last name is deleted.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from cache.blob_store import BlobStore
from cnclip.errors import ImageError, InputError
from cnclip.printable import printable
from service.gallery.gallery import Gallery
from service.gallery.ingest_batch import Batch, Pixels, Prepared, content_id
from service.gallery.sources import UNREADABLE, Dropped, SourceItem
from service.gallery.types import GalleryError, Vector

BATCH_SIZE = 64
MAX_PROBLEMS = 10_000  # lines kept; all are counted


class PixelEncoder(Protocol):
    """What ingestion needs of a model; `cnclip.load` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...

    def prepare_image(self, image: Any, *, name: str | None = None) -> Pixels:
        """(size, size, 3); any thread. Raises ImageError."""
        ...

    def encode_pixels(self, pixels: Pixels) -> Vector:
        """(n, size, size, 3) → (n, dim), unit length"""
        ...


@dataclass
class IngestReport:
    """What became of a source's entries: seen = added + updated + unchanged + dropped (at the end; what waits
    for its transaction is seen and not yet counted elsewhere).

    updated: also files whose picture changed. removed: old pictures of such files. dropped: by reason.
    problems: one `printable` line each, the first MAX_PROBLEMS; problem_count: all.
    """

    seen: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    def drop(self, dropped: Dropped) -> None:
        self.dropped[dropped.reason] += 1
        if dropped.message is not None:
            self.problem_count += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(printable(dropped.message))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "in": self.seen,
            "added": self.added,
            "updated": self.updated,
            "unchanged": self.unchanged,
            "removed": self.removed,
            "dropped": dict(self.dropped),
            "problems": self.problems,
            "problem_count": self.problem_count,
        }


def ingest(
    gallery: Gallery,
    encoder: PixelEncoder,
    source: Iterable[SourceItem | Dropped],
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: Callable[[IngestReport], None] | None = None,
    report: IngestReport | None = None,
) -> IngestReport:
    """Put everything in `source` into `gallery`. What the report counts as added or updated is durable.

    Args:
        batch_size: pictures per model call and transaction.
        workers: threads that read and decode; by default as many as there are processors, at most 8.
        progress: called in this thread, for every entry and every transaction.
        report: to be filled while it runs, so that an interrupted caller knows how far it came.

    Raises:
        ModelMismatchError: the gallery was made with another model.
        GalleryError, CacheError: the disk refuses; finished batches stay.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise InputError(f"batch size and workers must be at least 1, not {batch_size} and {workers}")
    gallery.check_model(encoder.fingerprint, encoder.name)
    report = IngestReport() if report is None else report
    batch = Batch(gallery, encoder.encode_pixels, report)
    prepare = _Preparation(gallery, encoder)
    for entry in _prepared_ahead(prepare, source, 2 * batch_size, workers or min(8, _processors())):
        report.seen += 1
        if isinstance(entry, Dropped):
            report.drop(entry)
        else:
            batch.add(entry, prepare)
        if len(batch) >= batch_size:
            batch.commit()
        if progress is not None:
            progress(report)
    batch.commit()
    if progress is not None:
        progress(report)
    return report


class _Preparation:
    """Reads a picture; decodes and stores it if the gallery does not have it. Called from many threads."""

    def __init__(self, gallery: Gallery, encoder: PixelEncoder) -> None:
        self._gallery = gallery
        self._encoder = encoder

    def __call__(self, item: SourceItem) -> Prepared | Dropped:
        try:
            data = item.load()
            sha256 = BlobStore.digest(data)
            item_id = item.id or content_id(sha256)
            row = self._gallery.get(item_id)
            if row is not None and row.image_sha256 == sha256 and self._gallery.image_path(row) is not None:
                return Prepared(item, item_id, row.image, None)
            pixels = self._encoder.prepare_image(data, name=item.name)
            return Prepared(item, item_id, self._gallery.put_image(data), pixels)
        except GalleryError:
            raise  # not the picture's fault
        except (ImageError, InputError) as error:
            return Dropped(UNREADABLE, str(error))


def _prepared_ahead(
    prepare: _Preparation, source: Iterable[SourceItem | Dropped], ahead: int, workers: int
) -> Iterator[Prepared | Dropped]:
    """`prepare` over `source` in threads, in order, at most `ahead` entries ahead of the consumer."""
    waiting: deque[Future[Prepared | Dropped]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ingest")
    try:
        for entry in source:
            if isinstance(entry, Dropped):
                done: Future[Prepared | Dropped] = Future()
                done.set_result(entry)
                waiting.append(done)
            else:
                waiting.append(pool.submit(prepare, entry))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
