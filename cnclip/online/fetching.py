"""Asking a source for pictures without ever waiting longer than the budget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnclip.online.source import Answer, FreshPicture, ImageSource, Miss

logger = logging.getLogger(__name__)

GRACE_S = 2.0  # for an answer that comes at the deadline
HANGS, FAILED, LEFT_OUT = "the source does not answer", "the source failed", "no answer"


@dataclass
class Fetched:
    """pictures: in the order of the queries, then by number. missed: query → reason."""

    pictures: list[FreshPicture] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)


class PatientSource:
    """Wraps a source whose calls may hang or raise: a round then goes on without it.

    Each call runs in a thread of its own; one that has not come back keeps the source from being asked again.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._working: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._source.name

    def fetch(self, queries: Sequence[str], numbers: Sequence[int], budget_s: float) -> Fetched:
        """The pictures `numbers` of each query, as far as they come within `budget_s` seconds."""
        if self._working is not None and self._working.is_alive():
            return _sorted(queries, {}, HANGS)
        deadline = time.monotonic() + budget_s
        answers: dict[str, Answer] = {}
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                self._source.prefetch(queries)
                answers.update(self._source.fetch(queries, numbers, deadline))
            except BaseException as error:  # whatever a crawler dies of, training goes on
                errors.append(error)

        self._working = threading.Thread(target=ask, name="online-source", daemon=True)
        self._working.start()
        self._working.join(budget_s + GRACE_S)
        if self._working.is_alive():
            logger.warning("%s does not answer; going on without it", self.name)
            return _sorted(queries, {}, HANGS)
        if errors:
            logger.warning("%s failed: %s: %s", self.name, type(errors[0]).__name__, errors[0])
            return _sorted(queries, {}, FAILED)
        return _sorted(queries, answers, LEFT_OUT)


def _sorted(queries: Sequence[str], answers: Mapping[str, Answer], otherwise: str) -> Fetched:
    found = Fetched()
    for query in queries:
        answer = answers.get(query, Miss(otherwise))
        if isinstance(answer, Miss) or not answer:
            found.missed[query] = answer.reason if isinstance(answer, Miss) else LEFT_OUT
        else:
            found.pictures += sorted(answer, key=lambda picture: picture.number)
    return found
