"""From the candidates of one query to its pictures in the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from cache.picture_cache import PictureCache
from cache.picture_meta import Provenance
from crawler.clock import Clock
from crawler.picture_checks import is_duplicate
from crawler.policy import Policy
from crawler.source import ImageSource
from crawler.types import Candidate, Picture, Refusal, Refused

MAX_RETRY_AFTER_S = 60.0
_WORTH_A_RETRY = (Refusal.THROTTLED, Refusal.TOO_SLOW)
_WORTH_THE_OTHER_SIZE = (Refusal.GONE, Refusal.STATUS, Refusal.TOO_SMALL, Refusal.TOO_FEW_BYTES)


@dataclass
class Found:
    """Numbers of the pictures that were stored, and refusals by reason."""

    stored: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def site_failed(self) -> bool:
        """Whether nothing came of it, and that says nothing about the pictures."""
        return not self.stored and all(Refusal(reason).of_transport for reason in self.refused)


class Collector:
    """Fetches candidates in order, one at a time, until all wanted pictures are stored."""

    def __init__(self, source: ImageSource, cache: PictureCache, policy: Policy, clock: Clock) -> None:
        self._source, self._cache, self._policy, self._clock = source, cache, policy, clock

    def collect(
        self, query: str, candidates: Iterable[Candidate], missing: Sequence[int], layout: str = ""
    ) -> Found:
        """Store the first good pictures under the `missing` numbers of `query`.

        A picture that this query has already (same bytes, or the same to look at) is a duplicate.
        """
        found = Found()
        numbers = list(missing)
        known = self._known(query)
        for candidate in candidates:
            if not numbers:
                break
            picture = self._fetch(candidate, known, found.refused)
            if picture is Refusal.THROTTLED:
                break  # and no more requests now
            if not isinstance(picture, Picture):
                continue
            number = numbers.pop(0)
            self._cache.put(query, number, picture.jpeg, self._provenance(candidate, picture, layout))
            known.append((picture.sha256, picture.dhash))
            found.stored.append(number)
        return found

    def _known(self, query: str) -> list[tuple[str, int]]:
        """(sha256, dhash) of what is stored for the query."""
        stored = (self._cache.provenance(query, number) for number in self._cache.pictures(query))
        return [(p.original_sha256, int(p.dhash, 16)) for p in stored if p and p.dhash]

    def _fetch(
        self, candidate: Candidate, known: Sequence[tuple[str, int]], refused: Counter[str]
    ) -> Picture | Refusal | None:
        """The candidate's picture if it is good and new; another size of it where that may help. THROTTLED:
        the host wants a longer pause than we wait."""
        for url in candidate.image_urls:
            got = self._fetch_paced(candidate, url)
            wait = got.retry_after or 0.0 if isinstance(got, Refused) else 0.0
            if isinstance(got, Refused) and got.reason in _WORTH_A_RETRY and wait <= MAX_RETRY_AFTER_S:
                self._clock.sleep(wait)
                got = self._fetch_paced(candidate, url)
            if isinstance(got, Picture):
                if not any(is_duplicate((got.sha256, got.dhash), other) for other in known):
                    return got
                got = Refused(Refusal.DUPLICATE, url)
            refused[got.reason.value] += 1
            if wait > MAX_RETRY_AFTER_S:
                return Refusal.THROTTLED
            if got.reason not in _WORTH_THE_OTHER_SIZE:
                return None
        return None

    def _fetch_paced(self, candidate: Candidate, url: str) -> Picture | Refused:
        self._policy.wait_for_picture()
        try:
            return self._source.fetch(candidate, url)
        finally:
            self._policy.fetched()

    def _provenance(self, candidate: Candidate, picture: Picture, layout: str) -> Provenance:
        stamp = datetime.fromtimestamp(self._clock.now(), timezone.utc)
        return Provenance(
            source=self._source.name,
            item_id=candidate.item_id,
            image_url=picture.url,
            page_url=candidate.page_url,
            title=candidate.title,
            layout=layout,
            fetched_at=stamp.isoformat(timespec="seconds"),
            original_sha256=picture.sha256,
            width=picture.width,
            height=picture.height,
            dhash=f"{picture.dhash:016x}",
        )
