"""One search: embed the query, ask the gallery, shape the answer. `routes/search.py` calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from service.batcher import Encoded, Vectors
from service.encoder import EncodedImage
from service.errors import ApiError
from service.gallery import Gallery, Hit, Row
from service.generation import Generation
from service.metrics import Metrics
from service.models import Models
from service.pool import BoundedPool
from service.query_log import QueryLog
from service.schemas import (
    ItemResponse,
    SearchOptions,
    SearchRequest,
    SearchResponse,
    SearchResult,
)
from service.settings import ServiceSettings

T = TypeVar("T")


async def within(deadline_s: float, work: Awaitable[T]) -> T:
    """`work`, or ApiError 504 and its cancellation when the time is up."""
    try:
        return await asyncio.wait_for(work, deadline_s)
    except asyncio.TimeoutError:
        raise ApiError(504, "deadline_exceeded", f"not done within {deadline_s:g} s") from None


def image_url(row: Row) -> str | None:
    """Path of an item's picture; its hash is in it, so that it may be cached for ever."""
    if row.image_sha256 is None:
        return None
    return f"/v1/items/{quote(row.id, safe='')}/image?v={row.image_sha256[:16]}"


def item_response(row: Row) -> ItemResponse:
    return ItemResponse(id=row.id, title=row.title, attributes=row.attributes, image_url=image_url(row))


class Searcher:
    """Searches of one gallery; every method is one request, answered by one model throughout.

    Raises ApiError for refused requests, InputError for an unknown filter operator, QueueFullError when too
    many wait, and what `Embedder` raises.
    """

    def __init__(
        self,
        gallery: Gallery,
        models: Models,
        settings: ServiceSettings,
        metrics: Metrics,
        query_log: QueryLog | None,
    ) -> None:
        self._gallery = gallery
        self._models = models
        self._settings = settings
        self._metrics = metrics
        self._query_log = query_log
        self._pool = BoundedPool(settings.threads, settings.queue_size, "search")

    def close(self) -> None:
        self._pool.close()

    async def by_request(self, request: SearchRequest, started: float) -> SearchResponse:
        """Search by text or by item. `started` is the `perf_counter` at which the request came in."""
        self.check_options(request)
        search = self._by_item if request.item_id is not None else self._by_text
        work = self._models.run(lambda model: search(model, request, started))
        response = await within(self._settings.deadline_s, work)
        if self._query_log is not None and request.text is not None:
            self._query_log.add(request.text, response.model.fingerprint, len(response.results))
        return response

    async def by_image(
        self, file: BinaryIO, name: str, options: SearchOptions, started: float
    ) -> SearchResponse:
        """Search by an encoded picture."""
        self.check_options(options)
        work = self._models.run(lambda model: self._by_image(model, file, name, options, started))
        return await within(self._settings.deadline_s, work)

    async def row(self, item_id: str) -> Row | None:
        """The catalogue's row of an item."""
        return await within(self._settings.deadline_s, self._pool.run(partial(self._gallery.get, item_id)))

    def check_options(self, options: SearchOptions) -> None:
        if options.top_k > self._settings.max_top_k:
            raise ApiError(422, "invalid_request", f"top_k: at most {self._settings.max_top_k}")
        text = getattr(options, "text", None)
        if text is not None:
            check_text(text, self._settings)

    async def _by_text(self, model: Generation, request: SearchRequest, started: float) -> SearchResponse:
        took: dict[str, float] = {"queue": 0.0, "encode": 0.0}
        vector = None
        if request.mode != "keyword":
            (encoded,) = await model.embedder.texts([request.text or ""])
            vector = encoded.vector
            took = _took(encoded)
        how = {"text": request.text, "mode": request.mode}
        hits = await self._ask(model, vector, request.top_k, request, took, **how)
        return self._answer(model, hits, took, started)

    async def _by_item(self, model: Generation, request: SearchRequest, started: float) -> SearchResponse:
        item_id = request.item_id or ""
        look_up = partial(self._gallery.vectors, [item_id], model=model.info.fingerprint)
        vectors = await self._pool.run(look_up)
        if item_id not in vectors:
            raise ApiError(404, "not_found", f"no item {item_id!r}")
        took: dict[str, float] = {"queue": 0.0, "encode": 0.0}
        hits = await self._ask(model, vectors[item_id], request.top_k + 1, request, took)
        others = [hit for hit in hits if hit.row.id != item_id]
        return self._answer(model, others[: request.top_k], took, started)

    async def _by_image(
        self, model: Generation, file: BinaryIO, name: str, options: SearchOptions, started: float
    ) -> SearchResponse:
        file.seek(0)  # it was read before, if the model was changed meanwhile
        encoded = await model.embedder.image(file, name)
        took = _took(encoded)
        hits = await self._ask(model, encoded.vector, options.top_k, options, took)
        return self._answer(model, hits, took, started)

    async def _ask(
        self,
        model: Generation,
        vector: Vectors | None,
        k: int,
        options: SearchOptions,
        took: dict[str, float],
        **how: Any,
    ) -> list[Hit]:
        """The gallery's hits, from the thread pool; writes took["search"].

        Raises ModelChanged: its vectors are not those of `model` any more.
        """
        began = time.perf_counter()
        search = partial(
            self._gallery.search,
            vector,
            k,
            filter=options.filter,
            min_relevance=options.min_relevance,
            model=model.info.fingerprint,
            **how,
        )
        hits = await self._pool.run(search)
        took["search"] = time.perf_counter() - began
        self._metrics.stage_seconds.labels("search").observe(took["search"])
        return hits

    def _answer(
        self, model: Generation, hits: Sequence[Hit], took: dict[str, float], started: float
    ) -> SearchResponse:
        took["total"] = time.perf_counter() - started
        results = [
            SearchResult(
                id=hit.row.id,
                score=hit.score,
                title=hit.row.title,
                image_url=image_url(hit.row),
                attributes=hit.row.attributes,
            )
            for hit in hits
        ]
        took_ms = {stage: round(seconds * 1000, 3) for stage, seconds in took.items()}
        return SearchResponse(results=results, no_match=not results, model=model.info, took_ms=took_ms)


def _took(encoded: Encoded) -> dict[str, float]:
    decode = {"decode": encoded.decode_s} if isinstance(encoded, EncodedImage) else {}
    return {**decode, "queue": encoded.queue_s, "encode": encoded.encode_s}


def check_text(text: str, settings: ServiceSettings) -> None:
    """Raises ApiError 422 if `text` is too long."""
    if len(text) > settings.max_text_length:
        raise ApiError(422, "text_too_long", f"a text may have at most {settings.max_text_length} characters")
