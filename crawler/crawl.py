"""The crawl: each query is searched once, its first good pictures go into the cache, one request at a time.

The way of a query: cached? → known miss? → pace → search → what is the page? → candidates → pace → picture →
checks → cache → marks. Whatever is not plainly a good picture of this query is a miss with a reason.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from cache.picture_cache import PictureCache
from crawler.clock import Clock, SystemClock
from crawler.collect import Collector
from crawler.errors import BlockedError, BrowserError, CrawlError, LayoutError, LoginError
from crawler.marks import Marks
from crawler.policy import Policy
from crawler.source import ImageSource
from crawler.types import Outcome, PageState, QueryReport, SearchResult

logger = logging.getLogger(__name__)

RETRIES = 2
MAX_UNKNOWN = 3  # queries in a row with pages we do not know
RELOGIN_S = 600  # a session that expires twice within this time is no session
RESTART_AFTER = 20  # queries that must end well before a dead browser is started once more
MAX_QUERY_LENGTH = 200
SPARE_CANDIDATES = 7  # with the one that is wanted: up to 8 are looked at
_MISSES = {
    Outcome.EMPTY,
    Outcome.NO_GOOD_PICTURE,
    Outcome.LOAD_FAILED,
    Outcome.UNUSABLE_QUERY,
}  # remembered in the cache, until they expire
_DONE = {Outcome.OK, Outcome.CACHED, Outcome.EMPTY, Outcome.UNUSABLE_QUERY}


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
    asked for, searches sent (retries too)."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    new_pictures: int = 0
    asked: int = 0
    searches: int = 0

    @property
    def complete(self) -> bool:
        """Whether a rerun has nothing left to do."""
        return not any(count for outcome, count in self.outcomes.items() if outcome not in _DONE)


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
        self._collector = Collector(source, cache, policy, self._clock)
        self._open = False
        self._unknown_in_a_row = 0
        self._expired_at = -1e9
        self._since_restart = RESTART_AFTER

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
                if query not in seen:
                    seen.add(query)
                    report = self._count(self._one(query))
                    for tell in on_report:
                        tell(report)
        except CrawlError as error:
            self._marks.event("stopped", error=type(error).__name__, detail=str(error))
            raise
        finally:
            self._source.close()
        return self.summary

    def _count(self, report: QueryReport) -> QueryReport:
        self.summary.outcomes[report.outcome] += 1
        self.summary.refused.update(report.refused)
        return report

    def _one(self, query: str) -> QueryReport:
        """From a query to its report; whatever is already known costs no request."""
        if not searchable(query):
            return QueryReport(query, Outcome.UNUSABLE_QUERY, detail="nothing to search for")
        with self._cache.lock(query):
            have = self._cache.pictures(query)
            missing = [n for n in range(1, self._options.pictures + 1) if n not in have]
            if not missing:
                return QueryReport(query, Outcome.CACHED, len(have))
            miss = None if self._options.retry_misses else self._cache.miss(query, now=self._clock.now())
            if miss:
                return QueryReport(query, Outcome.KNOWN_MISS, len(have), detail=miss.reason)
            if self.summary.asked >= self._options.max_queries:
                return QueryReport(query, Outcome.NOT_REACHED, len(have), detail="cap of this run")
            return self._ask(query, missing)

    def _ask(self, query: str, missing: list[int]) -> QueryReport:
        """Search for one query and store what is good; its marks are written in any case."""
        self.summary.asked += 1
        result = self._search(query)
        report = QueryReport(
            query, _outcome(result), state=result.state, layout=result.layout, detail=result.detail
        )
        if result.state is PageState.RESULTS:
            found = self._collector.collect(query, result.candidates, missing, result.layout)
            self.summary.new_pictures += len(found.stored)
            missing = [n for n in missing if n not in found.stored]
            outcome = Outcome.NO_GOOD_PICTURE if missing else Outcome.OK
            report = replace(report, outcome=outcome, refused=found.refused)
        report = replace(report, pictures=len(self._cache.pictures(query)))
        if report.outcome in _MISSES:
            self._cache.put_miss(query, report.outcome.value, report.detail, now=self._clock.now())
        self._marks.query(report, self._cache.directory(query).name, missing, result.url)
        self._judge(report)
        return report

    def _judge(self, report: QueryReport) -> None:
        """Stop the run when one failure follows another. Raises LayoutError, CrawlError."""
        if report.state is PageState.UNKNOWN:
            self._unknown_in_a_row += 1
            if self._unknown_in_a_row >= MAX_UNKNOWN:
                raise LayoutError(
                    f"layout changed: {MAX_UNKNOWN} result pages in a row are not as the profile describes; "
                    f"what they look like now is in {self._marks.dumps}"
                )
        else:
            self._unknown_in_a_row = 0
        if report.outcome in (Outcome.OK, Outcome.EMPTY):
            self._policy.succeeded()
            self._since_restart += 1
        elif report.state is not PageState.UNKNOWN:
            self._policy.failed(f"{report.outcome.value} {report.detail}".strip())

    def _search(self, query: str) -> SearchResult:
        """Search, again if need be, until the page is final. Raises CrawlError to stop the run."""
        attempt = 0
        while True:
            self._policy.wait_for_search()
            result = self._search_once(query)
            if result.state in (PageState.RESULTS, PageState.EMPTY):
                return result
            logger.info("%s: %s %s", query, result.state.value, result.detail)
            if result.state.blocked:
                raise self._blocked(result.state, query, result.detail)
            if result.state is PageState.LOGIN_WALL:
                self._log_in_again(query)
                continue
            if attempt == RETRIES:
                if result.state is PageState.UNKNOWN:
                    self._dump("unknown")
                return result
            self._policy.wait_for_retry(attempt)
            attempt += 1

    def _search_once(self, query: str) -> SearchResult:
        """One search; a browser that died is started again, once in a while."""
        try:
            if not self._open:
                self._source.open()
                self._log_in(query)
                self._open = True
            self.summary.searches += 1
            return self._source.search(query, self._options.pictures + SPARE_CANDIDATES)
        except BrowserError as error:
            if self._since_restart < RESTART_AFTER:
                raise
            logger.warning("the browser died (%s), starting it again", error)
            self._marks.event("browser restarted", query=query, detail=str(error))
            self._since_restart = 0
            self._open = False
            self._source.close()
            return SearchResult(PageState.SERVER_ERROR, detail="the browser died")
        finally:
            self._policy.searched()

    def _blocked(self, state: PageState, query: str, detail: str) -> BlockedError:
        self._dump(state.value)
        self._marks.event("blocked", query=query, state=state.value, detail=detail)
        return self._policy.blocked(state)

    def _log_in(self, query: str) -> None:
        """Make sure of the session; a block there is a block. Raises LoginError, BlockedError."""
        try:
            self._source.ensure_session()
        except BlockedError as error:
            if error.state is None:
                raise
            raise self._blocked(error.state, query, f"at the login: {error}") from None

    def _log_in_again(self, query: str) -> None:
        """The session is over: log in, but not twice in a short time. Raises LoginError, BlockedError."""
        now = self._clock.monotonic()
        if now - self._expired_at < RELOGIN_S:
            raise LoginError(
                f"the site asked for a login twice within {RELOGIN_S // 60} min; log in with: cnclip login"
            )
        self._expired_at = now
        self._marks.event("session expired")
        self._log_in(query)

    def _dump(self, reason: str) -> None:
        stamp = datetime.fromtimestamp(self._clock.now(), timezone.utc).strftime("%Y%m%d-%H%M%S")
        try:
            self._source.dump(str(self._marks.dumps), f"{stamp}-{reason}")
        except (OSError, BrowserError) as error:  # the dump is for diagnosis; the reason to stop counts more
            logger.warning("the page could not be kept: %s", error)


def _outcome(result: SearchResult) -> Outcome:
    """What a final page without looking at its pictures means for the query."""
    if result.state is PageState.EMPTY:
        return Outcome.EMPTY
    if result.state is PageState.UNKNOWN:
        return Outcome.UNKNOWN_LAYOUT
    return Outcome.OK if result.state is PageState.RESULTS else Outcome.LOAD_FAILED
