"""The QR widget of a login page as it looks now, and a picture of its code."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler.profile import Login

if TYPE_CHECKING:
    from crawler.browser import Browser

_SELECTORS = (
    "code",
    "switch",
    "keep_dialog",
    "expired_selectors",
    "scanned_selectors",
    "cancelled_selectors",
)
_STATES = ("expired", "scanned", "cancelled")
_FLAGS = (*_STATES, "keep")


@dataclass(frozen=True)
class Widget:
    """What is visible. frame: selector of the iframe that was looked into too, if there is one.

    code: selector of the canvas or img. code_frame: where it is, None for the page itself. picture: its data
    URL or address; None where the browser may not tell. switch: selector of what leads to the code.
    """

    frame: str | None = None
    code: str | None = None
    code_frame: str | None = None
    picture: str | None = None
    switch: str | None = None
    keep: bool = False
    expired: bool = False
    scanned: bool = False
    cancelled: bool = False


@cache
def _script() -> str:
    return Path(__file__).with_name("login.js").read_text(encoding="utf-8")


def read_widget(browser: Browser, login: Login) -> Widget:
    """Look at the page and, if one is visible, into the login's iframe. Leaves the browser at the top."""
    browser.frame(None)
    page = _read(browser, login)
    inner: dict[str, Any] = {}
    frame = page.get("frame")
    if frame and browser.frame(frame):
        inner = _read(browser, login)
    browser.frame(None)
    shown = inner if inner.get("code") else page
    return Widget(
        frame=frame,
        code=shown.get("code"),
        code_frame=frame if shown is inner else None,
        picture=shown.get("picture"),
        switch=inner.get("switch") or page.get("switch"),
        **{flag: bool(page.get(flag) or inner.get(flag)) for flag in _FLAGS},
    )


def _read(browser: Browser, login: Login) -> dict[str, Any]:
    selectors = {name: getattr(login, name) for name in _SELECTORS}
    texts = {name: getattr(login, f"{name}_texts") for name in _STATES}
    answer = browser.script(_script(), selectors, texts, login.frame)
    return answer if isinstance(answer, dict) else {}  # the document may be on its way out


def click(browser: Browser, widget: Widget, selectors: tuple[str, ...]) -> bool:
    """Click the first of `selectors` that can be clicked, in the iframe or else in the page."""
    try:
        for frame in (widget.frame, None) if widget.frame else (None,):
            if browser.frame(frame) and any(browser.click(selector) for selector in selectors):
                return True
        return False
    finally:
        browser.frame(None)


def pictures(browser: Browser, widget: Widget) -> Iterator[bytes]:
    """Pictures of the code to try, best first: what the page itself drew, a screenshot of the element."""
    if widget.code is None:
        return
    if drawn := _data(widget.picture):
        yield drawn
    screenshot = browser.element_png(widget.code) if browser.frame(widget.code_frame) else None
    browser.frame(None)
    if screenshot:
        yield screenshot


def _data(address: str | None) -> bytes | None:
    """The bytes of a `data:image/…;base64,` address."""
    head, _, body = (address or "").partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        return None
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        return None
