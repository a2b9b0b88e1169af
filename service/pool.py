"""Threads for blocking work, with a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.batcher import QueueFullError

T = TypeVar("T")


class BoundedPool:
    """A thread pool that refuses work instead of letting it pile up.

    Args:
        threads: calls that run at once. waiting: calls that may wait for a thread.
        name: prefix of the threads' names.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threading.Semaphore(threads + waiting)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work()`, run in a thread. Cancelling drops work that still waits.

        Raises:
            QueueFullError: too much waits already; `work` is not run.
        """
        if not self._free.acquire(blocking=False):
            raise QueueFullError
        try:
            future = self._threads.submit(work)
        except BaseException:
            self._free.release()
            raise
        # When the thread is done, not when the caller stops waiting: work past its deadline still runs.
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wrap_future(future)

    def check(self) -> None:
        """Raises QueueFullError if `run` would; for refusing before something expensive."""
        if not self._free.acquire(blocking=False):
            raise QueueFullError
        self._free.release()

    def close(self) -> None:
        """Finish what was accepted. Blocks."""
        self._threads.shutdown()
