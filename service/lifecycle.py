"""Start and stop: open the model and the gallery, warm up, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager

from fastapi import FastAPI

from cnclip.errors import InputError
from service.deps import Service
from service.encoder import EncoderProtocol
from service.feedback import FeedbackTaker
from service.gallery import Gallery, find_model, read_models
from service.generation import load_model
from service.journal import Journal
from service.metrics import Metrics
from service.models import Models
from service.query_log import QueryLog
from service.searcher import Searcher
from service.settings import ServiceSettings
from service.writer import Writer

logger = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def load_encoder(settings: ServiceSettings) -> EncoderProtocol:
    """The model that `settings` name, or the one that made the gallery. Imports torch, which takes seconds.

    Raises:
        InputError: there is no gallery (the message says how to make one), or no such model.
        GalleryError: it is broken.
        WeightsError: the model's files are broken.
    """
    path = settings.gallery
    if not Gallery.exists(path):
        raise InputError(f"{path}: no gallery here; make one with: cnclip index PICTURES --gallery {path}")
    name = settings.model or find_model(path, read_models(path).active, settings.models_dir)
    return load_model(name)


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
            started = time.perf_counter()
            await service.models.start()
            logger.info("ready in %.0f ms", (time.perf_counter() - started) * 1000)
            app.state.service = service
            try:
                yield
            finally:
                app.state.service = None
                await asyncio.to_thread(service.models.stop)

    return lifespan


def _assemble(
    settings: ServiceSettings, metrics: Metrics, encoder: EncoderProtocol, gallery: Gallery, stack: ExitStack
) -> Service:
    journal = None if settings.journal_path is None else Journal(settings.journal_path).open()
    query_log = None
    if journal is not None:
        stack.callback(journal.close)
        if settings.query_log:
            query_log = QueryLog(journal, settings.query_log_size, metrics)
            stack.callback(query_log.close)
    models = Models(
        settings, metrics, gallery, encoder, lambda: journal.recent_queries(32) if journal is not None else []
    )
    stack.callback(models.close)
    searcher = Searcher(gallery, models, settings, metrics, query_log)
    stack.callback(searcher.close)
    writer = Writer(gallery, models, settings, metrics)
    stack.callback(writer.close)
    feedback = None
    if journal is not None:
        feedback = FeedbackTaker(journal, gallery, models, settings.queue_size, metrics)
        stack.callback(feedback.close)
    metrics.watch(
        queue_depth=lambda: models.current.embedder.batcher.depth,
        gallery_items=lambda: len(gallery),
        activation=models.items,
    )
    return Service(settings, gallery, models, searcher, writer, feedback)
