"""What routes ask for: the running service, ids from the path, permission to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Path, Request
from pydantic import TypeAdapter, ValidationError

from service.encoder import Embedder, EncoderProtocol
from service.errors import ApiError
from service.feedback import FeedbackTaker
from service.gallery import Gallery
from service.models import Models
from service.schemas import ItemIdText
from service.searcher import Searcher
from service.settings import ServiceSettings, names_loopback
from service.writer import Writer


@dataclass(frozen=True)
class Service:
    """Everything that lives from start to shutdown; `app.state.service`."""

    settings: ServiceSettings
    gallery: Gallery
    models: Models
    searcher: Searcher
    writer: Writer
    feedback: FeedbackTaker | None

    @property
    def encoder(self) -> EncoderProtocol:
        """Of the model in use now; a request that asks twice may get two."""
        return self.models.current.encoder

    @property
    def embedder(self) -> Embedder:
        """Of the model in use now."""
        return self.models.current.embedder

    @property
    def trusted(self) -> bool:
        """Whether this server can tell who may write: it has a key, or only this machine reaches it."""
        return self.settings.api_key is not None or self.settings.local_only

    @property
    def writable(self) -> bool:
        """Whether writes are possible at all: not read-only, and not open to a network without a key."""
        return not self.settings.read_only and self.trusted


async def get_service(request: Request) -> Service:
    service: Service | None = getattr(request.app.state, "service", None)
    if service is None:
        raise ApiError(503, "not_ready", "the service is starting or stopping")
    return service


ServiceDep = Annotated[Service, Depends(get_service)]

_ITEM_ID: TypeAdapter[str] = TypeAdapter(ItemIdText)


async def get_item_id(
    item_id: Annotated[str, Path(alias="id", description="percent-encoded, slashes included (a/b is a%2Fb)")],
) -> str:
    """The id meant by the path. `RequestContext` leaves item paths encoded, so that `a%2Fimage` is an id
    and `a/image` the picture of `a`; a plain slash inside an id works too, where it is not ambiguous."""
    try:
        return _ITEM_ID.validate_python(unquote(item_id, errors="strict"))
    except (ValidationError, UnicodeDecodeError):
        raise ApiError(422, "invalid_request", "not a possible item id") from None


ItemId = Annotated[str, Depends(get_item_id)]


async def require_write(request: Request, service: ServiceDep) -> None:
    """Refuse writes when read-only, and from those who may not (`require_trust`).

    Raises:
        ApiError: 403 with the reason.
    """
    if service.settings.read_only:
        raise ApiError(403, "read_only", "this gallery is served read-only")
    await require_trust(request, service)


async def require_trust(request: Request, service: ServiceDep) -> None:
    """Refuse what comes without an API key from anywhere but this machine.

    With a key, the middleware has checked it. Without one, the address listened on must be this machine's, as
    well as the host name asked for (the middleware has checked that) and the page that asks.

    Raises:
        ApiError: 403 with the reason.
    """
    if service.settings.api_key is not None:
        return
    origin = request.headers.get("origin")
    local = origin is None or names_loopback(origin.partition("://")[2])
    if not (service.trusted and local):
        raise ApiError(
            403, "api_key_required", "writing from another machine needs an API key (CNCLIP_API_KEY)"
        )
