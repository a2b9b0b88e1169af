"""No exception of selenium leaves the crawler's browser, whatever the remote end answers."""

from __future__ import annotations

import pytest
import urllib3.exceptions as http
from selenium.common import exceptions as selenium

from crawler.browser import Browser, BrowserDied, BrowserOptions, PageError, PageTimeout
from crawler.browser_errors import WindowGone, naming_selector, start_translated, translated
from crawler.errors import BrowserError, SettingsError

ALL = [
    kind
    for kind in vars(selenium).values()
    if isinstance(kind, type) and issubclass(kind, selenium.WebDriverException)
]
DEADLY = {"InvalidSessionIdException", "NoSuchWindowException", "SessionNotCreatedException"}


@pytest.mark.parametrize("kind", ALL)
def test_every_exception_of_selenium(kind: type[selenium.WebDriverException]) -> None:
    with pytest.raises(BrowserError) as caught, translated():
        raise kind("what happened\n  (Session info: chrome=1)\nStacktrace:\n#0 0x1")
    assert type(caught.value).__module__.startswith("crawler.")
    assert isinstance(caught.value, BrowserDied) is (kind.__name__ in DEADLY)
    assert isinstance(caught.value, (BrowserDied, PageError))
    assert isinstance(caught.value, PageTimeout) is (kind is selenium.TimeoutException)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "died"),
    [
        ("tab crashed\n  (Session info: chrome=1)", True),
        ("disconnected: not connected to DevTools", True),
        ("chrome not reachable", True),
        ("session deleted because of page crash\nfrom tab crashed", True),
        ("unknown error: net::ERR_CONNECTION_REFUSED", False),
        ("unknown error: cannot determine loading status\nfrom disconnected: no", True),
        ("", False),
    ],
)
def test_errors_that_only_their_text_tells_apart(text: str, died: bool) -> None:
    with pytest.raises(BrowserError) as caught, translated():
        raise selenium.WebDriverException(text)
    assert isinstance(caught.value, BrowserDied) is died
    assert str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        http.ProtocolError("Connection aborted."),
        http.ReadTimeoutError(None, "/session/secret/url", "Read timed out."),  # type: ignore[arg-type]
        http.MaxRetryError(None, "/session/secret/url"),  # type: ignore[arg-type]
    ],
)
def test_a_driver_that_does_not_answer(error: Exception) -> None:
    with pytest.raises(BrowserDied, match="its driver does not answer") as caught, translated():
        raise error
    assert str(caught.value).endswith(f"({type(error).__name__})")
    assert "secret" not in str(caught.value)


def test_while_it_starts() -> None:
    long = "session not created: no\n from x; For documentation on this error, please visit: https://a.b"
    with pytest.raises(BrowserError) as caught, start_translated(" at grid"):
        raise selenium.SessionNotCreatedException(long)
    assert str(caught.value) == "cannot start the browser at grid: session not created: no"


def test_a_selector_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"^'a\[' is no CSS selector$"), naming_selector("a["):
        raise selenium.InvalidSelectorException("invalid selector")


class _Session:
    """A remote end that says what the standard says when a frame was removed: no such window."""

    def __init__(self, top_is_there: bool) -> None:
        self.top_is_there = top_is_there
        self.commands = 0

    def run(self, _action: object) -> object:
        self.commands += 1
        if self.commands == 2 and self.top_is_there:
            return None
        raise WindowGone("the browser is gone: no such window")


@pytest.mark.parametrize(
    ("in_frame", "top_is_there", "expected"),
    [(True, True, PageError), (True, False, WindowGone), (False, True, WindowGone)],
)
def test_a_frame_that_is_gone_is_not_the_window(
    in_frame: bool, top_is_there: bool, expected: type[Exception]
) -> None:
    browser = Browser(BrowserOptions(None))
    browser._session = _Session(top_is_there)  # type: ignore[assignment]
    browser._in_frame = in_frame
    with pytest.raises(BrowserError) as caught:
        browser.url()
    assert type(caught.value) is expected
    assert not browser._in_frame
