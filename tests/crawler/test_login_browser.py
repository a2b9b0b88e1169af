"""Logins in a real browser, at a small site of the tests' own, with a phone that reads what is shown."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zxingcpp
from PIL import Image

from crawler.browser import Browser, BrowserOptions
from crawler.errors import BlockedError, LoginError
from crawler.login import LoginEvent, LoginStep, QrLogin
from crawler.login_ui import FileUI, Several, TerminalUI
from crawler.profile import Profile, check_profile
from crawler.qr import decode_qr
from tests.crawler.login_fakes import Witness
from tests.crawler.login_site import LoginSite
from tests.crawler.terminal import terminal_picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
STEP = LoginStep
Eyes = Callable[[], str | None]


@pytest.fixture(scope="module")
def site() -> Iterator[LoginSite]:
    with LoginSite() as site:
        yield site


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(BrowserOptions(tmp_path_factory.mktemp("profile") / "browser", headless=True)) as browser:
        yield browser


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """This site is quick: its slowest redirect takes 0.6 s."""
    for name, seconds in (("PROBE_S", 0.4), ("SETTLED_S", 1.0), ("SETTLED_BLIND_S", 2.0)):
        monkeypatch.setattr(f"crawler.login.{name}", seconds)
    monkeypatch.setattr("crawler.login_codes.RENEW_WAIT_S", 2.0)


def profile(site: LoginSite, **login: object) -> Profile:
    return check_profile(site.profile(**login), "test")


class Person(Witness):
    """Looks at each code with `eyes`, then does as told: `acts` by the number of the code."""

    def __init__(
        self,
        site: LoginSite,
        acts: dict[int, str] | None = None,
        eyes: Callable[[], str | None] | None = None,
    ) -> None:
        super().__init__()
        self.site, self.acts, self.eyes = site, acts or {}, eyes
        self.seen: list[str] = []

    def show(self, event: LoginEvent) -> None:
        super().show(event)
        act = self.acts.get(event.number, "confirm")
        if event.step is STEP.QR_SHOWN:
            payload = self.eyes() if self.eyes else event.payload
            assert payload is not None, "nothing to scan"
            self.seen.append(payload)
            if act == "expire":
                self.site.expire()
            elif act != "wait":
                assert self.site.phone(payload, "SCANNED") == "SCANNED"
        elif event.step is STEP.SCANNED:
            self.site.phone(self.seen[-1], "CANCELLED" if act == "cancel" else "CONFIRMED")
        elif event.step is STEP.IDENTITY_CHECK:
            self.site.proven = True


def steps(person: Person) -> list[str]:
    return [step.value for step in person.steps]


HAPPY = "probe open_login switch_to_qr qr_shown scanned confirmed verify logged_in".split()


@pytest.mark.parametrize("framed", [False, True], ids=["page", "frame"])
@pytest.mark.parametrize("kind", ["canvas", "tainted", "img"])
def test_scan_and_confirm(site: LoginSite, browser: Browser, kind: str, framed: bool) -> None:
    site.start_over(kind=kind, framed=framed)
    person = Person(site)
    machine = QrLogin(browser, profile(site), person)
    assert not machine.logged_in()
    assert machine.ensure() == "小***3"
    assert steps(person) == HAPPY
    assert machine.logged_in() and len(site.sessions) == 1
    assert site.visits.count("/new") == 1 and "/home" in site.visits


def test_the_phone_reads_the_terminal_and_the_file(site: LoginSite, browser: Browser, tmp_path: Path) -> None:
    site.start_over()
    stream, file = io.StringIO(), FileUI(tmp_path, 0, [].append)

    def look() -> str | None:
        (code,) = zxingcpp.read_barcodes(terminal_picture(stream.getvalue()))
        assert decode_qr(file.path.read_bytes()) == code.text
        return str(code.text)

    person = Person(site, eyes=look)
    QrLogin(browser, profile(site), Several([file, TerminalUI(stream, force=True), person])).ensure()
    assert steps(person) == HAPPY and list(tmp_path.iterdir()) == []
    assert stream.getvalue().splitlines()[-1] == "logged in as 小***3 · 登录成功：小***3"


def test_the_login_is_kept_between_runs(site: LoginSite, browser: Browser) -> None:
    site.start_over()
    QrLogin(browser, profile(site), Person(site)).ensure()
    browser.restart()
    person = Person(site)
    QrLogin(browser, profile(site), person).ensure()
    assert steps(person) == ["probe", "logged_in"]


@pytest.mark.parametrize("framed", [False, True], ids=["page", "frame"])
def test_an_expired_code_is_refreshed(site: LoginSite, browser: Browser, framed: bool) -> None:
    site.start_over(framed=framed)
    person = Person(site, {1: "expire"})
    QrLogin(browser, profile(site), person).ensure()
    assert steps(person)[3:7] == ["qr_shown", "expired", "qr_shown", "scanned"]
    assert len(set(person.seen)) == 2 and site.visits.count("/member/login") <= 3
    assert site.phone(person.seen[0], "CONFIRMED") == "EXPIRED", "the first code is worth nothing now"


def test_a_silently_expired_code_is_replaced(site: LoginSite, browser: Browser) -> None:
    site.start_over(expiry="silent", kind="img")
    person = Person(site, {1: "expire"})
    QrLogin(browser, profile(site, max_code_age_s=3), person).ensure()
    assert steps(person)[3:6] == ["qr_shown", "expired", "qr_shown"] and len(set(person.seen)) == 2


def test_a_cancelled_login_goes_on_with_another_code(site: LoginSite, browser: Browser) -> None:
    site.start_over()
    person = Person(site, {1: "cancel"})
    QrLogin(browser, profile(site), person).ensure()
    assert steps(person)[3:7] == ["qr_shown", "scanned", "cancelled", "qr_shown"]
    assert len(set(person.seen)) == 2


def test_confirming_a_stale_code_logs_nobody_in(site: LoginSite, browser: Browser) -> None:
    site.start_over()
    person = Person(site, {1: "expire", 2: "wait"})
    with pytest.raises(LoginError, match="timed out after 9 s"):
        QrLogin(browser, profile(site, timeout_s=9), person).ensure()
    assert len(person.seen) == 2
    assert site.phone(person.seen[0], "SCANNED") == "EXPIRED"
    assert not QrLogin(browser, profile(site), person).logged_in() and site.sessions == set()


@pytest.mark.parametrize("keep", [True, False])
def test_the_question_to_stay_logged_in(site: LoginSite, browser: Browser, keep: bool) -> None:
    site.start_over(keep=True, framed=not keep)
    person = Person(site)
    QrLogin(browser, profile(site), person, keep=keep).ensure()
    assert site.kept == ("yes" if keep else "no")
    assert "keep_login" in steps(person)


def test_an_identity_check(site: LoginSite, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    site.start_over(identity=True)
    with pytest.raises(BlockedError):
        QrLogin(browser, profile(site), Person(site)).ensure()
    assert site.sessions == set()
    site.start_over(identity=True)
    monkeypatch.setattr(browser, "options", dataclasses.replace(browser.options, headless=False))
    person = Person(site)
    QrLogin(browser, profile(site), person).ensure()
    assert steps(person)[4:] == ["scanned", "confirmed", "identity_check", "verify", "logged_in"]


def test_a_captcha_on_the_login_page_stops_everything(site: LoginSite, browser: Browser) -> None:
    site.start_over(captcha=True)
    person = Person(site)
    with pytest.raises(BlockedError):
        QrLogin(browser, profile(site), person).ensure()
    pages = [path for path in site.visits if path != "/favicon.ico"]
    assert pages[-1] == "/member/login" and person.seen == []


def test_the_picture_is_sharp(site: LoginSite, browser: Browser) -> None:
    """Two device pixels for each CSS pixel, so that codes on screenshots can be read."""
    site.start_over(kind="img")
    browser.goto(f"{site.url}/member/login")
    assert browser.click(".icon-qrcode")
    deadline = browser.script("return Date.now()") + 10_000
    while not browser.script("return document.querySelector('img.code')?.naturalWidth > 0"):
        assert browser.script("return Date.now()") < deadline
    png = browser.element_png("img.code")
    assert png is not None and (decode_qr(png) or "").startswith(f"{site.url}/qr?lgToken=")
    with Image.open(io.BytesIO(png)) as picture:
        natural = browser.script("return document.querySelector('img.code').naturalWidth")
        assert abs(picture.width - 2 * natural) <= 2
