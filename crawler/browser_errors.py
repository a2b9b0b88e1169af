"""What the browser's protocol can answer, in this project's terms. No other place knows selenium's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crawler.errors import BrowserError, SettingsError

if TYPE_CHECKING:
    from selenium.common.exceptions import WebDriverException

_GONE = "the browser is gone: "
# Chromium's driver has no error code of its own for these, they come as "unknown error".
_END_OF_SESSION = ("tab crashed", "disconnected", "not reachable", "session deleted", "instance exited")


class BrowserDied(BrowserError):
    """The session is gone: browser or driver were killed, crashed, or answer no more. `restart()` helps."""


class WindowGone(BrowserDied):
    """Our window was closed."""


class PageError(BrowserError):
    """The page could not do what was asked (it changed meanwhile, its script failed); the browser works."""


class PageTimeout(PageError):
    """The page, or a script in it, took longer than it may."""


class PageDialog(PageError):
    """A dialog was in the way of a command, which was not carried out. By now it is dismissed."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever selenium raises inside into the errors above."""
    from selenium.common.exceptions import WebDriverException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except WebDriverException as error:
        raise _ours(error) from None
    except (HTTPError, OSError) as error:  # its text has the session's address
        raise BrowserDied(f"{_GONE}its driver does not answer ({type(error).__name__})") from None


@contextmanager
def start_translated(where: str) -> Iterator[None]:
    """The same while a session begins, where all is a BrowserError."""
    try:
        with translated():
            yield
    except BrowserError as error:
        raise BrowserError(f"cannot start the browser{where}: {str(error).removeprefix(_GONE)}") from None


@contextmanager
def naming_selector(selector: str) -> Iterator[None]:
    """Raise SettingsError if it is none: selectors come from a site's profile."""
    from selenium.common.exceptions import InvalidSelectorException

    try:
        yield
    except InvalidSelectorException:
        raise SettingsError(f"{selector!r} is no CSS selector") from None


def _ours(error: WebDriverException) -> BrowserError:
    from selenium.common import exceptions as selenium

    line = _first_line(error)
    if isinstance(error, selenium.NoSuchWindowException):
        return WindowGone(f"{_GONE}{line}")
    if isinstance(error, (selenium.InvalidSessionIdException, selenium.SessionNotCreatedException)):
        return BrowserDied(f"{_GONE}{line}")
    if type(error) is selenium.WebDriverException and any(word in str(error.msg) for word in _END_OF_SESSION):
        return BrowserDied(f"{_GONE}{line}")
    if isinstance(error, selenium.TimeoutException):
        return PageTimeout(line)
    if isinstance(error, selenium.UnexpectedAlertPresentException):
        return PageDialog("the page opens one dialog after another")
    return PageError(line)


def _first_line(error: WebDriverException) -> str:
    """What went wrong, without session, address of the manual and stack."""
    text = (error.msg or "").strip().partition("; For documentation")[0]
    return text.splitlines()[0] if text else type(error).__name__
