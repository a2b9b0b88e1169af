"""Changes to the gallery: embed the pictures, then one transaction at a time. `routes/items.py` calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from cnclip.errors import ImageError
from service.encoder import Embedder
from service.errors import ApiError
from service.gallery import Gallery, Item, Row
from service.metrics import Metrics
from service.schemas import BatchItem, BatchResponse, ItemBody, ItemProblem, decode_base64_image
from service.settings import ServiceSettings

T = TypeVar("T")
Outcome = Item | ItemProblem


class Writer:
    """Serialises writes: they share one thread. What a method has answered is durable.

    Raises ApiError for refused requests, ImageError for a broken picture, and what `Embedder` raises.
    """

    def __init__(
        self, gallery: Gallery, embedder: Embedder, settings: ServiceSettings, metrics: Metrics
    ) -> None:
        self._gallery = gallery
        self._embedder = embedder
        self._settings = settings
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")

    def close(self) -> None:
        self._thread.shutdown()

    async def put(self, item_id: str, body: ItemBody, picture: bytes | None) -> tuple[Row, bool]:
        """Add or replace one item. Returns its row and whether it is new."""
        item = await self._item(item_id, body, picture)
        result = await self._write(partial(self._gallery.upsert, [item]))
        row = self._gallery.get(item_id)
        if row is None:  # deleted by somebody in between
            raise ApiError(409, "conflict", "the item was deleted meanwhile")
        return row, result.added > 0

    async def put_many(self, items: Sequence[BatchItem]) -> BatchResponse:
        """Add or replace all items that can be read, in one transaction; the others are reported."""
        if len(items) > self._settings.max_inputs:
            raise ApiError(422, "invalid_request", f"items: at most {self._settings.max_inputs}")
        if len({item.id for item in items}) < len(items):
            raise ApiError(422, "invalid_request", "items: an id occurs twice")
        outcomes: list[Outcome] = []
        step = self._settings.max_image_batch
        for first in range(0, len(items), step):  # a few at a time, so that searches get their turn
            part = enumerate(items[first : first + step], first)
            outcomes += await asyncio.gather(*(self._try_item(index, item) for index, item in part))
        good = [outcome for outcome in outcomes if isinstance(outcome, Item)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, ItemProblem)]
        if not good:
            return BatchResponse(added=0, updated=0, unchanged=0, failed=failed)
        result = await self._write(partial(self._gallery.upsert, good))
        return BatchResponse(
            added=result.added, updated=result.updated, unchanged=result.unchanged, failed=failed
        )

    async def delete(self, item_id: str) -> bool:
        """Whether there was such an item."""
        return await self._write(partial(self._gallery.delete, [item_id])) > 0

    async def _try_item(self, index: int, item: BatchItem) -> Outcome:
        try:
            picture = decode_picture(item.image, self._settings.max_upload_bytes)
            return await self._item(item.id, item, picture)
        except ImageError as error:
            return ItemProblem(index=index, id=item.id, code="image_unreadable", message=str(error))
        except ApiError as error:
            return ItemProblem(index=index, id=item.id, code=error.code, message=str(error.detail))

    async def _item(self, item_id: str, body: ItemBody, picture: bytes | None) -> Item:
        if picture is None:
            return await self._in_thread(partial(self._with_its_picture, item_id, body))
        vector = (await self._embedder.image(picture, item_id)).vector
        return Item(item_id, vector, body.title, body.attributes, picture)

    def _with_its_picture(self, item_id: str, body: ItemBody) -> Item:
        """The item with new words, and the picture and vector it has."""
        row, vectors = self._gallery.get(item_id), self._gallery.vectors([item_id])
        if row is None or item_id not in vectors:
            raise ApiError(422, "image_required", "a new item needs a picture")
        return Item(item_id, vectors[item_id], body.title, body.attributes, row.image)

    async def _write(self, change: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = await self._in_thread(change)
        self._metrics.stage_seconds.labels("write").observe(time.perf_counter() - began)
        return result

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


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
