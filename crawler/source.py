"""What the crawl asks of any place that has pictures for queries."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from crawler.types import Candidate, Picture, Refused, SearchResult


class ImageSource(Protocol):
    """A place to search for product pictures. One crawl uses one source; nothing here is thread-safe.

    A source never paces itself: the crawl decides when the next request may go out.
    """

    name: str

    def open(self) -> None:
        """Get ready (start the browser, read the manifest). Raises CrawlError."""

    def ensure_session(self) -> None:
        """Make sure searching is allowed, by a login if need be. Raises LoginError, BlockedError."""

    def search(self, query: str, limit: int) -> SearchResult:
        """Search once, giving up to `limit` candidates, best first. Raises BrowserError if it has to."""

    def wait_for_human(self, query: str, limit: int) -> SearchResult | None:
        """Leave a blocked page to the human who sees it, asking for nothing meanwhile, and search it once it
        is answered; the last state if nobody answers. None: there is no human, or nothing they could do."""

    def fetch(self, candidate: Candidate, url: str) -> Picture | Refused:
        """Get one picture of a candidate and check it."""

    def dump(self, folder: Path, name: str) -> None:
        """Write what the page is now (html, png, counts) below `folder`, without secrets; may do nothing."""

    def close(self) -> None:
        """Stop whatever was started. Safe to call twice."""
