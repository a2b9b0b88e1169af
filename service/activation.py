"""One change of the model in use, from its beginning to its end, in a thread of its own.

embedding (if the image tower is another one) → loading → checking → switching. Until the switch, which is one
transaction, everything goes on with the old model; if anything is wrong, it stays. A service that stops in
the middle leaves what was embedded, and goes on with it when it starts again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar

import numpy as np

from cache.errors import CacheError
from cnclip.errors import CnclipError, InputError
from service.batcher import QueueFullError, Vectors
from service.canary import (
    MAX_PICTURES,
    MAX_QUERIES,
    PLAIN_QUERIES,
    Canary,
    check_share,
    check_vectors,
    depth_of,
)
from service.gallery import Gallery, GalleryError, ModelRef, find_model
from service.gallery.directory import IMAGES_NAME
from service.gallery.switching import Switch
from service.generation import Generation, load_model
from service.metrics import Metrics
from service.reembed import EmbeddingProcess
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = Literal["running", "done", "refused", "cancelled", "failed"]
Step = Literal["loading", "embedding", "checking", "switching"]

_CANARY_BATCH = 8  # texts at once, so that the searches of others are not held up
_PAUSE_S, _ATTEMPTS = 0.05, 200  # where the queue of the model in use is full


@dataclass(frozen=True)
class Progress:
    """How far an activation is. done, total: items that have a vector of the new model; both 0 where none
    needs one. error: why it was refused or failed. canary: what the check found, in words."""

    label: str
    kind: Literal["activate", "rollback"]
    outcome: Outcome = "running"
    step: Step = "loading"
    done: int = 0
    total: int = 0
    error: str | None = None
    canary: str | None = None
    started: str = ""
    seconds: float = 0.0
    resumed: bool = False


class _Stopped(Exception):
    """Cancelled, or the service stops."""


@dataclass(frozen=True)
class Surroundings:
    """What an activation works with. loop: of the service. install: makes a generation the one in use.
    recent: texts that were searched for lately."""

    gallery: Gallery
    settings: ServiceSettings
    metrics: Metrics
    loop: asyncio.AbstractEventLoop
    install: Callable[[Generation], None]
    recent: Callable[[], Sequence[str]]


def bare_message(items: int) -> str:
    """Why nothing can be done with items that have no picture."""
    return f"{items:,} items have no picture and cannot be embedded with another image tower"


class Activation:
    """See the module's docstring. `progress` may be read in any thread."""

    def __init__(
        self,
        target: ModelRef,
        current: Generation,
        around: Surroundings,
        *,
        back: bool = False,
        resumed: bool = False,
    ) -> None:
        self.target = target
        self._current = current
        self._around = around
        self._back = back
        self._switch: Switch | None = None
        self._worker: EmbeddingProcess | None = None
        self._stop: Literal["", "cancel", "shutdown"] = ""
        self._lock = threading.Lock()
        self._began = time.monotonic()
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        kind: Literal["activate", "rollback"] = "rollback" if back else "activate"
        self._progress = Progress(target.label, kind, started=started, resumed=resumed)
        self._thread = threading.Thread(target=self._run, name="activation", daemon=True)

    @property
    def progress(self) -> Progress:
        progress = self._progress
        if progress.outcome == "running":
            progress = replace(progress, seconds=round(time.monotonic() - self._began, 3))
        switch = self._switch
        return progress if switch is None else replace(progress, done=switch.done, total=switch.total)

    @property
    def running(self) -> bool:
        return self._progress.outcome == "running"

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, forget: bool) -> None:
        """Stop as soon as may be; a switch that has begun is finished.

        Args:
            forget: drop what was done; otherwise it goes on when the service starts again.
        """
        with self._lock:
            self._stop = "cancel" if forget else "shutdown"
            if self._worker is not None:
                self._worker.close()

    def join(self) -> None:
        """Wait for the end. Not in the loop's thread, which it needs."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._change()
            self._end("done")
        except _Stopped:
            self._end("cancelled", "the service stopped" if self._stop == "shutdown" else "cancelled")
        except (CnclipError, CacheError) as error:
            if self._stop:  # the end of its process was ours
                self._end("cancelled", "the service stopped" if self._stop == "shutdown" else "cancelled")
            else:
                self._end("refused", str(error))
        except Exception:
            logger.exception("activation of %s failed", self.target.label)
            self._end("failed", "internal error; see the log of the service")

    def _end(self, outcome: Outcome, error: str | None = None) -> None:
        if outcome != "done" and self._stop != "shutdown" and self._switch is not None:
            try:
                self._switch.abandon()
            except GalleryError as problem:
                logger.warning("what was embedded for %s stays for now: %s", self.target.label, problem)
        progress = self.progress
        self._progress = replace(progress, outcome=outcome, error=error)
        self._around.metrics.activation_ended(outcome)
        level = logging.INFO if outcome in ("done", "cancelled") else logging.ERROR
        reason = f": {error}" if error else ""
        logger.log(level, "model %s: %s after %.1f s%s", progress.label, outcome, progress.seconds, reason)

    def _change(self) -> None:
        around, encoder = self._around, self._current.encoder
        weights = find_model(around.gallery.path, self.target, around.settings.models_dir)
        current = replace(self._current.ref, image_fingerprint=encoder.image_fingerprint)
        logger.info("model %s: activation begins, %s is in use", self.target.label, self._current.label)
        switch = around.gallery.switch_to(self.target, current=current, back=self._back)
        self._switch = switch
        if bare := switch.without_picture():
            raise InputError(bare_message(bare))
        if not switch.same_vectors:
            self._at("embedding")
            self._embed(switch, weights)
        self._at("loading")
        generation = self._load(weights)
        try:
            self._at("checking")
            canary = self._check(switch, generation)
            self._progress = replace(self._progress, canary=str(canary))
            self._at("switching")
            switch.commit(lambda pictures: generation.encoder.encode_images(list(pictures)))
        except BaseException:
            generation.close()
            raise
        around.install(generation)
        logger.info("model %s is in use; canary: %s", self.target.label, canary)
        try:
            switch.clean_up()
        except GalleryError as error:
            logger.warning("vectors that nobody needs any more stay for now: %s", error)

    def _at(self, step: Step) -> None:
        if self._stop:
            raise _Stopped
        self._progress = replace(self._progress, step=step)

    def _embed(self, switch: Switch, weights: str) -> None:
        told = time.monotonic()
        with EmbeddingProcess(weights, self._around.gallery.path / IMAGES_NAME) as worker:
            with self._lock:
                self._worker = worker
            if self._stop:
                raise _Stopped
            if worker.wait_until_ready() != self.target.image_fingerprint:
                raise InputError(f"{weights}: is not what its record says (image fingerprint differs)")
            for page in switch.pictures():
                if self._stop:
                    raise _Stopped
                switch.stage(*worker.embed(page))
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    logger.info("model %s: %d of %d items", self.target.label, switch.done, switch.total)
        switch.check_readable()

    def _load(self, weights: str) -> Generation:
        around, target = self._around, self.target
        encoder = load_model(weights)
        if (encoder.fingerprint, encoder.image_fingerprint) != (target.fingerprint, target.image_fingerprint):
            raise InputError(f"{weights}: is not what its record says (fingerprint differs)")
        dim = around.gallery.manifest.dim
        if encoder.dim != dim:
            raise InputError(f"{weights}: makes vectors of {encoder.dim} numbers, the gallery has {dim}")
        generation = Generation(encoder, target, around.settings, around.metrics)
        generation.start()
        self._in_loop(generation.warm_up())
        return generation

    def _check(self, switch: Switch, generation: Generation) -> Canary:
        """Raises CanaryError. Going back is the user's decision: how much is found is not compared then."""
        if not switch.same_vectors:
            check_vectors(switch.sample(MAX_PICTURES), "pictures")
        titles = switch.titles(MAX_QUERIES)
        queries = list(dict.fromkeys([*titles, *self._around.recent()])) or list(PLAIN_QUERIES)
        vectors = self._texts(generation, queries)
        check_vectors(vectors, "texts")
        if not titles or self._back:
            return Canary(len(queries))
        old = self._texts(self._current, titles)
        return check_share(
            titles,
            depth_of(len(self._around.gallery)),
            self._around.settings.canary_margin,
            lambda i, depth: [hit.row.title for hit in self._around.gallery.search(old[i], depth)],
            lambda i, depth: switch.titles_found(vectors[i], depth),
        )

    def _texts(self, generation: Generation, texts: Sequence[str]) -> Vectors:
        """Vectors (n, dim), a few at a time; waits where the queue is full of others' requests."""
        vectors: list[Vectors] = []
        for start in range(0, len(texts), _CANARY_BATCH):
            part = texts[start : start + _CANARY_BATCH]
            for attempt in range(_ATTEMPTS):
                if self._stop:
                    raise _Stopped
                try:
                    encoded = self._in_loop(generation.embedder.texts(part))
                    break
                except QueueFullError:
                    if attempt == _ATTEMPTS - 1:
                        raise InputError("too many requests are waiting; try again later") from None
                    time.sleep(_PAUSE_S)
            vectors += [one.vector for one in encoded]
        return np.stack(vectors)

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._around.loop).result()
