"""Pictures for a learner: asked for ahead of time, waited for no longer than a deadline.

One crawler process fills the cache; every rank of a training only reads it. One rank starts the crawler and
orders what all of them will need; the others look into the cache until the picture, a lasting miss, or the
deadline comes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cache.picture_cache import PictureCache
from crawler.clock import Clock, SystemClock
from crawler.presence import crawler_at_work, read_status

POLL_S = 0.2
GRACE_S = 20.0  # a crawler that is being started has this long to show itself
STOP_TIMEOUT_S = 20.0
PARENT_VARIABLE = "CNCLIP_CRAWL_FOR"  # process that a crawl works for: it ends when that does


@dataclass(frozen=True)
class Miss:
    """No picture, and why: an Outcome value, "deadline", or what stopped the crawler."""

    reason: str


class Order(Protocol):
    """Whoever can have queries crawled."""

    def request(self, queries: Iterable[str], *, urgent: bool = False) -> None:
        """Ask for these queries, in this order, behind those asked for before, or (urgent) before all others.
        Returns at once."""

    @property
    def alive(self) -> bool:
        """Whether anything more may come of it."""


class PictureProvider:
    """Pictures of one cache folder.

    Args:
        cache: read only, never written here.
        order: has missing queries crawled; None: somebody else does.
        wait: whether to wait for a crawler at all; without (`--online-cache`) the cache is all there is.
    """

    def __init__(
        self,
        cache: PictureCache,
        order: Order | None = None,
        *,
        wait: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._cache, self._order, self._wait = cache, order, wait or order is not None
        self._clock = clock or SystemClock()
        self._asked: set[str] = set()
        self._urgent: set[str] = set()
        self._since, self._waiting_since = self._clock.now(), -1.0

    def prefetch(self, queries: Iterable[str]) -> None:
        """Have queries crawled that will be needed; each is asked for once. Returns at once."""
        self._request(self._asked, queries, urgent=False)

    def ensure(self, queries: Sequence[str], n: int, deadline: float) -> dict[str, Mapping[int, Path] | Miss]:
        """Pictures 1..n of each query, or why there is none.

        Args:
            n: wanted per query; fewer are returned where the site had no more.
            deadline: monotonic seconds of the clock; what is there by then is returned.

        Returns:
            query → {number: path of a good 224 x 224 picture}, never empty, or a Miss.

        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        self._request(self._urgent, queries, urgent=True)
        found: dict[str, Mapping[int, Path] | Miss] = {}
        while True:
            at_work = self._wait and self._at_work()  # before looking: what it wrote last must be seen
            stopped, unanswered = read_status(self._cache.root, self._since)
            for query in queries:
                if query not in found and (answer := self._look(query, n, unanswered)) is not None:
                    found[query] = answer
            waiting = [query for query in queries if query not in found]
            if not waiting or not at_work or self._clock.monotonic() >= deadline:
                break
            self._clock.sleep(POLL_S)
        ended = "not in the cache" if self._order is None else "the crawler has ended"
        reason = "deadline" if at_work else stopped or ended
        return found | {query: self._cache_only(query, n, reason) for query in waiting}

    def _request(self, asked: set[str], queries: Iterable[str], *, urgent: bool) -> None:
        """Order what has not been `asked` for in this way, and is not there."""
        if self._order is None:
            return
        fresh = [query for query in dict.fromkeys(map(str.strip, queries)) if query not in asked]
        asked.update(fresh)
        self._order.request(fresh, urgent=urgent)

    def _at_work(self) -> bool:
        """Whether more pictures may come."""
        if self._order is not None:
            return self._order.alive
        if self._waiting_since < 0:
            self._waiting_since = self._clock.monotonic()
        starting = self._clock.monotonic() - self._waiting_since < GRACE_S
        return starting or crawler_at_work(self._cache.root)

    def _look(self, query: str, n: int, unanswered: Mapping[str, str]) -> Mapping[int, Path] | Miss | None:
        """The final answer for a query, if there is one yet."""
        query = query.strip()  # as the crawl does
        pictures = self._cache.pictures(query)
        wanted = {number: pictures[number] for number in range(1, n + 1) if number in pictures}
        if len(wanted) == n:
            return wanted
        miss = self._cache.miss(query)
        reason = miss.reason if miss else unanswered.get(query)
        if reason is None:
            return None
        return wanted or Miss(reason)

    def _cache_only(self, query: str, n: int, reason: str) -> Mapping[int, Path] | Miss:
        pictures = self._cache.pictures(query.strip())
        return {number: path for number, path in pictures.items() if number <= n} or Miss(reason)


class CrawlerProcess:
    """A `cnclip crawl --queries -` of its own, fed through its standard input. Close it.

    Its messages (the QR code too) go to this process's stderr.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,  # what the command starts ends with it
        )
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # A pipe holds 64 kB: nobody else should wait for the crawler to read it.
        self._feeder = threading.Thread(target=self._feed, name="crawler-feeder", daemon=True)
        self._feeder.start()

    def request(self, queries: Iterable[str], *, urgent: bool = False) -> None:
        """Have these queries crawled, in this order, `urgent` ones before all others; returns at once."""
        for query in queries:
            self._queue.put(json.dumps({"query": query, "urgent": urgent}))

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """How the process ended (see `cnclip crawl --help`; negative: by a signal), None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """Stop the crawler (it closes its browser) and wait for its end. Never raises."""
        self._queue.put(None)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))  # its watchdog closes the browser
            self._process.wait()
        self._feeder.join()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):  # it has ended
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:  # the crawler ended: `alive` says so
            while (line := self._queue.get()) is not None:
                pipe.write(f"{line}\n")
                pipe.flush()
