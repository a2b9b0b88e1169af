"""Fills the learner's `ImageSource`: from the cache alone, or with a crawler that fetches what it lacks."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from cache.errors import CacheError
from cache.picture_cache import PictureCache
from cache.picture_folder import Picture
from cnclip.online.source import Answer, FreshPicture, ImageSource, Miss
from crawler import provider as crawled
from run_scripts.online_crawler import Crawler
from run_scripts.online_settings import SourceSettings, check_source

logger = logging.getLogger(__name__)

NOT_CACHED, NO_SUCH_NUMBER, UNREADABLE = "not in the cache", "no further picture", "the cache cannot be read"
_TOLD = ("source", "page_url", "image_url", "title", "fetched_at")  # of a picture's provenance


@contextlib.contextmanager
def open_image_source(settings: SourceSettings, split: str = "valid") -> Iterator[ImageSource]:
    """The source that the settings name. Nothing is started before a picture is missing; at the end of the
    block whatever was started is stopped.

    Raises: InputError for settings that cannot work.
    """
    max_queries = check_source(settings, split)
    cache = PictureCache(settings.cache_folder(split))
    if settings.cache_only:
        yield CachedPictures(cache)
        return
    crawler = Crawler(cache, lambda left: settings.crawl_command(cache.root, left), max_queries)
    try:
        yield CrawledPictures(settings.source, cache, crawler, settings.pictures)
    finally:
        crawler.close()


class CachedPictures:
    """What is in the cache. Nothing is started, nothing is written, nobody is waited for."""

    name = "cache"

    def __init__(self, cache: PictureCache) -> None:
        self._cache = cache

    def prefetch(self, queries: Sequence[str]) -> None:
        """See ImageSource."""

    def fetch(
        self,
        queries: Sequence[str],
        numbers: Sequence[int],
        deadline: float,  # noqa: ARG002
    ) -> Mapping[str, Answer]:
        """See ImageSource. Never raises for what is wrong with the cache."""
        return {query: self._answer(query, numbers) for query in queries}

    def _answer(self, query: str, numbers: Sequence[int]) -> Answer:
        try:
            return pictures(self._cache, query, numbers) or Miss(why_none(self._cache, query, NOT_CACHED))
        except (OSError, CacheError) as error:
            logger.warning("%s", error)
            return Miss(UNREADABLE)


class CrawledPictures:
    """What is in the cache, and what a crawl brings in time.

    Args:
        pictures: of each query that a crawl looks for.
    """

    def __init__(self, name: str, cache: PictureCache, crawler: Crawler, pictures: int) -> None:
        self.name = name
        self._cache, self._crawler, self._pictures = cache, crawler, pictures
        self._complete: set[str] = set()

    def prefetch(self, queries: Sequence[str]) -> None:
        """See ImageSource. A round begins: a crawl that died may be started again."""
        self._crawler.allow_start()
        wanted = [query for query in queries if self._lacks(query)]
        if wanted and (provider := self._crawler.provider()) is not None:
            provider.prefetch(wanted)

    def fetch(self, queries: Sequence[str], numbers: Sequence[int], deadline: float) -> Mapping[str, Answer]:
        """See ImageSource. Whatever becomes of the crawl, it ends at the deadline with what is there."""
        there: dict[str, list[FreshPicture]] = {}
        later: dict[str, Answer] = {}
        try:
            there.update((query, pictures(self._cache, query, numbers)) for query in queries)
            wanting = [query for query, found in there.items() if len(found) < len(set(numbers))]
            if wanting:
                later = self._wait_for(wanting, numbers, deadline)
        except (OSError, CacheError) as error:
            logger.warning("%s: %s", self.name, error)
        return {query: later.get(query) or there.get(query) or Miss(UNREADABLE) for query in queries}

    def _wait_for(self, queries: Sequence[str], numbers: Sequence[int], deadline: float) -> dict[str, Answer]:
        """What there is of these queries once nothing more will come."""
        provider = self._crawler.provider()
        reasons: dict[str, str] = {}
        if provider is not None:
            # A crawl looks for so many and no more: a higher number would be waited for in vain.
            most = max(1, min(max(numbers), self._pictures))
            started = time.monotonic()
            found = provider.ensure(queries, most, deadline)
            reasons = {query: got.reason for query, got in found.items() if isinstance(got, crawled.Miss)}
            if time.monotonic() >= deadline:
                self._crawler.waited(time.monotonic() - started)
        otherwise = self._crawler.over or NOT_CACHED
        return {
            query: pictures(self._cache, query, numbers)
            or Miss(reasons.get(query) or why_none(self._cache, query, otherwise))
            for query in queries
        }

    def _lacks(self, query: str) -> bool:
        """Whether a crawl may find more pictures of the query."""
        if query not in self._complete and len(self._cache.pictures(query.strip())) >= self._pictures:
            self._complete.add(query)
        return query not in self._complete and self._cache.miss(query.strip()) is None


def pictures(cache: PictureCache, query: str, numbers: Sequence[int]) -> list[FreshPicture]:
    """The pictures `numbers` of a query that are in the cache, by number; each file is read once."""
    found = ((number, cache.picture(query.strip(), number)) for number in sorted(set(numbers)))
    return [_fresh(query, number, picture) for number, picture in found if picture is not None]


def why_none(cache: PictureCache, query: str, otherwise: str) -> str:
    """Why a query has none of the pictures that were asked for."""
    query = query.strip()
    if cache.pictures(query):
        return NO_SUCH_NUMBER
    miss = cache.miss(query)
    return miss.reason if miss is not None else otherwise


def _fresh(query: str, number: int, picture: Picture) -> FreshPicture:
    known = picture.stored.provenance if picture.stored is not None else None
    told = {name: str(getattr(known, name)) for name in _TOLD} if known is not None else {}
    return FreshPicture(query, number, picture.data, {**told, "file": str(picture.path)})
