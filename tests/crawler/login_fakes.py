"""A login site without a browser: what its pages show changes on a clock, by clicks, and by a phone."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import segno

from crawler.browser import BrowserOptions
from crawler.browser_errors import PageError
from crawler.login import LoginEvent, LoginStep, QrLogin
from crawler.profile import Profile, check_profile
from tests.crawler.fakes import FakeClock

SITE, LOGIN_HOST = "https://shop.example.com", "https://login.example.com"
LOGIN, PROBE, HOME = f"{LOGIN_HOST}/member/login.htm", f"{SITE}/my.htm", f"{SITE}/home.htm"
SECRET = "5ecre7t0ken"
COOKIES = {"uid": "12345", "nick": "%5Cu5c0f%5Cu660e123", "cookie2": "anonymous"}
STEP = LoginStep


def profile(**login: object) -> Profile:
    """A site; `login` replaces fields of its section."""
    section = {
        "url": LOGIN,
        "wall_url": [r"^https://login\.example\.com/member/login"],
        "probe_url": PROBE,
        "cookies": ["uid", "nick"],
        "nick_cookies": ["nick"],
        "frame": ["iframe#login"],
        "switch": ["#switch"],
        "code": ["#code"],
        "refresh": ["#refresh"],
        "expired_texts": ["expired"],
        "keep_dialog": ["#keep"],
        "keep_yes": ["#yes"],
        "keep_no": ["#no"],
        **login,
    }
    content = {
        "name": "example",
        "title": "例子",
        "search": {"url": SITE + "/search?q={query}"},
        "hosts": {"page": ["*.example.com"], "image": [], "qr": ["login.m.example.com"]},
        "products": {"link": [r"item\.htm\?id=(?P<id>\d+)"]},
        "challenge": {
            "captcha_url": ["/punish.*captcha"],
            "captcha_selectors": [".slider"],
            "deny_url": ["action=deny"],
            "throttle_texts": ["too many visitors"],
            "identity_url": ["/iv/"],
        },
        "login": section,
    }
    return check_profile(content, "test")


def payload(number: int) -> str:
    return f"https://login.m.example.com/qrcodeCheck.htm?lgToken={SECRET}{number}"


@cache
def code_png(text: str) -> bytes:
    file = io.BytesIO()
    segno.make_qr(text).save(file, kind="png", scale=4)
    return file.getvalue()


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


@dataclass(frozen=True)
class Shown:
    """What the page shows. code: payload of a canvas. picture: instead, bytes that need not be a code;
    tainted: the page may not read its canvas. framed: the widget is in an iframe."""

    url: str = "about:blank"
    code: str | None = None
    picture: bytes | None = None
    tainted: bool = False
    switch: bool = False
    refresh: bool = False
    expired: bool = False
    scanned: bool = False
    cancelled: bool = False
    keep: bool = False
    slider: bool = False
    framed: bool = False
    status: int = 200
    cookies: dict[str, str] = field(default_factory=dict)


class FakeBrowser:
    """Plays a site. `at(seconds, …)` plans what the page shows later, `on` has what clicks do."""

    def __init__(self, *, headless: bool = True) -> None:
        self.clock = FakeClock()
        self.options = BrowserOptions(None, headless=headless)
        self.session = False
        self.now = Shown(cookies={"cookie2": "anonymous"})
        self.log: list[tuple[float, str]] = []
        self.on: dict[str, Callable[[], None]] = {}
        self.on_login: Callable[[], None] = lambda: self.show(url=LOGIN, code=payload(1))
        self.on_probe: Callable[[], None] = lambda: self.show(url=PROBE if self.session else LOGIN)
        self.frame_now: str | None = None
        self.failing: list[Exception] = []
        self._plan: list[tuple[float, Callable[[], None]]] = []
        self._started = self.clock.time

    # --- what a test says

    def show(self, **changes: Any) -> None:
        """Another page, with the cookies of before."""
        self._plan.clear()
        self.now = Shown(cookies={**self.now.cookies, **changes.pop("cookies", {})}, **changes)

    def at(self, seconds: float, action: Callable[[], None] | None = None, **changes: Any) -> None:
        """In so many seconds from now: `action`, or changes of the page."""

        def change() -> None:
            self.now = replace(self.now, **changes)

        self._plan.append((self.clock.time + seconds, action or change))

    def log_in(self) -> None:
        """The server is convinced, and sends the browser home."""
        self.session = True
        self.show(url=HOME, cookies=COOKIES)

    @property
    def gone_to(self) -> list[str]:
        return [what.removeprefix("goto ") for _, what in self.log if what.startswith("goto ")]

    @property
    def clicked(self) -> list[str]:
        return [what.removeprefix("click ") for _, what in self.log if what.startswith("click ")]

    # --- what crawler.browser.Browser offers

    def goto(self, url: str) -> bool:
        self._note(f"goto {url}")
        {LOGIN: self.on_login, PROBE: self.on_probe}[url]()
        return True

    def script(self, *code_and_arguments: Any) -> Any:
        self._let_time_pass()
        if self.failing:
            raise self.failing.pop(0)
        return self._widget() if len(code_and_arguments) == 4 else self._snapshot()

    def url(self) -> str:
        self._let_time_pass()
        return self.now.url

    def element_png(self, selector: str) -> bytes | None:
        self._let_time_pass()
        assert self._here(), "looked for the code in the wrong frame"
        self._note(f"shoot {selector}")
        return code_png(self.now.code) if self.now.code else self.now.picture

    def click(self, selector: str) -> bool:
        self._let_time_pass()
        there = {"#switch": self.now.switch, "#refresh": self.now.refresh, "#code": self._has_code()}
        if not self._here() or not there.get(selector, self.now.keep and selector in ("#yes", "#no")):
            return False
        self._note(f"click {selector}")
        self.on.get(selector, lambda: None)()
        return True

    def frame(self, selector: str | None) -> bool:
        if selector is not None and not self.now.framed:
            return False
        self.frame_now = selector
        return True

    def cookies(self) -> dict[str, str]:
        self._let_time_pass()
        return self.now.cookies if "example.com" in self.now.url else {}

    def single_window(self) -> None:
        self.frame_now = None

    # --- inside

    def _note(self, what: str) -> None:
        self.log.append((self.clock.time - self._started, what))

    def _let_time_pass(self) -> None:
        due = [entry for entry in self._plan if entry[0] <= self.clock.time]
        for entry in sorted(due, key=lambda entry: entry[0]):
            if entry in self._plan:
                self._plan.remove(entry)
                entry[1]()

    def _here(self) -> bool:
        return self.now.framed == (self.frame_now is not None)

    def _has_code(self) -> bool:
        return self.now.code is not None or self.now.picture is not None

    def _widget(self) -> dict[str, Any]:
        frame = "iframe:nth-child(1)" if self.now.framed and self.frame_now is None else None
        if not self._here():
            return {"frame": frame}
        picture = code_png(self.now.code) if self.now.code else self.now.picture
        return {
            "frame": frame,
            "code": "#code" if picture is not None else None,
            "picture": data_url(picture) if picture is not None and not self.now.tainted else None,
            "switch": "#switch" if self.now.switch else None,
            **{name: getattr(self.now, name) for name in ("keep", "expired", "scanned", "cancelled")},
        }

    def _snapshot(self) -> dict[str, Any]:
        if self.frame_now is not None:
            raise PageError("a snapshot of the frame instead of the page")
        box = {"x": 400, "y": 300, "width": 300, "height": 200}
        slider = [{"kind": "captcha", "wanted": ".slider", "text": "", "rect": box, "overlay": True}]
        return {
            "url": self.now.url,
            "ready_state": "complete",
            "status": self.now.status,
            "width": 1200,
            "height": 800,
            "probes": slider if self.now.slider else [],
        }


class Witness:
    """A UI that remembers."""

    def __init__(self) -> None:
        self.events: list[LoginEvent] = []
        self.closed = 0

    def show(self, event: LoginEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    @property
    def steps(self) -> list[LoginStep]:
        return [event.step for event in self.events]

    @property
    def codes(self) -> list[tuple[int, str | None]]:
        return [(event.number, event.payload) for event in self.events if event.step is STEP.QR_SHOWN]


def login(browser: FakeBrowser, ui: Witness, *, keep: bool = False, **section: object) -> QrLogin:
    return QrLogin(browser, profile(**section), ui, keep=keep, clock=browser.clock)  # type: ignore[arg-type]
