"""The QR codes of one login: find the code, hand on each new one, renew it when it has expired.

Called once per poll with what the page shows. A code has expired when the page says so, when another one
takes its place, or when it is older than the profile allows, because some pages say nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from crawler.clock import Clock
from crawler.errors import LoginError
from crawler.login_events import LoginStep
from crawler.login_widget import Widget, click, pictures
from crawler.profile import Login, Profile, host_allowed
from crawler.qr import decode_qr, draw_png

if TYPE_CHECKING:
    from crawler.browser import Browser

OPEN_WAIT_S = 20.0  # how long a login page may take to show a code or a way to it
SWITCH_WAIT_S = 8.0  # before the switch is clicked again: it is often a toggle
RENEW_WAIT_S = 8.0  # for a new code to appear before the next way is tried
UNREADABLE_S = 3.0  # a code that is still being painted cannot be read yet


class Tell(Protocol):
    def __call__(
        self, step: LoginStep, *, payload: str | None = None, png: bytes | None = None, number: int = 0
    ) -> None:
        """Hand an event to the UI."""


@dataclass(frozen=True)
class _Capture:
    """payload: None if the picture cannot be read. key: differs when the page shows another picture."""

    payload: str | None
    png: bytes
    key: str | None


class Codes:
    """See the module. `number` codes have been handed on; `seen` is whether this page has shown one."""

    def __init__(
        self, browser: Browser, profile: Profile, login: Login, tell: Tell, clock: Clock, *, headless: bool
    ) -> None:
        self._browser, self._profile, self._login = browser, profile, login
        self._tell, self._clock, self._headless = tell, clock, headless
        self.number = 0
        self._payloads: set[str] = set()
        self._open_page()

    def _open_page(self) -> None:
        now = self._clock.monotonic()
        self._opened = self._acted = now
        self._switched: float | None = None
        self._unreadable: float | None = None
        self._seen = False
        self._step: LoginStep | None = None  # of the code on the page: shown, scanned, expired, cancelled
        self._current: _Capture | None = None
        self._since = now  # when the code was shown or scanned
        self._ways: list[Callable[[Widget], bool]] = []

    def open(self) -> None:
        """Load the login page, and start looking for a code. Codes handed on earlier stay counted."""
        self._browser.goto(self._login.url)
        self._open_page()

    def look(self, widget: Widget) -> None:
        """One poll. Raises LoginError: no code, too many of them, or one that leads elsewhere."""
        self._seen = self._seen or bool(widget.code) or widget.scanned
        if widget.cancelled:
            self._renew(LoginStep.CANCELLED, widget)
        elif widget.expired:
            self._renew(LoginStep.EXPIRED, widget)
        elif widget.scanned:
            self._scanned()
        elif widget.code:
            self._see(widget)
        elif not self._seen:
            self._search(widget)
        elif self._renewing:
            self._try_next_way(widget)
        if self._step in (LoginStep.QR_SHOWN, LoginStep.SCANNED) and self._age() > self._login.max_code_age_s:
            self._renew(LoginStep.EXPIRED, widget)

    def _scanned(self) -> None:
        if self._step is not LoginStep.SCANNED:
            self._step, self._since = LoginStep.SCANNED, self._clock.monotonic()
            self._tell(LoginStep.SCANNED, number=self.number)

    def _age(self) -> float:
        return self._clock.monotonic() - self._since

    def _search(self, widget: Widget) -> None:
        """No code so far: use the switch, and do not wait for ever."""
        now = self._clock.monotonic()
        if now - self._opened > OPEN_WAIT_S:
            if self._headless:
                raise LoginError(
                    f"{urlsplit(self._browser.url()).hostname}: the login page shows no QR code within "
                    f"{OPEN_WAIT_S:.0f} s (profile {self._profile.name}: login.switch, login.code)"
                )
            if self._step is not LoginStep.NO_CODE:
                self._step = LoginStep.NO_CODE
                self._tell(LoginStep.NO_CODE)
        elif widget.switch and (self._switched is None or now - self._switched > SWITCH_WAIT_S):
            if self._switched is None and not self._renewing:
                self._tell(LoginStep.SWITCH_TO_QR)
            self._switched = now
            click(self._browser, widget, (widget.switch,))

    @property
    def _renewing(self) -> bool:
        return self._step in (LoginStep.EXPIRED, LoginStep.CANCELLED)

    def _see(self, widget: Widget) -> None:
        """A code is visible, and nothing on the page says that it is used or expired."""
        capture = self._capture(widget)
        if capture is None:
            return
        if self._renewing:
            if self._is_new(capture):
                self._show(capture)
            else:
                self._try_next_way(widget)
        elif self._current is None:
            self._show(capture)
        elif self._is_new(capture):
            self._expire(LoginStep.EXPIRED)
            self._show(capture)

    def _is_new(self, capture: _Capture) -> bool:
        """Whether it is another code than those before. One that cannot be read is told by its picture."""
        if capture.payload is not None:
            return capture.payload not in self._payloads
        known = self._current or _Capture(None, b"", None)
        if self._renewing:
            return capture.key is None or capture.key != known.key
        return known.payload is None and capture.key is not None and capture.key != known.key

    def _capture(self, widget: Widget) -> _Capture | None:
        """The code as it looks now; None while it may still be in the making."""
        if self._current is not None and widget.picture is not None and widget.picture == self._current.key:
            return self._current
        first: bytes | None = None
        for png in pictures(self._browser, widget):
            payload = decode_qr(png)
            if payload is not None:
                self._unreadable = None
                return _Capture(payload, png, widget.picture)
            first = first or png
        now = self._clock.monotonic()
        if self._unreadable is None:
            self._unreadable = now
        if first is None or now - self._unreadable < UNREADABLE_S:
            return None
        return _Capture(None, first, widget.picture)

    def _show(self, capture: _Capture) -> None:
        self._check_left()
        payload, png = capture.payload, capture.png
        if payload is not None:
            if not host_allowed(payload, self._profile.hosts.qr):
                raise LoginError(
                    f"not shown: the QR code leads to {_host(payload)}, not in hosts.qr of the profile"
                )
            self._payloads.add(payload)
            with contextlib.suppress(ValueError):  # too long for a code of ours, then as the page draws it
                png = draw_png(payload)
        self.number += 1
        self._step, self._since, self._current = LoginStep.QR_SHOWN, self._clock.monotonic(), capture
        self._tell(LoginStep.QR_SHOWN, payload=payload, png=png, number=self.number)

    def _expire(self, step: LoginStep) -> None:
        """Tell that the code is of no more use. Raises LoginError if it was the last one allowed."""
        self._check_left()
        self._step = step
        self._tell(step, number=self.number + 1)

    def _check_left(self) -> None:
        if self.number >= self._login.max_codes:
            raise LoginError(f"{self.number} QR codes were of no use; run again with the phone at hand")

    def _renew(self, step: LoginStep, widget: Widget) -> None:
        """Get another code: the page's own way, then a click on the code, then the page once more."""
        if not self._renewing:
            if self.number:
                self._expire(step)
            self._step = step
            self._ways = [
                lambda seen: click(self._browser, seen, self._login.refresh),
                lambda seen: bool(seen.code) and click(self._browser, seen, (seen.code or "",)),
                lambda _: self._reload(),
            ]
            self._acted = self._clock.monotonic() - RENEW_WAIT_S
        self._try_next_way(widget)

    def _reload(self) -> bool:
        step, current = self._step, self._current
        self.open()
        self._step, self._current = step, current
        return True

    def _try_next_way(self, widget: Widget) -> None:
        if self._clock.monotonic() - self._acted < RENEW_WAIT_S:
            return
        while self._ways:
            if self._ways.pop(0)(widget):
                self._acted, self._unreadable = self._clock.monotonic(), None
                return
        raise LoginError("the login page gives no new QR code")


def _host(payload: str) -> str:
    """The host of a code, fit for a terminal."""
    try:
        host = urlsplit(payload).hostname or ""
    except ValueError:
        host = ""
    return "".join(filter(str.isprintable, host))[:100] or "no web address"
