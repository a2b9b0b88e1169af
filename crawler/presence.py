"""Whether a crawler works on a cache right now, for those who only read it.

A crawler holds the lock `.crawler.lock` in the cache's folder while it lives, so that two never fill one
cache, and a killed one is noticed at once. `.crawler.json` says which queries it passed without a picture or
a lasting miss, and how it ended.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from filelock import FileLock, Timeout

from cache.files import write_durably
from crawler.errors import CrawlError
from crawler.types import Outcome, QueryReport

LOCK_FILE, STATUS_FILE = ".crawler.lock", ".crawler.json"
MANY = 1000
LOCK_TIMEOUT_S = 5.0  # readers hold the lock for an instant when they look


class Presence:
    """What a crawler leaves for readers of the cache folder `root`; written by the crawler alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = FileLock(root / LOCK_FILE)
        self._unanswered: dict[str, str] = {}
        self._written = 0.0

    def __enter__(self) -> Presence:
        """Be the crawler of this cache. Raises CrawlError if there is one already."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise CrawlError(f"{self.root}: another crawl is filling this cache; wait for it") from None
        except OSError as error:
            raise CrawlError(f"{self.root}: cannot be written: {error.strerror or error}") from None
        self._write("")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def report(self, report: QueryReport) -> None:
        """Tell readers about a query that the cache itself says nothing of."""
        if not (report.outcome.done or report.outcome.remembered) or report.outcome is Outcome.UNUSABLE_QUERY:
            self._unanswered[report.query] = report.outcome.value
            # Each time all is written anew: not too often, once it is much.
            if len(self._unanswered) < MANY or time.time() - self._written >= 1:
                self._write("")

    def stopped(self, reason: str) -> None:
        """Tell readers why there will be no more, if that can be written."""
        with contextlib.suppress(OSError):
            self._write(reason)

    def _write(self, stopped: str) -> None:
        self._written = time.time()
        content = {"written": time.time(), "stopped": stopped, "unanswered": self._unanswered}
        write_durably(self.root / STATUS_FILE, json.dumps(content).encode())


def crawler_at_work(root: Path) -> bool:
    """Whether a live crawler fills this cache folder."""
    lock = FileLock(root / LOCK_FILE, blocking=False)
    try:
        with lock:
            return False
    except Timeout:
        return True
    except OSError:  # no such folder, or one we may not write to: nobody we could wait for
        return False


def read_status(root: Path, since: float) -> tuple[str, dict[str, str]]:
    """(why the crawler stopped or "", queries it passed without an entry in the cache: reason), if it wrote
    that after `since` (seconds since 1970): what an earlier run left behind says nothing of this one."""
    try:
        content = json.loads((root / STATUS_FILE).read_text(encoding="utf-8"))
        if float(content["written"]) < since:
            return "", {}
        unanswered = {str(query): str(reason) for query, reason in content["unanswered"].items()}
        return str(content["stopped"]), unanswered
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", {}
