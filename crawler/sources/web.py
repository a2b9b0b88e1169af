"""A shop's search pages in a browser, as its profile describes them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crawler.browser_errors import PageError
from crawler.classify import Verdict, judge
from crawler.clock import Clock, SystemClock
from crawler.dump import redact, write_dump
from crawler.layouts import GENERIC
from crawler.profile import Profile
from crawler.snapshot import Snapshot, take_snapshot
from crawler.types import Candidate, PageState, Picture, Refused, SearchResult

if TYPE_CHECKING:
    from crawler.browser import Browser
    from crawler.pictures import PictureFetcher

logger = logging.getLogger(__name__)

POLL_S = 0.25
SETTLE_S = 3.0  # a page that stays the same this long is all there is, unless the profile expects more
HUMAN_WAIT_S, HUMAN_POLL_S = 300.0, 2.0
_FOR_HUMANS = {PageState.CAPTCHA, PageState.IDENTITY_CHECK}
_QUESTION = (
    "the site has a question for you: answer it in the browser window within 5 minutes; nothing is asked for "
    "meanwhile · 网站需要您本人验证：请在 5 分钟内在浏览器窗口中完成，期间不会发送任何请求"
)
_AT_ONCE = {PageState.LOGIN_WALL, PageState.SERVER_ERROR}
_SCROLL = "scrollBy({top: innerHeight * 0.8, behavior: 'instant'})"


@dataclass
class _Watch:
    """How a page came along: what it was last, since when, and the last results that stayed the same."""

    last: Verdict | None = None
    since: float = 0.0
    stable: Verdict | None = None

    def add(self, verdict: Verdict, now: float) -> bool:
        """Whether the page is what it was before."""
        same = self.last is not None and _essence(self.last) == _essence(verdict)
        if not same:
            self.since = now
        if verdict.state is not PageState.RESULTS:
            self.stable = None
        elif same:
            self.stable = verdict
        self.last = verdict
        return same


def _essence(verdict: Verdict) -> tuple[PageState, str, tuple[tuple[str, tuple[str, ...]], ...]]:
    found = verdict.found
    return verdict.state, found.layout, tuple((one.item_id, one.image_urls) for one in found.candidates)


class WebSource:
    """Searches in one browser, one page at a time; implements crawler.source.ImageSource."""

    def __init__(
        self,
        profile: Profile,
        browser: Browser,
        login: Callable[[], object] | None,
        fetcher: PictureFetcher,
        clock: Clock | None = None,
        *,
        call_human: Callable[[str], None] | None = None,
    ) -> None:
        """login: makes sure somebody is logged in; called by ensure_session, never by a search; None: the
        site needs none. call_human: tells somebody who sees the window that only they can go on; None: nobody
        does."""
        self.name = profile.name
        self._profile, self._browser, self._login, self._fetcher = profile, browser, login, fetcher
        self._clock, self._call_human = clock or SystemClock(), call_human
        self._last = PageState.LOADING  # what the last search ended with

    def open(self) -> None:
        """Start the browser. Raises BrowserError."""
        self._browser.start()

    def ensure_session(self) -> None:
        """Log in if need be. Raises LoginError, BlockedError."""
        if self._login is not None:
            self._login()

    def search(self, query: str, limit: int) -> SearchResult:
        """Open the result page and watch it until it is final. Raises BrowserError, SettingsError.

        A site whose encoding lacks a character of the query has nothing for it: EMPTY.
        """
        try:
            url = self._profile.search_url(query)
        except UnicodeEncodeError:
            detail = f"not to be written in {self._profile.search.encoding}"
            return SearchResult(PageState.EMPTY, detail=detail)
        try:
            return self._search(query, url, limit)
        except PageError as error:
            return SearchResult(PageState.SERVER_ERROR, url=redact(url), detail=str(error))

    def _search(self, query: str, url: str, limit: int) -> SearchResult:
        self._browser.single_window()
        loaded = self._browser.goto(url)
        wait_s = self._profile.search.wait_s if loaded else min(SETTLE_S, self._profile.search.wait_s)
        verdict, shown = self._watch(query, limit, wait_s)
        return self._result(url, verdict, shown, loaded)

    def wait_for_human(self, query: str, limit: int) -> SearchResult | None:
        """Only look, and ask for nothing, until the page is another one or HUMAN_WAIT_S are over."""
        state = self._last
        if self._call_human is None or state not in _FOR_HUMANS:
            return None
        self._call_human(_QUESTION)
        deadline = self._clock.monotonic() + HUMAN_WAIT_S
        while True:
            self._clock.sleep(HUMAN_POLL_S)
            verdict, shown = self._watch(query, limit, self._profile.search.wait_s)
            if verdict.state not in _FOR_HUMANS or self._clock.monotonic() >= deadline:
                return self._result(shown, verdict, shown)

    def _result(self, url: str, verdict: Verdict, shown: str, loaded: bool = True) -> SearchResult:
        self._last = verdict.state
        if not loaded and verdict.state in (PageState.LOADING, PageState.UNKNOWN):
            verdict = Verdict(PageState.SERVER_ERROR, f"the page did not load in time; {verdict.detail}")
        candidates = verdict.found.candidates if verdict.state is PageState.RESULTS else ()
        layout = verdict.found.layout if candidates else ""
        address = redact(shown if shown.startswith("http") else url)
        return SearchResult(verdict.state, candidates, layout, address, verdict.detail)

    def fetch(self, candidate: Candidate, url: str) -> Picture | Refused:
        """Get one picture of a candidate and check it; without the browser and its cookies."""
        return self._fetcher.fetch(url, self._profile.pictures.referer or candidate.page_url)

    def dump(self, folder: Path, name: str) -> None:
        """Write what the browser shows now, without secrets. Raises OSError, BrowserError."""
        write_dump(self._browser, self._profile, folder, name)

    def close(self) -> None:
        """Stop the browser and close connections; safe to call twice."""
        self._browser.close()
        self._fetcher.close()

    def _watch(self, query: str, limit: int, wait_s: float) -> tuple[Verdict, str]:
        """Look every POLL_S seconds, scroll for more, until the page is final or `wait_s` are over; what the
        page is and its address."""
        watch, address = _Watch(), ""
        deadline = self._clock.monotonic() + wait_s
        while True:
            snapshot = self._look()
            now = self._clock.monotonic()
            if snapshot is not None:
                verdict, address = judge(snapshot, self._profile, query, limit=limit), snapshot.url
                same = watch.add(verdict, now)
                if _is_final(verdict, snapshot, same, now - watch.since, limit):
                    return verdict, address
                if now >= deadline:
                    last = judge(snapshot, self._profile, query, limit=limit, final=True)
                    return _last_word(last, watch), address
                if same and _may_have_more(verdict, snapshot, limit):
                    self._scroll()
            elif now >= deadline:
                return Verdict(PageState.LOADING, "the page could not be read"), address
            self._clock.sleep(POLL_S)

    def _look(self) -> Snapshot | None:
        """The next snapshot, or None if the page went away meanwhile."""
        try:
            return take_snapshot(self._browser, self._profile)
        except PageError as error:
            logger.debug("not readable now: %s", error)
            return None

    def _scroll(self) -> None:
        with contextlib.suppress(PageError):
            self._browser.script(_SCROLL)


def _is_final(verdict: Verdict, snapshot: Snapshot, same: bool, unchanged_s: float, limit: int) -> bool:
    """Whether waiting longer would not change what the page is."""
    if verdict.state.blocked or verdict.state in _AT_ONCE:
        return True
    if verdict.state is PageState.EMPTY:
        return same and ((snapshot.complete and not snapshot.busy) or unchanged_s >= SETTLE_S)
    if verdict.state is not PageState.RESULTS or not same:
        return False
    if verdict.found.layout == GENERIC and not (snapshot.complete and unchanged_s >= SETTLE_S):
        return False
    return not _may_have_more(verdict, snapshot, limit)


def _may_have_more(verdict: Verdict, snapshot: Snapshot, limit: int) -> bool:
    """Whether scrolling down could bring pictures that are wanted."""
    found = verdict.found
    return (
        bool(found.candidates or found.waiting) and len(found.candidates) < limit and not snapshot.at_bottom
    )


def _last_word(verdict: Verdict, watch: _Watch) -> Verdict:
    """What to make of a page when its time is over."""
    if verdict.state is PageState.RESULTS:
        return watch.stable or Verdict(PageState.LOADING, "the results kept changing")
    return verdict
