"""The query log: searches are noted in memory and written in batches, off the path of the requests."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from service.journal import Journal, JournalError
from service.metrics import Metrics

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0  # between two writes: what a kill may cost
MAX_WAITING = 10_000  # searches in memory, where the disk is slow


class QueryLog:
    """Notes searches in `journal`, the last `keep` of them. `add` may be called in any thread."""

    def __init__(self, journal: Journal, keep: int, metrics: Metrics) -> None:
        self._journal = journal
        self._keep = keep
        self._metrics = metrics
        self._waiting: deque[tuple[float, str, int, str]] = deque()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="query-log", daemon=True)
        self._thread.start()

    def add(self, text: str, fingerprint: str, results: int) -> None:
        """Note a search; costs no time."""
        if len(self._waiting) >= MAX_WAITING:
            self._metrics.queries_dropped.inc()
            return
        self._waiting.append((time.time(), text, results, fingerprint))

    def flush(self) -> None:
        """Write what waits. A disk that refuses is logged, once, and tried again later."""
        with self._writing:
            rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not rows:
                return
            try:
                self._journal.add_queries(rows, self._keep)
                self._complained = False
            except JournalError as error:
                self._waiting.extendleft(reversed(rows))
                if not self._complained:
                    logger.error("searches cannot be noted: %s", error)
                self._complained = True

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            self.flush()
