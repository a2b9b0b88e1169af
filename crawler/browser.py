"""A browser at the other end of the W3C WebDriver protocol.

Only commands of the standard are used, none of Chromium's own, so that the browser may as well be on another
machine (`remote_url`, a Selenium Grid for instance). On this machine it is Chromium with a profile that keeps
the login between runs.

Cookies with an expiry date are on disk after `close()` and `restart()`, also when the crawler or the driver
was killed, for the browser is then asked to exit and writes them. Chromium itself writes them every 30
seconds: if the browser is what was killed, cookies set since then are lost. Session cookies end with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from crawler.browser_errors import BrowserDied, PageError, PageTimeout, WindowGone, naming_selector
from crawler.browser_profile import BrowserProfile
from crawler.browser_session import Session
from crawler.chromium import browser_options
from crawler.errors import SettingsError

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

__all__ = ["Browser", "BrowserDied", "BrowserOptions", "PageError", "PageTimeout"]

logger = logging.getLogger(__name__)

BLANK = "about:blank"
ANSWER_MARGIN_S = 10.0  # what a command may take beyond its own timeout before the driver counts as hanging
_VISIBLE = """
return arguments[0].find((element) => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.height > 0 && getComputedStyle(element).visibility === "visible";
}) || null;
"""
T = TypeVar("T")


@dataclass(frozen=True)
class BrowserOptions:
    """profile_dir: user data folder that is kept between runs (made private, one process at a time); None: a
    temporary one. remote_url: a remote end, which has its own browser and profile. scale: device pixels per
    CSS pixel (QR codes stay sharp). Timeouts in seconds."""

    profile_dir: Path | None
    headless: bool = True
    remote_url: str | None = None
    scale: float = 2.0
    page_load_timeout_s: float = 30.0
    script_timeout_s: float = 10.0


class Browser:
    """One window of one browser; a context manager. Not for several threads.

    Every method raises BrowserDied once the session is lost (`restart()` begins another), PageError where the
    page failed and not the browser, and SettingsError for a bad selector. Dialogs of the page are dismissed,
    downloads refused.
    """

    def __init__(self, options: BrowserOptions) -> None:
        if options.remote_url and options.profile_dir:
            raise SettingsError("a remote browser has its own profile: give remote_url or profile_dir")
        self.options = options
        self._profile = None if options.remote_url else BrowserProfile(options.profile_dir)
        self._session: Session | None = None
        self._window = ""
        self._in_frame = False

    def __enter__(self) -> Browser:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the browser, unless it is. Raises BrowserError: not found, cannot start, profile in use."""
        if self._session is not None:
            return
        options = self.options
        try:
            path = self._profile.open() if self._profile else None
            wanted = browser_options(headless=options.headless, scale=options.scale, user_data_dir=path)
            answer_s = options.page_load_timeout_s + options.script_timeout_s + ANSWER_MARGIN_S
            self._session = Session(wanted, path, options.remote_url or "", answer_s)
            self._window = self._run(self._prepare)
        except BaseException:
            self.close()
            raise

    def _prepare(self, driver: WebDriver) -> str:
        driver.set_page_load_timeout(self.options.page_load_timeout_s)
        driver.set_script_timeout(self.options.script_timeout_s)
        return driver.current_window_handle

    def restart(self) -> None:
        """End what is left of the browser and start it again with the same profile. Raises BrowserError."""
        self._halt()
        self.start()

    def close(self) -> None:
        """End the browser and all its processes. Never raises; safe to call twice."""
        for step in (self._halt, self._profile.close if self._profile else lambda: None):
            try:
                step()
            except Exception as error:  # a browser in any state must not keep the rest from being tidied up
                logger.warning("closing the browser: %s", error)

    def goto(self, url: str) -> bool:
        """Open an address; True when its document is there (pictures and frames may be missing).

        False when it did not come about: too slow, refused, reset, no such host, a download, an empty answer.
        A page with an error status and a body counts as there. Whatever happens, the page shown before is
        gone: after False there is an error page, what came of the new page, or a blank one. A page that keeps
        redirecting or hangs may take three page load timeouts.
        """
        self._leave()
        try:
            self._run(lambda driver: driver.get(url))
            place = str(self.script("return location.href"))
        except PageError as error:
            logger.warning("%s did not load: %s", urlsplit(url).hostname, error)
            self._stop_loading()
            return False
        if place.startswith("chrome-error:") or (place == BLANK and url != BLANK):
            logger.warning("%s did not load: no page", urlsplit(url).hostname)
            return False
        return True

    def script(self, code: str, *arguments: object) -> Any:
        """What a function with this body returns (plain JSON), run in the current frame. Raises PageError."""
        return self._run(lambda driver: driver.execute_script(code, *arguments))

    def url(self) -> str:
        """Address of the page (the top one, also in a frame)."""
        return self._run(lambda driver: driver.current_url)

    def html(self) -> str:
        """The document in the current frame as it is now."""
        return self._run(lambda driver: driver.page_source)

    def screenshot(self) -> bytes:
        """The viewport as PNG."""
        return self._run(lambda driver: driver.get_screenshot_as_png())

    def element_png(self, selector: str) -> bytes | None:
        """The first visible match in the current frame as PNG; None if there is none."""
        return self._with_first_visible(selector, lambda element: element.screenshot_as_png)

    def click(self, selector: str) -> bool:
        """Click the first visible match in the current frame; False if none, or it cannot be clicked.

        Waits for the page that the click opens. If that is too slow, it is stopped, and the click counts.
        """
        try:
            return self._with_first_visible(selector, _click) is not None
        except PageTimeout as error:
            logger.warning("after a click: %s", error)
            self._stop_loading()
            return True

    def frame(self, selector: str | None) -> bool:
        """Go into the first matching iframe of the current frame; None: back to the top. False: no such one.

        When the frame is removed, Chromium goes on in the page around it; others raise PageError.
        """
        if selector is None:
            self._run(lambda driver: driver.switch_to.default_content())
            self._in_frame = False
            return True
        try:
            found = self._run(lambda driver: _find_all(driver, selector))
            if not found:
                return False
            self._run(lambda driver: driver.switch_to.frame(found[0]))
        except PageError:  # it changed while we looked, or is no frame
            return False
        self._in_frame = True
        return True

    def cookies(self) -> dict[str, str]:
        """Names and values of the cookies that the current document's site gets."""
        found = self._run(lambda driver: driver.get_cookies())
        return {cookie["name"]: cookie["value"] for cookie in found}

    def single_window(self) -> None:
        """Close the windows and tabs the site opened; go back to the top of ours."""

        def close_others(driver: WebDriver) -> None:
            for handle in driver.window_handles:
                if handle != self._window:
                    driver.switch_to.window(handle)
                    driver.close()
            driver.switch_to.window(self._window)
            driver.switch_to.default_content()

        self._run(close_others)
        self._in_frame = False

    def user_agent(self) -> str:
        """What the browser says it is."""
        return str(self.script("return navigator.userAgent"))

    def _run(self, action: Callable[[WebDriver], T]) -> T:
        if self._session is None:
            raise BrowserDied("the browser is not running")
        try:
            return self._session.run(action)
        except WindowGone:
            if not self._in_frame:
                raise
        # Only Chromium leaves a frame that was removed by itself; others say that the window is gone.
        self._in_frame = False
        self._session.run(lambda driver: driver.switch_to.default_content())
        raise PageError("the frame is gone")

    def _with_first_visible(self, selector: str, action: Callable[[WebElement], T]) -> T | None:
        """What the action gives for the first visible match; looked up once more if that has changed."""

        def look_up(driver: WebDriver) -> T | None:
            found = _find_all(driver, selector)
            element = driver.execute_script(_VISIBLE, found) if found else None
            return None if element is None else action(element)

        for _ in range(2):
            try:
                return self._run(look_up)
            except PageTimeout:
                raise
            except PageError as error:
                logger.debug("%s: %s", selector, error)
        return None

    def _stop_loading(self) -> None:
        try:
            self.script("window.stop()")
        except PageError:  # it redirects for ever, or its script is in an endless loop
            self._leave()

    def _leave(self) -> None:
        try:
            self._run(lambda driver: driver.get(BLANK))
        except PageTimeout:
            raise BrowserDied("the browser is gone: a page hangs and cannot be left") from None
        self._in_frame = False

    def _halt(self) -> None:
        """End session and processes; the profile stays ours."""
        session, self._session = self._session, None
        try:
            if session is not None:
                session.end()
        finally:
            if self._profile is not None:
                self._profile.end_browser()


def _find_all(driver: WebDriver, selector: str) -> list[WebElement]:
    with naming_selector(selector):
        return driver.find_elements("css selector", selector)


def _click(element: WebElement) -> bool:
    element.click()
    return True
