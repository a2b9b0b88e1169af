"""Logging in by QR code: PROBE → OPEN_LOGIN → SWITCH_TO_QR → QR_SHOWN → SCANNED → CONFIRMED → VERIFY.

A human scans the code with the site's app; nothing here fills in a form or answers a puzzle. Logged in is
who has the profile's cookies on its probe page and is not sent to a login from there: links that ask to log
in, or requests to the login host, are on the pages of everyone and prove nothing.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from crawler.browser_errors import PageError
from crawler.classify import classify
from crawler.clock import Clock, SystemClock
from crawler.errors import BlockedError, CrawlError, LoginError, SettingsError
from crawler.login_codes import Codes
from crawler.login_events import (
    LoginEvent,
    LoginStep,
    LoginUI,
    failed_words,
    keep_words,
    logged_in_words,
    words,
)
from crawler.login_widget import Widget, click, read_widget
from crawler.profile import Login, Profile, host_allowed
from crawler.snapshot import take_snapshot
from crawler.types import PageState

if TYPE_CHECKING:
    from crawler.browser import Browser

__all__ = ["LoginEvent", "LoginStep", "LoginUI", "QrLogin", "masked"]

logger = logging.getLogger(__name__)

PROBE_TRIES = 2
TRIES = 2  # logins that turn out not to hold
PROBE_S = 2.0  # the probe page must stay: some send visitors away by script
# Without a redirect after the login page was left, with the login's cookies in sight and without.
SETTLED_S, SETTLED_BLIND_S = 2.0, 6.0
_SCANNED = (LoginStep.SCANNED, LoginStep.CONFIRMED, LoginStep.KEEP_LOGIN, LoginStep.IDENTITY_CHECK)
_BLOCKED = {
    PageState.CAPTCHA: "the site asks whether you are human; log in with your own browser there first",
    PageState.THROTTLED: "the site says there are too many requests; try again later",
    PageState.DENIED: "the site refuses this network",
    PageState.IDENTITY_CHECK: "the site wants to check who you are; run cnclip login with a browser window",
}


@dataclass
class _Away:
    """How long the page has been one and the same, away from the login. Since: monotonic seconds."""

    url: str = ""
    since: float | None = None

    def seconds(self, url: str | None, now: float) -> float:
        """To be asked at every poll; `url` is None while the page is still a login."""
        if url is None:
            self.since = None
            return -1
        if self.since is None or url != self.url:
            self.url, self.since = url, now
        return now - self.since


class QrLogin:
    """Logs one browser in. Not thread-safe; may be used again when a session has ended.

    Args:
        ui: told of every step; closed at the end of every login.
        keep: the answer to "stay logged in?".
    """

    def __init__(
        self,
        browser: Browser,
        profile: Profile,
        ui: LoginUI,
        *,
        keep: bool = False,
        clock: Clock | None = None,
    ) -> None:
        if profile.login is None:
            raise SettingsError(f"profile {profile.name}: no section [login]")
        self._browser, self._profile, self._ui = browser, profile, ui
        self._login: Login = profile.login
        self._keep, self._clock = keep, clock or SystemClock()
        self._headless = browser.options.headless
        login = self._login.model_copy(update={"wall_url": (), "code": ()})
        self._no_walls = profile.model_copy(update={"login": login})
        self._deadline = 0.0
        self._step = LoginStep.PROBE
        self._confirmed = False

    def logged_in(self) -> bool:
        """Ask the probe page. Raises BlockedError, BrowserError."""
        for attempt in range(PROBE_TRIES):
            if attempt:
                self._clock.sleep(self._profile.pace.retry_s)
            self._browser.single_window()
            self._browser.goto(self._login.probe_url)
            if self._state() is not PageState.SERVER_ERROR:  # a hiccup of the site is no reason to log in
                break
        opened = self._clock.monotonic()
        while True:
            state = self._state()
            if state in (PageState.LOGIN_WALL, PageState.SERVER_ERROR, PageState.IDENTITY_CHECK):
                return False
            if not host_allowed(self._browser.url(), self._profile.hosts.page) or not self._has_cookies():
                return False
            if self._clock.monotonic() - opened >= PROBE_S:
                return True
            self._clock.sleep(self._login.poll_s)

    def ensure(self) -> str:
        """Log in unless we are; the nick name with only its ends shown, or "".

        Raises:
            LoginError: no login within the profile's time and number of codes.
            BlockedError: captcha, refusal, or an identity check that nobody can see.
            BrowserError: the browser died.
        """
        try:
            self._deadline = self._clock.monotonic() + self._login.timeout_s
            self._log_in()
            nick = self._nick()
            self._show(LoginEvent(LoginStep.LOGGED_IN, logged_in_words(nick)))
            return nick
        except CrawlError as error:
            self._show(LoginEvent(LoginStep.FAILED, failed_words(str(error))))
            raise
        finally:
            self._ui.close()

    def _log_in(self) -> None:
        self._tell(LoginStep.PROBE)
        if self._verified():
            return
        codes = Codes(
            self._browser, self._profile, self._login, self._tell, self._clock, headless=self._headless
        )
        for _ in range(TRIES):
            self._tell(LoginStep.OPEN_LOGIN)
            self._confirmed = False
            codes.open()
            self._wait_for_human_to_log_in(codes)
            self._tell(LoginStep.VERIFY)
            if self._verified():
                return
        raise LoginError(f"still not logged in after {TRIES} tries (the page is: {self._state().value})")

    def _verified(self) -> bool:
        if self.logged_in():
            return True
        if self._state() is not PageState.IDENTITY_CHECK:
            return False
        self._wait_for_identity()
        return self.logged_in()

    def _wait_for_human_to_log_in(self, codes: Codes) -> None:
        """Return when the page has left the login for good, if only for an error page."""
        away = _Away()
        while True:
            try:
                if self._poll(codes, away):
                    return
            except PageError as error:  # it changed while it was read
                logger.debug("login: %s", error)
            self._wait()

    def _poll(self, codes: Codes, away: _Away) -> bool:
        """Look once, do what is to be done; whether it is time to verify."""
        state = self._state()
        if state is PageState.IDENTITY_CHECK:
            self._confirm()
            self._wait_for_identity()
            return False
        widget = read_widget(self._browser, self._login)
        cookies = self._has_cookies()
        at_login = state is PageState.LOGIN_WALL or widget.frame or widget.keep
        left = not at_login and (cookies or not widget.code)
        seconds = away.seconds(self._browser.url() if left else None, self._clock.monotonic())
        if left and seconds >= (SETTLED_S if cookies else SETTLED_BLIND_S):
            if state is PageState.SERVER_ERROR:
                return True
            # Without a sign of success, a human at the window may just be on the way to another form.
            if cookies or self._headless or self._step in _SCANNED:
                self._confirm()
                return True
        elif widget.keep:
            self._answer_keep(widget)
        elif not left:
            codes.look(widget)
        return False

    def _answer_keep(self, widget: Widget) -> None:
        self._confirm()
        if self._step is not LoginStep.KEEP_LOGIN:
            self._show(LoginEvent(LoginStep.KEEP_LOGIN, keep_words(self._keep)))
        click(self._browser, widget, self._login.keep_yes if self._keep else self._login.keep_no)

    def _wait_for_identity(self) -> None:
        if self._headless:
            raise BlockedError(_BLOCKED[PageState.IDENTITY_CHECK], PageState.IDENTITY_CHECK)
        self._tell(LoginStep.IDENTITY_CHECK)
        while self._state() is PageState.IDENTITY_CHECK:
            self._wait()

    def _wait(self) -> None:
        """Until the next poll. Raises LoginError when the time is up."""
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise LoginError(f"login timed out after {self._login.timeout_s:.0f} s (at: {self._step.value})")
        self._clock.sleep(min(self._login.poll_s, left))

    def _state(self) -> PageState:
        """What the page is. Raises BlockedError, except for an identity check: a human may answer that."""
        try:
            snapshot = take_snapshot(self._browser, self._profile)
        except PageError:  # on its way to another page
            return PageState.LOADING
        state = classify(snapshot, self._profile)
        if state is PageState.LOGIN_WALL and classify(snapshot, self._no_walls).blocked:
            state = classify(snapshot, self._no_walls)  # the login page itself asks or refuses
        if state.blocked and state is not PageState.IDENTITY_CHECK:
            raise BlockedError(_BLOCKED[state], state)
        return state

    def _has_cookies(self) -> bool:
        cookies = self._browser.cookies()
        return all(cookies.get(name) for name in self._login.cookies)

    def _nick(self) -> str:
        cookies = self._browser.cookies()
        values = (cookies.get(name, "") for name in self._login.nick_cookies)
        return masked(next(filter(None, values), ""))

    def _confirm(self) -> None:
        if not self._confirmed:
            self._confirmed = True
            self._tell(LoginStep.CONFIRMED)

    def _tell(
        self, step: LoginStep, *, payload: str | None = None, png: bytes | None = None, number: int = 0
    ) -> None:
        site = self._profile.title or self._profile.name
        message = words(step, site=site, number=number, codes=self._login.max_codes)
        self._show(LoginEvent(step, message, payload, png, number))

    def _show(self, event: LoginEvent) -> None:
        self._step = event.step if not event.step.final else self._step
        logger.debug("login: %s", event.step.value)
        self._ui.show(event)


def masked(nick: str) -> str:
    r"""A nick name out of a cookie (`%5Cu5c0f` and `\u5c0f` stand for 小) with only its ends shown."""
    name = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), unquote(nick))
    name = name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    name = "".join(filter(str.isprintable, name))
    if len(name) < 3:
        return f"{name[:1]}*" if name else ""
    return f"{name[0]}{'*' * (len(name) - 2)}{name[-1]}"
