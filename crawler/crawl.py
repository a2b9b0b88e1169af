"""The crawl: each query is searched once, its first good pictures go into the cache, one request at a time.

The way of a query: cached? → known miss? → pace → search → what is the page? → candidates → pace → picture →
checks → cache → marks. Whatever is not plainly a good picture of this query is a miss with a reason.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from cache.picture_cache import PictureCache
from crawler.clock import Clock, SystemClock
from crawler.collect import Collector
from crawler.errors import CrawlError, LayoutError
from crawler.marks import Marks
from crawler.policy import Policy
from crawler.search import Searcher
from crawler.source import ImageSource
from crawler.types import Outcome, PageState, QueryReport, SearchResult

MAX_UNKNOWN = 3  # queries in a row with pages we do not know
MAX_QUERY_LENGTH = 200
SPARE_CANDIDATES = 7  # with the one that is wanted: up to 8 are looked at


@dataclass(frozen=True)
class CrawlOptions:
    """pictures: wanted per query. max_queries: searched per run, cached ones not counted. retry_misses: ask
    again for queries that were missed lately."""

    pictures: int = 1
    max_queries: int = 200
    retry_misses: bool = False


@dataclass
class Summary:
    """What a run did: queries by outcome, refused pictures by reason, new pictures, queries the site was
    asked for, searches sent (retries too), whether the cap of a run ended it."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    new_pictures: int = 0
    asked: int = 0
    searches: int = 0
    capped: bool = False

    @property
    def complete(self) -> bool:
        """Whether a rerun has nothing left to do."""
        return not self.capped and all(outcome.done for outcome in self.outcomes)


def searchable(query: str) -> bool:
    """Whether there is anything to search for: a letter, digit or symbol (emoji), and not too many."""
    kinds = {unicodedata.category(character)[0] for character in query}
    broken = any(unicodedata.category(character) == "Cs" for character in query)
    return len(query) <= MAX_QUERY_LENGTH and bool(kinds & {"L", "N", "S"}) and not broken


class Crawl:
    """One run over queries. Not thread-safe; `summary` is valid at any time, also after an exception."""

    def __init__(
        self,
        source: ImageSource,
        cache: PictureCache,
        policy: Policy,
        marks: Marks,
        options: CrawlOptions = CrawlOptions(),
        *,
        clock: Clock | None = None,
    ) -> None:
        self.summary = Summary()
        self._source, self._cache, self._policy, self._marks = source, cache, policy, marks
        self._options, self._clock = options, clock or SystemClock()
        self._searcher = Searcher(source, policy, marks, self._clock)
        self._collector = Collector(source, cache, policy, self._clock)
        self._unknown_in_a_row = 0

    def run(self, queries: Iterable[str], *on_report: Callable[[QueryReport], None]) -> Summary:
        """Crawl for `queries` in order, each once; the source is opened when the first one needs it.

        Each of `on_report` is called with every query's report.

        Raises:
            BlockedError, LoginError, LayoutError, BrowserError, CrawlError: the run had to stop; what was
            stored stays, and a rerun goes on from there.
        """
        seen: set[str] = set()
        try:
            for query in map(str.strip, queries):
                if query in seen:
                    continue
                seen.add(query)
                report = self._one(query)
                if report is None:
                    self.summary.capped = True
                    break
                self._count(report)
                for tell in on_report:
                    tell(report)
                self._judge(report)
        except CrawlError as error:
            self._marks.event("stopped", error=type(error).__name__, detail=str(error))
            raise
        finally:
            self.summary.searches = self._searcher.searches
            self._source.close()
        return self.summary

    def _count(self, report: QueryReport) -> None:
        self.summary.outcomes[report.outcome] += 1
        self.summary.refused.update(report.refused)

    def _one(self, query: str) -> QueryReport | None:
        """From a query to its report; what is known already costs no request. None: the cap is reached."""
        if not searchable(query):
            return QueryReport(query, Outcome.UNUSABLE_QUERY, detail="nothing to search for")
        have = self._cache.pictures(query)
        missing = [n for n in range(1, self._options.pictures + 1) if n not in have]
        if not missing:
            return QueryReport(query, Outcome.CACHED, len(have))
        miss = self._cache.miss(query, now=self._clock.now())
        if miss and not self._options.retry_misses:
            outcome = Outcome.EMPTY if miss.reason == Outcome.EMPTY.value else Outcome.KNOWN_MISS
            return QueryReport(query, outcome, len(have), detail=f"known: {miss.reason}")
        if self.summary.asked >= self._options.max_queries:
            return None
        return self._ask(query, missing)

    def _ask(self, query: str, missing: list[int]) -> QueryReport:
        """Search for one query and store what is good; its marks are written in any case."""
        self.summary.asked += 1
        result = self._searcher.search(query, self._options.pictures + SPARE_CANDIDATES)
        report = QueryReport(
            query, _outcome(result), state=result.state, layout=result.layout, detail=result.detail
        )
        if result.state is PageState.RESULTS:
            found = self._collector.collect(query, result.candidates, missing, result.layout)
            self.summary.new_pictures += len(found.stored)
            missing = [n for n in missing if n not in found.stored]
            lacking = Outcome.LOAD_FAILED if found.site_failed else Outcome.NO_GOOD_PICTURE
            outcome = lacking if missing else Outcome.OK
            report = replace(report, outcome=outcome, refused=found.refused)
        report = replace(report, pictures=len(self._cache.pictures(query)))
        if report.outcome.remembered:
            self._cache.put_miss(query, report.outcome.value, report.detail, now=self._clock.now())
        self._marks.query(report, self._cache.directory(query).name, missing, result.url)
        return report

    def _judge(self, report: QueryReport) -> None:
        """Stop the run when one failure follows another. Raises LayoutError, CrawlError."""
        if report.state is None:  # the site was not asked
            return
        if report.state is PageState.UNKNOWN:
            self._unknown_in_a_row += 1
            if self._unknown_in_a_row >= MAX_UNKNOWN:
                raise LayoutError(
                    f"layout changed: {MAX_UNKNOWN} result pages in a row are not as the profile describes; "
                    f"what they look like now is in {self._marks.dumps}"
                )
        else:
            self._unknown_in_a_row = 0
        if report.outcome not in (Outcome.LOAD_FAILED, Outcome.UNKNOWN_LAYOUT):
            self._policy.succeeded()
        elif report.outcome is Outcome.LOAD_FAILED:
            self._policy.failed(f"{report.outcome.value} {report.detail}".strip())


def _outcome(result: SearchResult) -> Outcome:
    """What a final page without looking at its pictures means for the query."""
    if result.state is PageState.EMPTY:
        return Outcome.EMPTY
    if result.state is PageState.UNKNOWN:
        return Outcome.UNKNOWN_LAYOUT
    return Outcome.OK if result.state is PageState.RESULTS else Outcome.LOAD_FAILED
