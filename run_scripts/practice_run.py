"""A practice shop for one crawl, with a phone that scans by itself."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crawler.login_ui import LoginEvent, LoginUI

SCAN_AFTER_S, CONFIRM_AFTER_S = 1.0, 1.0


@dataclass(frozen=True)
class PracticeRun:
    """url: of the shop. state_dir: for sessions of a shop that is gone tomorrow. phone: scans its codes."""

    url: str
    state_dir: Path
    phone: LoginUI


class PracticePhone:
    """Scans and confirms each code that is shown, a moment later, as a person with a phone would."""

    def __init__(self, shop_url: str) -> None:
        self._shop_url = shop_url
        self._away = threading.Event()
        self._threads: list[threading.Thread] = []

    def show(self, event: LoginEvent) -> None:
        """Take the picture of a code, as it is shown."""
        from crawler.qr import decode_qr

        payload = decode_qr(event.png) if event.png else None
        if payload is None:
            return
        self._away.clear()
        thread = threading.Thread(target=self._scan, args=(payload,), name="practice-phone")
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Put the phone away; it may be taken out again."""
        self._away.set()
        while self._threads:
            self._threads.pop().join()

    def _scan(self, payload: str) -> None:
        from crawler.errors import CrawlError
        from crawler.practice_shop.phone import Phone

        with Phone(self._shop_url) as phone:
            for wait_s, act in ((SCAN_AFTER_S, phone.scan), (CONFIRM_AFTER_S, phone.confirm)):
                if self._away.wait(wait_s):
                    return
                with contextlib.suppress(CrawlError):  # the shop says so on its page
                    act(payload)


def start_practice_shop(stack: contextlib.ExitStack, catalogue: Path | None = None) -> PracticeRun:
    """A shop on free ports that asks for a login; gone when `stack` is closed.

    Args:
        catalogue: real pictures that it sells (QUERY/*.jpg, or JSONL); without it they are drawn.

    Raises: SettingsError for a catalogue that cannot be used.
    """
    from crawler.practice_shop import PracticeShop, ShopSettings

    shop = stack.enter_context(PracticeShop(ShopSettings(login="required", catalogue=catalogue)))
    state_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="cnclip-practice-"))
    sys.stderr.write(f"a practice shop is open at {shop.search_origin}; its phone scans the code by itself\n")
    return PracticeRun(shop.search_origin, Path(state_dir), PracticePhone(shop.search_origin))
