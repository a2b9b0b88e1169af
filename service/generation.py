"""A model in use, with all that must be of one version with it: queue, cache of query vectors, name."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
from collections.abc import Iterator

from PIL import Image

from cache.embedding_cache import EmbeddingCache
from service.batcher import Vectors
from service.encoder import Embedder, EncoderProtocol
from service.gallery import ModelRef
from service.metrics import Metrics
from service.schemas import ModelInfo
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)


def load_model(weights: str) -> EncoderProtocol:
    """The model that `weights` name. Imports torch, which takes seconds.

    Raises:
        InputError: there is no such model. WeightsError: its files are broken.
    """
    import cnclip

    encoder: EncoderProtocol = cnclip.load(weights)
    return encoder


class Generation:
    """One model from its activation to its retirement. A request uses one generation and no other.

    `replaced` is set when another one has taken its place. All but the constructor and `start` belongs to the
    event loop's thread.
    """

    def __init__(
        self, encoder: EncoderProtocol, ref: ModelRef, settings: ServiceSettings, metrics: Metrics
    ) -> None:
        self.encoder = encoder
        self.ref = ref
        self.info = ModelInfo(name=ref.version or encoder.name, fingerprint=encoder.fingerprint)
        self.embedder = Embedder(
            encoder, settings, metrics, EmbeddingCache(encoder.fingerprint, settings.cache_size)
        )
        self.replaced = asyncio.Event()
        self._users = 0

    @property
    def label(self) -> str:
        """What people call it: "lite/0003", or "lite" for a model that is not a version."""
        return self.info.name

    @property
    def line(self) -> str:
        """The name that it shares with its other versions: "lite"."""
        return self.label.partition("/")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask for to get this model."""
        return (self.label, self.line, self.info.fingerprint)

    def start(self) -> None:
        self.embedder.start()

    async def warm_up(self) -> Vectors:
        """One input of each kind, so that the first user does not wait for dictionaries and kernels. Returns
        a vector (dim,)."""
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), "white").save(picture, "PNG")
        (text,) = await self.embedder.texts(["热身"])
        await self.embedder.image(picture.getvalue(), "warm-up")
        return text.vector

    def close(self) -> None:
        """Finish what was accepted, then stop. Blocks."""
        self.embedder.close()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the model working until the block ends, whatever takes its place meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_idle()

    def retire(self) -> None:
        """Another generation is in use. This one ends with its last request."""
        self.replaced.set()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.replaced.is_set() and self._users == 0:
            logger.info("model %s is not in use any more", self.label)
            # Waits for what the model still computes for requests that were given up.
            threading.Thread(target=self.close, name="retire", daemon=True).start()
