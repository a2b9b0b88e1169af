"""What can go wrong while crawling; each message is one line for the user."""

from __future__ import annotations

from crawler.types import PageState


class CrawlError(Exception):
    """Base class. Entry points print the message as one line and exit with `exit_code`."""

    exit_code = 2


class SettingsError(CrawlError):
    """A profile, manifest, key or flag that cannot be used; the message names file and field."""


class BrowserError(CrawlError):
    """The browser or its driver cannot be started, or died more often than it may."""


class BlockedError(CrawlError):
    """The site wants no more requests from us now (captcha, throttle, denial), or we are cooling down.

    state: what the page was where that is news, None while cooling down.
    """

    exit_code = 3

    def __init__(self, message: str, state: PageState | None = None) -> None:
        super().__init__(message)
        self.state = state


class LoginError(CrawlError):
    """A login is needed and did not come about."""

    exit_code = 4


class LayoutError(CrawlError):
    """The site's pages are no longer what the profile describes."""

    exit_code = 5
