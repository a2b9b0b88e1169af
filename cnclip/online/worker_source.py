"""The pictures of one cycle of an online worker: those people praised, and fresh ones from a source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cnclip.errors import ImageError
from cnclip.image import decode_image
from cnclip.online.looks import SAME_PICTURE, difference_hash
from cnclip.online.source import Answer, FreshPicture, ImageSource, Miss
from cnclip.online.worker_state import Said, Wanted
from cnclip.text import normalize

FEEDBACK = "feedback"
DISLIKED, NO_FURTHER = "people say it is wrong", "no further picture"

logger = logging.getLogger(__name__)

LASTING = ("empty", "no_good_picture", NO_FURTHER, DISLIKED)  # reasons that will be the same tomorrow


@dataclass
class CycleSource:
    """An ImageSource that gives each query the picture that is next for it, and what was praised for it.

    inner: of fresh pictures; None: there are none. wanted: by normalised query. praised, dislikes: as they
    were said. After a fetch: missed, normalised query → why it has no fresh picture; rejected, (normalised
    query, number) of fresh pictures that people rejected; withheld, (id, time) of praise that has no picture
    any more, or only one that others rejected.
    """

    inner: ImageSource | None
    wanted: Mapping[str, Wanted]
    praised: Sequence[Said]
    dislikes: Sequence[Said]
    picture_of: Callable[[Said], bytes | None]
    missed: dict[str, str] = field(default_factory=dict)
    rejected: set[tuple[str, int]] = field(default_factory=set)
    withheld: set[tuple[int, float]] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.inner.name if self.inner is not None else FEEDBACK

    def prefetch(self, queries: Sequence[str]) -> None:
        """See ImageSource."""
        if self.inner is not None and (asked := self._asked(queries)):
            self.inner.prefetch(asked)

    def fetch(
        self,
        queries: Sequence[str],
        numbers: Sequence[int],  # noqa: ARG002
        deadline: float,
    ) -> Mapping[str, Answer]:
        """See ImageSource. Which number a query is at is known here better than to the round."""
        praised = {query: self._praised(query) for query in queries}
        fresh = self._fresh(queries, deadline)
        answers: dict[str, Answer] = {}
        for query in queries:
            answer = fresh.get(query, Miss("no picture of the item"))
            more = [] if isinstance(answer, Miss) else answer
            reason = answer.reason if isinstance(answer, Miss) else DISLIKED
            answers[query] = [*praised[query], *more] or Miss(reason)
        return answers

    def _asked(self, queries: Sequence[str]) -> list[str]:
        return [query for query in queries if normalize(query) in self.wanted]

    def _fresh(self, queries: Sequence[str], deadline: float) -> dict[str, Answer]:
        """The next picture of each query that is to have one; what goes wrong costs no praise."""
        asked = self._asked(queries)
        if self.inner is None or not asked:
            return {}
        numbers = {query: self.wanted[normalize(query)].number for query in asked}
        try:
            found = self.inner.fetch(asked, sorted(set(numbers.values())), deadline)
        except Exception as error:  # of whatever fills the source in: there are no fresh pictures then
            logger.warning("%s failed: %s: %s", self.inner.name, type(error).__name__, error)
            found = {}
        answers: dict[str, Answer] = {}
        for query in asked:
            answer, number = found.get(query, Miss("no answer")), numbers[query]
            if isinstance(answer, Miss):
                self.missed[normalize(query)] = answer.reason
                answers[query] = answer
                continue
            own = [picture for picture in answer if picture.number == number]
            if not own:
                self.missed[normalize(query)] = NO_FURTHER
            elif self._is_rejected(query, own[0].data):
                self.rejected.add((normalize(query), number))
                own = []
            answers[query] = own
        return answers

    def _praised(self, query: str) -> list[FreshPicture]:
        """Pictures that people praised for the query, and nobody else rejected."""
        pictures = []
        for said in self.praised:
            if said.query != normalize(query):
                continue
            data = self.picture_of(said)
            if data is None or self._is_rejected(query, data):
                self.withheld.add((said.id, said.time))
            else:
                pictures.append(FreshPicture(query, 0, data, {"source": FEEDBACK, "item": said.item_id}))
        return pictures

    def _is_rejected(self, query: str, data: bytes) -> bool:
        """Whether a picture looks like one that people rejected for the query."""
        own = look(data)
        return own is not None and any(same_look(own, other) for other in self._looks(normalize(query)))

    def _looks(self, key: str) -> list[int]:
        """Hashes of the pictures that people rejected for a query."""
        found = (self.picture_of(said) for said in self.dislikes if said.query == key)
        return [seen for data in found if data is not None and (seen := look(data)) is not None]


def look(data: bytes) -> int | None:
    """The hash of a picture, None where it cannot be read."""
    try:
        return difference_hash(decode_image(data))
    except ImageError:
        return None


def same_look(one: int, other: int) -> bool:
    """Whether two hashes are of one picture."""
    return (one ^ other).bit_count() <= SAME_PICTURE
