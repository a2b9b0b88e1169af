"""Logging in to the practice shop with a phone that sees only what a person would: the file, the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler.browser import Browser, BrowserOptions
from crawler.errors import BlockedError, LoginError
from crawler.login import LoginEvent, LoginStep, QrLogin
from crawler.login_ui import FileUI, Several, TerminalUI
from crawler.practice_shop import PracticeShop, ShopSettings
from crawler.practice_shop.phone import Phone

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SILENT: Callable[[str], None] = lambda _line: None  # noqa: E731


class Person:
    """Looks at file and terminal whenever a new code is shown, and does what `acts` says, code by code."""

    def __init__(
        self, shop: PracticeShop, folder: Path, acts: list[Callable[[Phone, str], Any] | None]
    ) -> None:
        self.phone, self.acts = Phone(shop.search_origin), list(acts)
        self.screen = io.StringIO()
        self.file = FileUI(folder, 0, SILENT)
        self.events: list[LoginEvent] = []
        self.payloads: list[str] = []
        self.ui = Several([self.file, TerminalUI(self.screen, force=True), self])

    def show(self, event: LoginEvent) -> None:
        self.events.append(event)
        if event.step is not LoginStep.QR_SHOWN or event.png is None:
            return
        payload = self.phone.decode_file(self.file.path)
        assert payload == self.phone.decode_terminal(self.screen.getvalue()) == event.payload
        self.screen.seek(0)
        self.screen.truncate()
        self.payloads.append(payload)
        act = self.acts.pop(0) if self.acts else None
        if act is not None:
            act(self.phone, payload)

    def close(self) -> None:
        pass

    @property
    def steps(self) -> list[LoginStep]:
        return [event.step for event in self.events]


def agree(phone: Phone, payload: str) -> None:
    assert phone.scan(payload) and phone.confirm(payload)


def refuse(phone: Phone, payload: str) -> None:
    phone.scan(payload)
    phone.cancel(payload)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(BrowserOptions(tmp_path / "profile")) as started:
        yield started


def login(shop: PracticeShop, browser: Browser, person: Person, **changes: float) -> QrLogin:
    profile = shop.profile()
    assert profile.login is not None
    quick = profile.login.model_copy(update={"poll_s": 0.1, "timeout_s": 60.0, **changes})
    return QrLogin(browser, profile.model_copy(update={"login": quick}), person.ui)


@pytest.mark.parametrize("node", ["canvas", "img"])
def test_the_phone_reads_file_and_terminal_and_the_login_outlives_the_browser(
    tmp_path: Path, browser: Browser, node: str
) -> None:
    with PracticeShop(ShopSettings(login="required", qr_node=node, keep_dialog=True)) as shop:  # type: ignore[arg-type]
        person = Person(shop, tmp_path, [agree])
        QrLogin(browser, shop.profile(), person.ui, keep=True).ensure()
        assert LoginStep.LOGGED_IN in person.steps and LoginStep.KEEP_LOGIN in person.steps
        assert not person.file.path.exists()
        browser.close()
        with Browser(BrowserOptions(tmp_path / "profile")) as again:
            other = Person(shop, tmp_path, [])
            login(shop, again, other).ensure()
        assert other.payloads == [] and len(shop.log("confirm")) == 1


def test_a_code_that_is_refreshed_five_times(tmp_path: Path, browser: Browser) -> None:
    with PracticeShop(ShopSettings(login="required", qr_ttl_s=2.0)) as shop:
        stale: list[str] = []
        keep: Callable[[Phone, str], Any] = lambda _phone, payload: stale.append(payload)  # noqa: E731

        def last(phone: Phone, payload: str) -> None:
            shop.set(qr_ttl_s=60.0)
            for old in stale:  # a confirmation for a code of before logs nobody in
                phone.scan(old)
                phone.confirm(old)
            assert not any(visit.path.startswith("/arrive") for visit in shop.log())
            agree(phone, payload)

        person = Person(shop, tmp_path, [*[keep] * 5, last])
        login(shop, browser, person).ensure()
        assert len(set(person.payloads)) == 6 and person.steps.count(LoginStep.EXPIRED) == 5


def test_a_refusal_on_the_phone_brings_a_new_code(tmp_path: Path, browser: Browser) -> None:
    with PracticeShop(ShopSettings(login="required")) as shop:
        person = Person(shop, tmp_path, [refuse, agree])
        login(shop, browser, person).ensure()
        assert LoginStep.CANCELLED in person.steps and len(set(person.payloads)) == 2


def test_an_identity_check_without_a_window_is_a_block(tmp_path: Path, browser: Browser) -> None:
    with PracticeShop(ShopSettings(login="required", identity_check=True)) as shop:
        person = Person(shop, tmp_path, [agree])
        with pytest.raises(BlockedError, match="wants to check who you are"):
            login(shop, browser, person).ensure()
        assert not person.file.path.exists()


def test_nobody_scans(tmp_path: Path, browser: Browser) -> None:
    with PracticeShop(ShopSettings(login="required")) as shop:
        person = Person(shop, tmp_path, [])
        with pytest.raises(LoginError, match="timed out after 6 s"):
            login(shop, browser, person, timeout_s=6.0).ensure()
        assert person.steps[-1] is LoginStep.FAILED and not person.file.path.exists()
