"""Where fresh pictures come from, as the learner sees it. An entry point fills it in with a crawler, a cache
or a folder; this package knows none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class FreshPicture:
    """A picture that was found for a query.

    number: 1, 2, …, as the cache counts the pictures of a query. data: the encoded bytes. origin: where it is
    from, for people ("source", "page_url", "image_url", "title", "fetched_at", "file"); empty if unknown.
    """

    query: str
    number: int
    data: bytes
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Miss:
    """No picture, and why, in a few words."""

    reason: str


Answer = Sequence[FreshPicture] | Miss
"""What a source has for one query: pictures, at least one, or why there is none."""


class ImageSource(Protocol):
    """A place that has pictures for queries. One thread uses it at a time."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def prefetch(self, queries: Sequence[str]) -> None:
        """Be told what will be asked for. Returns at once."""
        ...

    def fetch(self, queries: Sequence[str], numbers: Sequence[int], deadline: float) -> Mapping[str, Answer]:
        """The pictures `numbers` of each query, as far as there are any by `deadline` (`time.monotonic()`).

        A query that is left out counts as a miss. Whatever is raised ends the source for this round.
        """
        ...
