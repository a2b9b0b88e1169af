"""Takes feedback: checks that there is such an item, and stores it before it is acknowledged."""

from __future__ import annotations

import time
from functools import partial

from service.errors import ApiError
from service.gallery import Gallery
from service.journal import Journal
from service.metrics import Metrics
from service.model_schemas import FeedbackRequest, FeedbackResponse
from service.models import Models
from service.pool import BoundedPool


class FeedbackTaker:
    """One thread writes. Raises ApiError 404 for an unknown item, QueueFullError when too much waits."""

    def __init__(
        self, journal: Journal, gallery: Gallery, models: Models, waiting: int, metrics: Metrics
    ) -> None:
        self._journal = journal
        self._gallery = gallery
        self._models = models
        self._metrics = metrics
        self._thread = BoundedPool(1, waiting, "feedback")

    async def take(self, feedback: FeedbackRequest) -> FeedbackResponse:
        """Store a feedback; it is on disk when this returns."""
        fingerprint = self._models.current.info.fingerprint
        stored = await self._thread.run(partial(self._store, feedback, fingerprint))
        self._metrics.feedback.labels(str(feedback.relevant).lower()).inc()
        return FeedbackResponse(id=stored)

    def close(self) -> None:
        """Finish what was accepted. Blocks."""
        self._thread.close()

    def _store(self, feedback: FeedbackRequest, fingerprint: str) -> int:
        row = self._gallery.get(feedback.item_id)
        if row is None:
            raise ApiError(404, "not_found", f"no item {feedback.item_id!r}")
        return self._journal.add_feedback(
            time.time(), feedback.query, row.id, feedback.relevant, row.image_sha256, fingerprint
        )
