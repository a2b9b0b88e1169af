"""Changes to the gallery: embed the pictures, then one transaction at a time. `routes/items.py` calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cnclip.errors import ImageError
from service.batcher import Vectors
from service.errors import ApiError
from service.gallery import Gallery, Item, Row, UpsertResult
from service.generation import Generation
from service.metrics import Metrics
from service.models import Models
from service.pool import BoundedPool
from service.schemas import BatchItem, BatchResponse, ItemBody, ItemProblem, decode_base64_image
from service.settings import ServiceSettings

T = TypeVar("T")


@dataclass(frozen=True)
class _Draft:
    """An item as asked for: with its new picture and vector, or with neither, to keep those it has.

    What it has is known only in the write itself; looked up before, it could be somebody's old picture.
    model: fingerprint of the model that made the vector; a gallery of another one refuses it.
    """

    item_id: str
    body: ItemBody
    model: str
    picture: bytes | None = None
    vector: Vectors | None = None
    index: int = 0


class Writer:
    """Serialises writes: they share one thread, where each is one job. What a method has answered is durable.

    Raises ApiError for refused requests, ImageError for a broken picture, QueueFullError when too many wait,
    and what `Embedder` raises. What was embedded with a model that is not in use any more when it is to be
    stored is embedded again.
    """

    def __init__(self, gallery: Gallery, models: Models, settings: ServiceSettings, metrics: Metrics) -> None:
        self._gallery = gallery
        self._models = models
        self._settings = settings
        self._metrics = metrics
        self._thread = BoundedPool(1, settings.queue_size, "write")

    def close(self) -> None:
        self._thread.close()

    async def put(self, item_id: str, body: ItemBody, picture: bytes | None) -> tuple[Row, bool]:
        """Add or replace one item. Returns its row and whether it is new."""
        self._thread.check()

        async def put(model: Generation) -> tuple[Row, bool]:
            draft = await self._draft(model, item_id, body, picture)
            return await self._write(partial(self._put, draft))

        return await self._models.run(put)

    async def put_many(self, items: Sequence[BatchItem]) -> BatchResponse:
        """Add or replace all items that can be read, in one transaction; the others are reported."""
        if len(items) > self._settings.max_inputs:
            raise ApiError(422, "invalid_request", f"items: at most {self._settings.max_inputs}")
        if len({item.id for item in items}) < len(items):
            raise ApiError(422, "invalid_request", "items: an id occurs twice")
        self._thread.check()

        async def put(model: Generation) -> BatchResponse:
            outcomes: list[_Draft | ItemProblem] = []
            step = self._settings.max_image_batch
            for first in range(0, len(items), step):  # a few at a time, so that searches get their turn
                part = enumerate(items[first : first + step], first)
                drafts = (self._try_draft(model, index, item) for index, item in part)
                outcomes += await asyncio.gather(*drafts)
            return await self._write(partial(self._put_many, model.info.fingerprint, outcomes))

        return await self._models.run(put)

    async def delete(self, item_id: str) -> bool:
        """Whether there was such an item."""
        return await self._write(partial(self._gallery.delete, [item_id])) > 0

    async def _try_draft(self, model: Generation, index: int, item: BatchItem) -> _Draft | ItemProblem:
        try:
            picture = decode_picture(item.image, self._settings.max_upload_bytes)
            return await self._draft(model, item.id, item, picture, index)
        except (ImageError, ApiError) as error:
            return _problem(index, item.id, error)

    async def _draft(
        self, model: Generation, item_id: str, body: ItemBody, picture: bytes | None, index: int = 0
    ) -> _Draft:
        made_by = model.info.fingerprint
        if picture is None:
            return _Draft(item_id, body, made_by, index=index)
        vector = (await model.embedder.image(picture, item_id)).vector
        return _Draft(item_id, body, made_by, picture, vector, index)

    def _put(self, draft: _Draft) -> tuple[Row, bool]:
        """In the writer's thread."""
        result = self._gallery.upsert([self._item(draft)], model=draft.model)
        row = self._gallery.get(draft.item_id)
        if row is None:  # by somebody who writes to the same gallery, but not through this writer
            raise ApiError(409, "conflict", "the item was deleted meanwhile")
        return row, result.added > 0

    def _put_many(self, model: str, outcomes: Sequence[_Draft | ItemProblem]) -> BatchResponse:
        """In the writer's thread."""
        good: list[Item] = []
        failed: list[ItemProblem] = []
        for outcome in outcomes:
            if isinstance(outcome, ItemProblem):
                failed.append(outcome)
                continue
            try:
                good.append(self._item(outcome))
            except ApiError as error:
                failed.append(_problem(outcome.index, outcome.item_id, error))
        result = self._gallery.upsert(good, model=model) if good else UpsertResult()
        return BatchResponse(
            added=result.added, updated=result.updated, unchanged=result.unchanged, failed=failed
        )

    def _item(self, draft: _Draft) -> Item:
        """What to store. In the writer's thread, so that nothing changes before it is stored."""
        item_id, body = draft.item_id, draft.body
        if draft.vector is not None:
            return Item(item_id, draft.vector, body.title, body.attributes, draft.picture)
        row, vectors = self._gallery.get(item_id), self._gallery.vectors([item_id])
        if row is None or item_id not in vectors:
            raise ApiError(422, "image_required", "a new item needs a picture")
        return Item(item_id, vectors[item_id], body.title, body.attributes, row.image)

    async def _write(self, change: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = await self._thread.run(change)
        self._metrics.stage_seconds.labels("write").observe(time.perf_counter() - began)
        return result


def _problem(index: int, item_id: str, error: ImageError | ApiError) -> ItemProblem:
    code, message = (
        (error.code, str(error.detail)) if isinstance(error, ApiError) else ("image_unreadable", str(error))
    )
    return ItemProblem(index=index, id=item_id, code=code, message=message)


def decode_picture(text: str | None, max_bytes: int) -> bytes | None:
    """Bytes of a base64 picture; None stays None.

    Raises:
        ApiError: 422 if it is not base64, 413 if it is larger than `max_bytes`.
    """
    if text is None:
        return None
    if len(text) > max_bytes * 4 // 3 + 256:
        raise too_large(max_bytes)
    try:
        return decode_base64_image(text)
    except ValueError as error:
        raise ApiError(422, "image_unreadable", str(error)) from None


def too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "payload_too_large", f"a picture may have at most {max_bytes:,} bytes")
