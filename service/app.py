"""The FastAPI application. `cnclip serve` runs it; tests make many of them."""

from __future__ import annotations

from fastapi import FastAPI

from cnclip import __version__
from service.encoder import EncoderProtocol
from service.errors import install_error_handlers
from service.gallery import Gallery
from service.lifecycle import make_lifespan
from service.metrics import Metrics
from service.middleware import RequestContext
from service.routes import embeddings, feedback, health, items, models, pages, search
from service.settings import ServiceSettings

DESCRIPTION = (
    'Search pictures in Chinese. Errors are always `{"error": {"code", "message", "request_id"}}`. '
    "If the server has an API key, /v1/* wants it as `Authorization: Bearer …` or `X-API-Key: …`."
)


def create_app(
    settings: ServiceSettings, encoder: EncoderProtocol | None = None, gallery: Gallery | None = None
) -> FastAPI:
    """The service over one gallery.

    Args:
        settings: limits and addresses; `settings.gallery` and `settings.model` are opened at start-up
            unless `gallery` and `encoder` are given (those are not closed).
    """
    metrics = Metrics()
    app = FastAPI(
        title="cnclip",
        description=DESCRIPTION,
        version=__version__,
        lifespan=make_lifespan(settings, metrics, encoder, gallery),
        docs_url=None,  # FastAPI's page loads its scripts from a CDN; ours is in routes/pages.py
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(RequestContext, settings=settings, metrics=metrics)
    install_error_handlers(app)
    app.state.metrics = metrics
    for module in (search, items, embeddings, models, feedback, health, pages):
        app.include_router(module.router)
    pages.mount_static(app)
    return app
