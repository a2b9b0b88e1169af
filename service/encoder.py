"""From texts and pictures to vectors: prepare (thread pool) → encode (the batcher's one thread) → cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from cache.embedding_cache import EmbeddingCache
from cnclip.errors import ImageError
from cnclip.image import ImageInput, PreprocessConfig, decode_image, resize_pixels
from cnclip.text import normalize
from service.batcher import Batcher, Encoded, Kind, Vectors
from service.metrics import Metrics
from service.pool import BoundedPool
from service.settings import ServiceSettings

Pixels = npt.NDArray[np.uint8]


class EncoderProtocol(Protocol):
    """What the service needs of a model; `cnclip.load` returns one. Vectors are float32 of unit length."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def image_fingerprint(self) -> str:
        """Of the image tower: models that share it make the same vectors of pictures."""
        ...

    @property
    def dim(self) -> int: ...
    @property
    def logit_scale(self) -> float: ...
    @property
    def preprocess(self) -> PreprocessConfig: ...
    @property
    def context_length(self) -> int: ...

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Vectors:
        """(n, dim)"""
        ...

    def encode_images(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int = 32,
        on_error: Any = "raise",
        skipped: list[tuple[int, ImageError]] | None = None,
    ) -> Vectors:
        """(n, dim)"""
        ...

    def prepare_image(self, image: ImageInput, *, name: str | None = None) -> Pixels:
        """(size, size, 3), decoded and resized; no model involved, any thread."""
        ...

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        """(n, size, size, 3) → (n, dim)"""
        ...


@dataclass(frozen=True)
class EncodedImage(Encoded):
    """An encoded picture, with the seconds its decoding took (and waited)."""

    decode_s: float


class Embedder:
    """The async face of the model. Raises what `Batcher.submit` and decoding raise."""

    def __init__(
        self, encoder: EncoderProtocol, settings: ServiceSettings, metrics: Metrics, cache: EmbeddingCache
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._metrics = metrics
        self._max_pixels = settings.max_pixels
        # Fewer than wait for the model: each holds a whole picture.
        self._pool = BoundedPool(settings.threads, 7 * settings.threads, "decode")
        self.batcher = Batcher(
            self._encode_batch,
            max_batch={"text": settings.max_batch, "image": settings.max_image_batch},
            queue_size=settings.queue_size,
            observe=metrics.observe_batch,
        )

    def start(self) -> None:
        self.batcher.start()

    def close(self) -> None:
        """Finish what was accepted, then stop. Blocks."""
        self._pool.close()
        self.batcher.close()

    async def texts(self, texts: Sequence[str]) -> list[Encoded]:
        """Vectors of `texts`, in order; those in the cache cost nothing."""
        found = [self._cached(text) for text in texts]
        missing = [text for text, vector in zip(texts, found, strict=True) if vector is None]
        fresh = iter(await self._encode("text", missing))
        answers = [Encoded(vector, 0.0, 0.0) if vector is not None else next(fresh) for vector in found]
        for text, vector, answer in zip(texts, found, answers, strict=True):
            if vector is None:
                self._cache.put(normalize(text), answer.vector)
        return answers

    async def image(self, source: bytes | BinaryIO, name: str) -> EncodedImage:
        """Vector of one encoded picture; `name` is what an ImageError calls it."""
        started = time.perf_counter()
        pixels = await self._pool.run(partial(self._prepare, source, name))
        decode_s = time.perf_counter() - started
        self._metrics.stage_seconds.labels("decode").observe(decode_s)
        (encoded,) = await self._encode("image", [pixels])
        return EncodedImage(encoded.vector, encoded.queue_s, encoded.encode_s, decode_s)

    def _cached(self, text: str) -> Vectors | None:
        vector = self._cache.get(normalize(text))
        self._metrics.cache_lookups.labels("miss" if vector is None else "hit").inc()
        return vector

    def _prepare(self, source: bytes | BinaryIO, name: str) -> Pixels:
        data = source if isinstance(source, bytes) else source.read()
        preprocess = self._encoder.preprocess
        # Not encoder.prepare_image: that one has the library's limit of pixels, not the settings'.
        image = decode_image(data, name=name, min_side=preprocess.size, max_pixels=self._max_pixels)
        return resize_pixels(image, preprocess)

    async def _encode(self, kind: Kind, payloads: Sequence[Any]) -> list[Encoded]:
        if not payloads:
            return []
        futures = self.batcher.submit(kind, payloads)
        # Cancelling this coroutine (deadline) cancels the futures, and the batcher skips them.
        encoded = await asyncio.gather(*map(asyncio.wrap_future, futures))
        for one in encoded:
            self._metrics.stage_seconds.labels("queue").observe(one.queue_s)
            self._metrics.stage_seconds.labels("encode").observe(one.encode_s)
        return encoded

    def _encode_batch(self, kind: Kind, payloads: list[Any]) -> Vectors:
        if kind == "text":
            return self._encoder.encode_texts(payloads, batch_size=len(payloads))
        return self._encoder.encode_pixels(np.stack(payloads))
