"""One search as the policy allows it: session, pace, retries, and what stops everything."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from crawler.browser_errors import BrowserDied
from crawler.clock import Clock
from crawler.errors import BlockedError, BrowserError, LoginError
from crawler.marks import Marks
from crawler.policy import Policy
from crawler.source import ImageSource
from crawler.types import PageState, SearchResult

logger = logging.getLogger(__name__)

RETRIES = 2
RELOGIN_S = 600  # a session that expires twice within this time is no session
RESTART_AFTER = 20  # searches that must go well before a dead browser is started once more


class Searcher:
    """Searches one source. `searches` counts the requests sent. The source is opened by the first one."""

    def __init__(self, source: ImageSource, policy: Policy, marks: Marks, clock: Clock) -> None:
        self.searches = 0
        self._source, self._policy, self._marks, self._clock = source, policy, marks, clock
        self._open = False
        self._expired_at = -1e9
        self._since_restart = RESTART_AFTER

    def search(self, query: str, limit: int) -> SearchResult:
        """Search, again if need be, until the page is final.

        Raises:
            BlockedError, LoginError, BrowserError: nothing more is to be asked now.
        """
        attempt = 0
        while True:
            result = self.once(query, limit)
            if result.state in (PageState.RESULTS, PageState.EMPTY):
                self._since_restart += 1
                return result
            logger.info("%s: %s %s", query, result.state.value, result.detail)
            if result.state is PageState.LOGIN_WALL:
                self._log_in_again(query)
                continue
            if attempt == RETRIES:
                if result.state is PageState.UNKNOWN:
                    self.dump("unknown")
                return result
            self._policy.wait_for_retry(attempt)
            attempt += 1

    def once(self, query: str, limit: int) -> SearchResult:
        """One paced search. A page that only a human can answer is left to one, if there is one; a browser
        that died is started again, once in a while. Raises as `search` does."""
        self._policy.wait_for_search()
        try:
            if not self._open:
                self._source.open()
                self._log_in(query)
                self._open = True
            result = self._send(query, limit)
        except BrowserDied as error:
            if self._since_restart < RESTART_AFTER:
                raise
            logger.warning("the browser died (%s), starting it again", error)
            self._marks.event("browser restarted", query=query, detail=str(error))
            self._since_restart, self._open = 0, False
            self._source.close()
            return SearchResult(PageState.SERVER_ERROR, detail="the browser died")
        if not result.state.blocked:
            return result
        block = self._blocked(result.state, query, result.detail)
        answered = self._source.wait_for_human(query, limit)
        if answered is None or answered.state.blocked:
            raise block
        self._policy.answered()
        self._policy.searched()
        self._marks.event("answered by a human", query=query, state=result.state.value)
        return answered

    def dump(self, reason: str) -> None:
        """Keep the page as it is now."""
        stamp = datetime.fromtimestamp(self._clock.now(), timezone.utc).strftime("%Y%m%d-%H%M%S")
        try:
            self._source.dump(self._marks.dumps, f"{stamp}-{reason}")
        except (OSError, BrowserError) as error:  # for diagnosis only; the reason to stop counts more
            logger.warning("the page could not be kept: %s", error)

    def _send(self, query: str, limit: int) -> SearchResult:
        self.searches += 1
        try:
            return self._source.search(query, limit)
        finally:
            self._policy.searched()

    def _blocked(self, state: PageState, query: str, detail: str) -> BlockedError:
        """First of all the block is remembered: whatever happens next, nothing more is asked."""
        error = self._policy.blocked(state)
        self._marks.event("blocked", query=query, state=state.value, detail=detail)
        self.dump(state.value)
        return error

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
