"""Which model answers, and how another one takes its place. `routes/models.py` calls it.

A request runs with one generation (`Models.run`). The gallery refuses what another model made, in the same
transaction in which it answers; then the request begins again with the model that is in use by now. So no
answer ever mixes two models, and no request fails because the model was changed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from cnclip.errors import CnclipError, InputError
from cnclip.online.versions import ModelVersions
from service.activation import Activation, Progress, Surroundings, bare_message
from service.encoder import EncoderProtocol
from service.errors import ApiError
from service.gallery import Gallery, ModelChanged, ModelRef, find_model
from service.gallery.model_ref import ModelState, ref_of
from service.generation import Generation, load_model
from service.metrics import Metrics
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")
BASE = "base"


class Models:
    """The model in use and its successors. Methods that are not async may be called in any thread, unless
    they say otherwise."""

    def __init__(
        self,
        settings: ServiceSettings,
        metrics: Metrics,
        gallery: Gallery,
        encoder: EncoderProtocol,
        recent: Callable[[], Sequence[str]],
    ) -> None:
        self.versions = ModelVersions(settings.models_dir)
        self._settings = settings
        self._metrics = metrics
        self._gallery = gallery
        self._recent = recent
        self._current = Generation(encoder, gallery.models().active, settings, metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._activation: Activation | None = None
        self._following: asyncio.Task[None] | None = None
        self._beginning = threading.Lock()

    @property
    def current(self) -> Generation:
        return self._current

    @property
    def progress(self) -> Progress | None:
        """Of the activation that runs, or ran last."""
        return None if self._activation is None else self._activation.progress

    def state(self) -> ModelState:
        """The gallery's models; reads the catalogue."""
        return self._gallery.models()

    def items(self) -> tuple[int, int]:
        """Items done and in all, of the activation that runs or ran last."""
        progress = self.progress
        return (0, 0) if progress is None else (progress.done, progress.total)

    async def start(self) -> None:
        """Begin to work, in the loop that will be served; go on with an activation that was interrupted."""
        self._loop = asyncio.get_running_loop()
        self._current.start()
        self._metrics.model_in_use(self._current.label, self._current.info.fingerprint)
        vector = await self._current.warm_up()
        await asyncio.to_thread(self._gallery.search, vector, 1, text="热身", mode="hybrid")
        state = await asyncio.to_thread(self.state)
        if state.pending is not None and not self._gallery.read_only:
            logger.info("model %s: its activation was interrupted and goes on", state.pending.label)
            self._begin(state.pending, back=state.back, resumed=True)

    def stop(self) -> None:
        """End the activation that runs; it goes on at the next start. Blocks; not in the loop's thread, which
        the activation needs."""
        if self._activation is not None:
            self._activation.stop(forget=False)
            self._activation.join()

    def close(self) -> None:
        """Finish what was accepted. Blocks."""
        self._current.close()

    async def run(self, work: Callable[[Generation], Awaitable[T]]) -> T:
        """`work` with the model in use, again from the start if that changes before it is done."""
        while True:
            generation = self._current
            with generation.used():
                try:
                    return await work(generation)
                except ModelChanged:
                    self._metrics.repeated.inc()
            await self._next(generation)

    def activate(self, version: str, name: str | None) -> bool:
        """Begin to activate "0003", "lite/0003" or "base". Whether there is anything to do.

        Raises:
            ApiError: 404 unknown, 409 something else runs or it cannot be done.
        """
        state = self.state()
        target = state.base if version == BASE and name is None else self._find(version, name)
        if target.fingerprint == state.active.fingerprint:
            return False
        self._begin(target, back=False)
        return True

    def rollback(self) -> None:
        """Begin to go back to the model that was in use before. Raises ApiError 409."""
        state = self.state()
        if not state.history:
            raise ApiError(409, "no_previous_model", "no other model was in use before")
        self._begin(state.history[-1], back=True)

    def cancel(self) -> None:
        """Stop the activation that runs, and forget it. Raises ApiError 409 if none does."""
        activation = self._activation
        if activation is None or not activation.running:
            raise ApiError(409, "no_activation", "no activation is running")
        activation.stop(forget=True)

    def _find(self, version: str, name: str | None) -> ModelRef:
        if name is None and "/" in version:
            name, _, version = version.partition("/")
        known = self.versions.list()
        found = [one for one in known if one.version == version and name in (None, one.name)]
        own = [one for one in found if one.name == self._current.line]
        if not found:
            labels = ", ".join(one.label for one in known[-20:]) or "none"
            raise ApiError(404, "version_not_found", f"no such version (there: {BASE}, {labels})"[:1000])
        if len(found) > 1 and len(own) != 1:
            labels = ", ".join(one.label for one in found)
            raise ApiError(409, "ambiguous_version", f"several models have this version: {labels}")
        return ref_of((own or found)[0], self._gallery.path)

    def _begin(self, target: ModelRef, *, back: bool, resumed: bool = False) -> None:
        assert self._loop is not None
        with self._beginning:
            if self._activation is not None and self._activation.running:
                label = self._activation.target.label
                raise ApiError(409, "activation_running", f"{label} is being activated; one at a time")
            try:
                find_model(self._gallery.path, target, self._settings.models_dir)
            except InputError:
                if not resumed:  # what is resumed says so in its progress
                    message = f"the files of {target.label} are not there any more"
                    raise ApiError(409, "version_not_found", message) from None
            same = target.image_fingerprint == self._current.encoder.image_fingerprint
            if not (same or resumed) and (bare := self._gallery.without_picture()):
                raise ApiError(409, "items_without_picture", bare_message(bare))
            around = Surroundings(
                self._gallery, self._settings, self._metrics, self._loop, self._install, self._recent
            )
            self._activation = Activation(target, self._current, around, back=back, resumed=resumed)
            self._activation.start()

    def _install(self, generation: Generation) -> None:
        """From now on `generation` answers."""
        assert self._loop is not None
        before, self._current = self._current, generation
        self._metrics.model_in_use(generation.label, generation.info.fingerprint)
        self._loop.call_soon_threadsafe(before.retire)

    async def _next(self, generation: Generation) -> None:
        """Wait until another generation than `generation` is in use, whose vectors the gallery has not any
        more: either the activation here is about to install it, or another process changed the gallery."""
        activation = self._activation
        while activation is not None and activation.running and generation is self._current:
            try:
                await asyncio.wait_for(generation.replaced.wait(), 0.05)
            except asyncio.TimeoutError:
                continue
        if generation is self._current:
            if self._following is None:
                self._following = asyncio.create_task(self._follow())
            await asyncio.shield(self._following)

    async def _follow(self) -> None:
        """Load the model that another process activated in this gallery."""
        try:
            self._install(await asyncio.to_thread(self._load_active))
        except CnclipError as error:
            logger.error("the gallery's model was changed, and the new one cannot be used: %s", error)
            raise ApiError(
                503, "not_ready", "the gallery's model was changed, and the new one cannot be loaded here"
            ) from None
        finally:
            self._following = None

    def _load_active(self) -> Generation:
        ref = self.state().active
        logger.info("model %s was activated elsewhere and is loaded", ref.label)
        encoder = load_model(find_model(self._gallery.path, ref, self._settings.models_dir))
        if encoder.fingerprint != ref.fingerprint:
            raise InputError(f"{ref.model}: is not the model of the gallery (fingerprint differs)")
        generation = Generation(encoder, ref, self._settings, self._metrics)
        generation.start()
        return generation
