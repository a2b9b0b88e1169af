"""The browser against pages that behave badly: on this machine, and at a remote end of the bare standard."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from crawler.browser import Browser, BrowserDied, BrowserOptions, PageError, PageTimeout
from crawler.errors import SettingsError
from tests.crawler.browser_remote_end import RemoteEnd, remote_end
from tests.crawler.browser_site import Site, closed_port, serving

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TIMEOUT_S = 1.5


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module", params=["local", pytest.param("remote", marks=pytest.mark.slow)])
def end(request: pytest.FixtureRequest) -> Iterator[RemoteEnd | None]:
    """None for the browser on this machine, else a remote end that all went well with."""
    if request.param == "local":
        yield None
        return
    with remote_end() as running:
        yield running
        assert running.asked
        assert not running.refused, "a command that is not of the standard"


@pytest.fixture(scope="module")
def started(end: RemoteEnd | None) -> Iterator[Browser]:
    options = BrowserOptions(
        None, remote_url=end.url if end else None, page_load_timeout_s=TIMEOUT_S, script_timeout_s=TIMEOUT_S
    )
    with Browser(options) as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, site: Site) -> Browser:
    """At the home page, which says home."""
    if not started.goto(site.url):  # a loaded machine may need longer than our timeout
        assert started.goto(site.url)
    return started


def title(browser: Browser) -> object:
    return browser.script("return document.title")


def test_a_page(browser: Browser, site: Site) -> None:
    assert browser.url() == site.url + "/"
    assert "<h1>home</h1>" in browser.html()
    assert browser.script("return [arguments[0], {a: arguments[1]}]", 1, "x") == [1, {"a": "x"}]
    assert browser.goto(site.url + "/cookie")
    assert browser.cookies() == {"keep": "yes"}
    width, height = Image.open(io.BytesIO(browser.screenshot())).size
    assert [width, height] == browser.script("return [innerWidth * 2, innerHeight * 2]")


def test_it_says_what_it_is(browser: Browser) -> None:
    assert browser.user_agent() == browser.script("return navigator.userAgent")
    assert "HeadlessChrome/" in browser.user_agent()
    assert browser.script("return navigator.webdriver") is True


@pytest.mark.parametrize(
    "path", ["/hang", "/slow-body", "/reset", "/download", "/nothing", "/error-empty", "/loop"]
)
def test_a_page_that_does_not_come(browser: Browser, site: Site, path: str) -> None:
    begin = time.monotonic()
    assert not browser.goto(site.url + path)
    assert time.monotonic() - begin < 3 * TIMEOUT_S + 1
    assert "home" not in browser.html(), "the page before must not be taken for this one"
    assert browser.goto(site.url)


def test_what_came_of_a_slow_page_is_there(browser: Browser, site: Site) -> None:
    assert not browser.goto(site.url + "/slow-body")
    assert browser.script("return document.querySelector('#part').textContent") == "part"


def test_an_address_nobody_answers(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert not browser.goto(f"http://127.0.0.1:{closed_port()}/?token=secret")
        assert not browser.goto("not an address")
        assert browser.goto("about:blank")
    assert "127.0.0.1 did not load: unknown error: net::ERR_CONNECTION_REFUSED" in caplog.text
    assert "secret" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("crawler"))


def test_no_log_has_a_cookie(browser: Browser, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert browser.goto(site.url + "/cookie")
        assert browser.cookies() == {"keep": "yes"}
        assert browser.script("return document.cookie") == "keep=yes"
    assert "keep" not in caplog.text


def test_an_error_page_with_a_body_is_a_page(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/error")
    assert title(browser) == "sorry"


def test_dialogs_are_dismissed(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/alert")
    assert title(browser) == "after"
    browser.script("alert(1)")
    assert title(browser) == "after"
    assert browser.goto(site.url + "/unload")
    assert browser.click("#b")  # without a click the browser would not ask at all
    assert browser.goto(site.url)


def test_the_first_visible_match(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/elements")
    png = browser.element_png(".box")
    assert png is not None
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert (picture.size, picture.getpixel((40, 30))) == ((80, 60), (255, 0, 0))
    assert browser.click(".box")
    assert title(browser) == "first"


def test_what_cannot_be_clicked(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/elements")
    for selector in ("#nowhere", "#empty", "#under"):
        assert not browser.click(selector)
    assert browser.element_png("#nowhere") is None
    assert browser.element_png("#empty") is None


@pytest.mark.parametrize(("times", "clicked"), [(1, True), (9, False)])
def test_an_element_that_is_replaced_while_we_look(
    browser: Browser, site: Site, times: int, clicked: bool
) -> None:
    assert browser.goto(f"{site.url}/redraw?times={times}")
    assert browser.click("#p") is clicked
    assert title(browser) == ("clicked 1" if clicked else "")


def test_clicks_that_lead_elsewhere(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/link")
    assert browser.click("#slow")
    assert browser.url() == site.url + "/link"
    assert browser.click("#home")
    assert browser.url() == site.url + "/"


def test_tabs_of_the_site_are_closed(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/link")
    assert browser.click("#tab")
    browser.script("window.open('/')")
    assert len(browser._run(lambda driver: driver.window_handles)) == 3
    browser.single_window()
    assert len(browser._run(lambda driver: driver.window_handles)) == 1
    assert browser.url() == site.url + "/link"


def test_frames(browser: Browser, site: Site) -> None:
    def where() -> object:
        return browser.script("return document.querySelector('#where').textContent")

    assert browser.goto(site.url + "/frames")
    assert browser.frame("#outer")
    assert where() == "inner"
    assert browser.frame("iframe")
    assert where() == "deep"
    assert browser.url() == site.url + "/frames"
    assert not browser.frame("iframe")
    assert browser.click("#out"), "it removes the frame we are in"
    assert browser.frame(None)
    assert where() == "top"
    assert not browser.frame("#outer")
    assert not browser.frame("#none"), "no frame"


def test_navigation_leaves_the_frame(browser: Browser, site: Site) -> None:
    assert browser.goto(site.url + "/frames")
    assert browser.frame("#outer")
    assert browser.goto(site.url)
    assert title(browser) == "home"


def test_scripts_that_fail(browser: Browser) -> None:
    with pytest.raises(PageError, match=r"^javascript error: nothing is not defined$"):
        browser.script("return nothing")
    with pytest.raises(PageError, match=r"^javascript error: "):
        browser.script("}{")
    with pytest.raises(PageTimeout, match=r"^script timeout$"):
        browser.script("return new Promise(() => {})")
    assert browser.script("return 1") == 1


@pytest.mark.parametrize("method", ["click", "element_png", "frame"])
def test_a_bad_selector(browser: Browser, method: str) -> None:
    with pytest.raises(SettingsError, match=r"^'a\[\[' is no CSS selector$"):
        getattr(browser, method)("a[[")


def close_our_window(browser: Browser, _site: Site) -> None:
    browser.script("window.open('/')")
    browser._run(lambda driver: driver.close())


def close_the_last_window(browser: Browser, _site: Site) -> None:
    browser._run(lambda driver: driver.close())


def crash_the_tab(browser: Browser, _site: Site) -> None:
    browser.goto("chrome://crash")


def open_an_endless_script(browser: Browser, site: Site) -> None:
    browser.goto(site.url + "/busy")


@pytest.mark.parametrize(
    "ruin",
    [
        close_our_window,
        close_the_last_window,
        crash_the_tab,
        pytest.param(open_an_endless_script, marks=pytest.mark.slow),
    ],
)
def test_a_session_that_is_lost_and_begun_again(browser: Browser, site: Site, ruin: object) -> None:
    with pytest.raises(BrowserDied, match=r"^the browser is gone: "):
        ruin(browser, site)  # type: ignore[operator]
        browser.url()
    browser.restart()
    assert browser.goto(site.url)


def test_a_closed_browser_says_so(started: Browser, end: RemoteEnd | None, site: Site) -> None:
    started.close()
    started.close()
    with pytest.raises(BrowserDied, match=r"^the browser is not running$"):
        started.goto(site.url)
    if end is not None:
        assert end.asked[-1].startswith("DELETE /session/"), "the place is free for others"
    started.start()
    assert started.goto(site.url)
