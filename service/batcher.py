"""Micro-batcher: one thread owns the model and encodes whatever is waiting, a batch at a time.

Batches form from what is already there, so an idle service answers at once and a busy one works in batches.
The queue is bounded; cancelled jobs are skipped; a failing batch is retried one by one, so that only the
input that cannot be encoded fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

Kind = Literal["text", "image"]
Vectors = npt.NDArray[np.float32]
EncodeBatch = Callable[[Kind, list[Any]], Vectors]
BatchObserver = Callable[[Kind, int, float], None]


class QueueFullError(Exception):
    """More inputs wait for the model than `queue_size` allows."""


class WorkerDiedError(Exception):
    """The worker thread has ended (or was closed); nothing will be encoded any more."""


@dataclass(frozen=True)
class Encoded:
    """One answer: `vector` float32 (dim,); seconds waited in the queue, seconds its batch took."""

    vector: Vectors
    queue_s: float
    encode_s: float


@dataclass(frozen=True, eq=False)
class _Job:
    kind: Kind
    payload: Any
    future: Future[Encoded] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)


class Batcher:
    """Bounded queue plus the worker thread. `submit` may be called from any thread.

    Args:
        encode: `(kind, payloads) -> float32 (n, dim)`; called in the worker thread only.
        max_batch: most payloads of each kind in one call of `encode`.
        queue_size: most jobs that may wait.
        observe: called after each batch with (kind, size, seconds).
    """

    def __init__(
        self, encode: EncodeBatch, *, max_batch: Mapping[Kind, int], queue_size: int, observe: BatchObserver
    ) -> None:
        self._encode_batch = encode
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether inputs are being encoded."""
        return self._thread.is_alive() and not self._closing

    @property
    def depth(self) -> int:
        """Number of waiting jobs."""
        return len(self._jobs)

    def submit(self, kind: Kind, payloads: Sequence[Any]) -> list[Future[Encoded]]:
        """Queue `payloads`, all or none of them.

        Raises:
            QueueFullError: they do not all fit. WorkerDiedError: there is no worker.
        """
        jobs = [_Job(kind, payload) for payload in payloads]
        with self._wake:
            if not self.alive:
                raise WorkerDiedError
            if len(self._jobs) + len(jobs) > self._queue_size:
                raise QueueFullError
            self._jobs.extend(jobs)
            self._wake.notify()
        return [job.future for job in jobs]

    def close(self) -> None:
        """Take no more jobs, finish those that wait, end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._encode(batch)
        except BaseException:
            # Not re-raised: nobody would see it. `alive` turns false, and with it /readyz.
            logger.critical("the model worker died", exc_info=True)
            self._fail_all()

    def _next_batch(self) -> list[_Job]:
        """Wait for jobs; an empty list means closed and drained."""
        with self._wake:
            while True:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if not self._jobs:
                    return []
                if batch := self._take():
                    return batch

    def _take(self) -> list[_Job]:
        """The oldest job that is not cancelled and those of its kind behind it, in order."""
        batch: list[_Job] = []
        kept: deque[_Job] = deque()
        while self._jobs:
            job = self._jobs.popleft()
            if batch and (job.kind != batch[0].kind or len(batch) >= self._max_batch[job.kind]):
                kept.append(job)
            elif job.future.set_running_or_notify_cancel():
                batch.append(job)
        self._jobs = kept
        self._running = batch
        return batch

    def _encode(self, batch: list[_Job]) -> None:
        started = time.perf_counter()
        try:
            vectors = self._encode_batch(batch[0].kind, [job.payload for job in batch])
            if len(vectors) != len(batch) or not np.isfinite(vectors).all():
                raise ValueError("the model returned a wrong number of vectors, or not finite ones")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:
                logger.warning("a batch of %d failed (%s): one by one", len(batch), type(error).__name__)
                for job in batch:
                    self._encode([job])
            return
        elapsed = time.perf_counter() - started
        self._observe(batch[0].kind, len(batch), elapsed)
        for job, vector in zip(batch, vectors, strict=True):
            job.future.set_result(Encoded(vector, started - job.submitted, elapsed))

    def _fail_all(self) -> None:
        with self._wake:
            self._closing = True
            unfinished = [job for job in self._running if not job.future.done()]
            waiting = [job for job in self._jobs if job.future.set_running_or_notify_cancel()]
            self._jobs.clear()
        for job in (*unfinished, *waiting):
            job.future.set_exception(WorkerDiedError())
