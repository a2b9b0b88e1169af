"""What an online worker listens to: a service's journal, a file of queries, or standard input."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError
from cnclip.online.worker_state import Opinion, Said
from run_scripts.crawl_queries import read_queries

if TYPE_CHECKING:
    from cache.blob_store import BlobStore
    from service.journal import Journal

logger = logging.getLogger(__name__)

STDIN = "-"


class FileQueries:
    """The queries of a file, whenever it has changed."""

    ended = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        read_queries(path)  # a file that is none is said before anything starts

    def wait(self) -> None:
        """It is all there."""

    def take(self) -> list[str]:
        """What is new. Raises InputError naming file and line."""
        try:
            found = Path(self._path).stat()
        except OSError:  # it is being replaced
            return []
        state = (found.st_mtime_ns, found.st_size)
        if state == self._seen:
            return []
        queries = list(read_queries(self._path))
        self._seen = state
        return queries


class StreamQueries:
    """Queries from standard input, as they come. ended: there will be no more."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(read_queries(STDIN),), daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return not self._reader.is_alive()

    def take(self) -> list[str]:
        """What came since the last time."""
        taken = []
        while True:
            try:
                taken.append(self._arrived.get_nowait())
            except queue.Empty:
                return taken

    def wait(self) -> None:
        """Until there will be no more."""
        self._reader.join()

    def _read(self, queries: Iterable[str]) -> None:
        try:
            for query in queries:
                self._arrived.put(query)
        except InputError as error:
            logger.error("%s; no more queries are read", error)


class Inbox:
    """See `cnclip.online.worker.Inbox`. journal, pictures: of a service. source: of queries."""

    def __init__(
        self,
        journal: Journal | None,
        pictures: BlobStore | None,
        source: FileQueries | StreamQueries | None,
    ) -> None:
        self._journal, self._pictures, self._source = journal, pictures, source

    @property
    def ended(self) -> bool:
        """Whether nothing new can come any more."""
        return self._journal is None and (self._source is None or self._source.ended)

    def wait(self) -> None:
        """Until all of standard input is there."""
        if self._source is not None:
            self._source.wait()

    def opinions(self, since: int) -> Iterable[Opinion]:
        """See there."""
        return self._journal.feedback(since) if self._journal is not None else ()

    def logged(self, since: int) -> Iterator[tuple[int, str]]:
        """See there."""
        if self._journal is not None:
            for row in self._journal.queries(since):
                yield row.id, row.text

    def queries(self) -> list[str]:
        """See there."""
        return self._source.take() if self._source is not None else []

    def picture_of(self, said: Said) -> bytes | None:
        """See there."""
        from cache.errors import CacheError

        if self._pictures is None or said.image_sha256 is None:
            return None
        try:
            return self._pictures.get(said.image_sha256)
        except CacheError:
            return None
