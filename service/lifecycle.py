"""Start and stop: open the model and the gallery, warm up, drain."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager

from fastapi import FastAPI
from PIL import Image

from cache.embedding_cache import EmbeddingCache
from cnclip.errors import InputError
from service.deps import Service
from service.encoder import Embedder, EncoderProtocol
from service.gallery import Gallery
from service.gallery.manifest import read_manifest
from service.metrics import Metrics
from service.searcher import Searcher
from service.settings import ServiceSettings
from service.writer import Writer

logger = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def load_encoder(settings: ServiceSettings) -> EncoderProtocol:
    """The model that `settings` name, or the one that made the gallery. Imports torch, which takes seconds.

    Raises:
        InputError: there is no gallery (the message says how to make one), or no such model.
        WeightsError: the model's files are broken.
    """
    path = settings.gallery
    if not Gallery.exists(path):
        raise InputError(f"{path}: no gallery here; make one with: cnclip index PICTURES --gallery {path}")
    name = settings.model or read_manifest(path).model_name

    import cnclip

    encoder: EncoderProtocol = cnclip.load(name)
    return encoder


def open_gallery(settings: ServiceSettings, encoder: EncoderProtocol) -> Gallery:
    """The gallery that `settings` name.

    Raises:
        GalleryError: it is missing or broken. ModelMismatchError: another model made it.
        GalleryLocked: another process is writing it.
    """
    return Gallery.open(
        settings.gallery,
        fingerprint=encoder.fingerprint,
        model_name=encoder.name,
        read_only=settings.read_only,
    )


def make_lifespan(
    settings: ServiceSettings, metrics: Metrics, encoder: EncoderProtocol | None, gallery: Gallery | None
) -> Lifespan:
    """Lifespan of an app. What is not given is opened, and closed again."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            model = encoder if encoder is not None else await asyncio.to_thread(load_encoder, settings)
            items = gallery
            if items is None:
                items = stack.enter_context(await asyncio.to_thread(open_gallery, settings, model))
            service = _assemble(settings, metrics, model, items, stack)
            await _warm_up(service)
            app.state.service = service
            try:
                yield
            finally:
                app.state.service = None

    return lifespan


def _assemble(
    settings: ServiceSettings, metrics: Metrics, encoder: EncoderProtocol, gallery: Gallery, stack: ExitStack
) -> Service:
    cache = EmbeddingCache(encoder.fingerprint, settings.cache_size)
    embedder = Embedder(encoder, settings, metrics, cache)
    stack.callback(embedder.close)
    searcher = Searcher(gallery, encoder, embedder, settings, metrics)
    stack.callback(searcher.close)
    writer = Writer(gallery, embedder, settings, metrics)
    stack.callback(writer.close)
    embedder.start()
    metrics.watch(queue_depth=lambda: embedder.batcher.depth, gallery_items=lambda: len(gallery))
    return Service(settings, encoder, gallery, embedder, searcher, writer)


async def _warm_up(service: Service) -> None:
    """One search of each kind, so that the first user does not wait for dictionaries and kernels."""
    started = time.perf_counter()
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(picture, "PNG")
    (text,) = await service.embedder.texts(["热身"])
    await service.embedder.image(picture.getvalue(), "warm-up")
    await asyncio.to_thread(service.gallery.search, text.vector, 1, text="热身", mode="hybrid")
    logger.info("warmed up in %.0f ms", (time.perf_counter() - started) * 1000)
