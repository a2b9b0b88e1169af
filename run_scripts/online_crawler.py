"""The crawler of a learner: a `cnclip crawl`, started when a picture is missing, and never waited for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cache.picture_cache import PictureCache
from crawler.presence import crawler_at_work, read_status
from crawler.provider import CrawlerProcess, PictureProvider

logger = logging.getLogger(__name__)

MAX_STARTS = 5  # in the life of a learner
HANG_S = 900.0  # waited for without a sign of life; a login alone may take five minutes
# Exit codes after which a person has to do something first: a block, no login, another layout, interrupted.
FINAL = {
    3: "the site wants no more requests",
    4: "a login is needed",
    5: "layout changed",
    130: "interrupted",
}


class AskedQueries:
    """Counts the queries that crawls below a folder ask the site for, from now on, by their log of events."""

    def __init__(self, events: Path) -> None:
        self._events, self._count = events, 0
        self._read_to = self._size()

    def count(self) -> int:
        """How many so far; a killed crawl's count, too."""
        size = self._size()
        if size < self._read_to:  # somebody has put the log away
            self._read_to = 0
        try:
            with self._events.open("rb") as file:
                file.seek(self._read_to)
                *lines, _unfinished = file.read().split(b"\n")
        except OSError:
            return self._count
        self._count += sum(b'"query":' in line for line in lines)
        self._read_to += sum(len(line) + 1 for line in lines)
        return self._count

    def _size(self) -> int:
        try:
            return self._events.stat().st_size
        except OSError:
            return 0


class Crawler:
    """At most one crawl at a time for one cache. It starts when first needed, and again when it died and that
    may help: not after the site said no, nobody logged in, or the queries of a run are used up. Thread-safe.

    Args:
        command: makes the command line of a crawl that may ask for so many queries.
        max_queries: the site is asked for by all crawls together.
    """

    def __init__(
        self, cache: PictureCache, command: Callable[[int], Sequence[str]], max_queries: int
    ) -> None:
        self._cache, self._command, self._max_queries = cache, command, max_queries
        self._asked = AskedQueries(cache.root.parent / "mark_log" / "events.jsonl")
        self._process: CrawlerProcess | None = None
        self._provider: PictureProvider | None = None
        self._closing: list[threading.Thread] = []
        self._started_at, self._starts, self._may_start = 0.0, 0, True
        self._silent_s, self._heard = 0.0, 0
        self._lock = threading.RLock()
        self.over = ""  # why there will be no crawl any more

    def allow_start(self) -> None:
        """A new round: a crawl that ended may be started again."""
        self._may_start = True

    def provider(self) -> PictureProvider | None:
        """Gives what a crawl finds; the crawl is started if it may be. None: there is none (see `over`)."""
        with self._lock:
            if self._process is not None and self._process.alive:
                return self._provider
            self._bury()
            if self.over or not self._may_start:
                return None
            self._may_start = False
            return self._start()

    def waited(self, seconds: float) -> None:
        """The learner waited so long, in vain. A crawl without a sign of life for HANG_S is ended."""
        with self._lock:
            heard = self._asked.count()
            self._silent_s = 0.0 if heard != self._heard else self._silent_s + seconds
            self._heard = heard
            if self._silent_s >= HANG_S and self._process is not None:
                logger.warning("the crawl has done nothing for %.0f s; it is ended", self._silent_s)
                self._let_go()

    def close(self) -> None:
        """End the crawl and its browser for good. Never raises."""
        with self._lock:
            self.over = self.over or "closed"
            self._let_go()
        while self._closing:
            self._closing.pop().join()

    def _start(self) -> PictureProvider | None:
        left = self._max_queries - self._asked.count()
        if left < 1:
            self._end(f"the cap of {self._max_queries} queries a run")
            return None
        if self._starts >= MAX_STARTS:
            self._end(f"it was started {MAX_STARTS} times")
            return None
        if crawler_at_work(self._cache.root):
            logger.warning("%s: another crawl is filling this cache: what it has is used", self._cache.root)
            return None
        self._starts += 1
        self._silent_s, self._started_at = 0.0, time.time()
        try:
            self._process = CrawlerProcess(self._command(left))
        except OSError as error:
            logger.warning("the crawler cannot be started: %s", error.strerror or error)
            return None
        self._provider = PictureProvider(self._cache, self._process)
        logger.info("a crawl fetches pictures into %s", self._cache.root)
        return self._provider

    def _bury(self) -> None:
        """Take note of a crawl that ended by itself."""
        process = self._process
        if process is None or process.exit_code is None:
            return
        code = process.exit_code
        stopped, _ = read_status(self._cache.root, self._started_at)
        process.close()  # what it started, too
        self._process = self._provider = None
        reason = stopped or FINAL.get(code, f"exit code {code}")
        logger.warning("the crawl has ended: %s", reason)
        if code in FINAL or self._asked.count() >= self._max_queries:
            self._end(reason)

    def _end(self, reason: str) -> None:
        self.over = reason
        logger.warning(
            "no more crawls in this run (%s): pictures come from %s alone", reason, self._cache.root
        )

    def _let_go(self) -> None:
        """End the crawl without waiting for that."""
        if self._process is None:
            return
        thread = threading.Thread(target=self._process.close, name="crawler-closer")
        thread.start()
        self._closing.append(thread)
        self._process = self._provider = None
