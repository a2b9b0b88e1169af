"""How a login ends when the page, the site or the human is of no help; identity checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crawler.errors import BlockedError, LoginError
from tests.crawler.login_fakes import LOGIN, LOGIN_HOST, PROBE, STEP, FakeBrowser, Witness, login, payload

IDENTITY = f"{LOGIN_HOST}/iv/check.htm"


@pytest.fixture
def browser() -> FakeBrowser:
    return FakeBrowser()


@pytest.fixture
def ui() -> Witness:
    return Witness()


def test_without_code_and_window_there_is_no_way_in(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = lambda: browser.show(url=LOGIN, switch=True)
    with pytest.raises(LoginError, match=r"login\.example\.com: the login page shows no QR code within 20 s"):
        login(browser, ui).ensure()
    assert 1 < len(browser.clicked) < 4, "the switch may be a toggle"


def test_with_a_window_the_human_may_log_in_otherwise(ui: Witness) -> None:
    browser = FakeBrowser(headless=False)

    def open_page() -> None:
        browser.show(url=LOGIN)
        browser.at(60, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.steps.count(STEP.NO_CODE) == 1 and ui.steps[-1] is STEP.LOGGED_IN


def test_a_human_on_the_way_through_other_forms_is_not_interrupted(ui: Witness) -> None:
    browser = FakeBrowser(headless=False)

    def open_page() -> None:
        browser.show(url=LOGIN)
        browser.at(10, url=f"{LOGIN_HOST}/forgotten-password")
        browser.at(100, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert browser.gone_to == [PROBE, LOGIN, PROBE] and STEP.FAILED not in ui.steps


def asking_for_identity(browser: FakeBrowser, answered_after_s: float) -> Callable[[], None]:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(5, scanned=True, code=None)
        browser.at(8, url=IDENTITY, scanned=False)
        browser.at(8 + answered_after_s, browser.log_in)

    return open_page


def test_an_identity_check_is_for_a_human(ui: Witness) -> None:
    browser = FakeBrowser(headless=False)
    browser.on_login = asking_for_identity(browser, 60)
    login(browser, ui).ensure()
    at = ui.steps.index(STEP.IDENTITY_CHECK)
    assert ui.steps[at - 1 : at + 2] == [STEP.CONFIRMED, STEP.IDENTITY_CHECK, STEP.VERIFY]
    assert ui.steps.count(STEP.IDENTITY_CHECK) == 1 and browser.clicked == []


def test_an_identity_check_that_nobody_sees_is_a_block(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = asking_for_identity(browser, 60)
    with pytest.raises(BlockedError, match="who you are; run cnclip login with a browser window"):
        login(browser, ui).ensure()
    assert browser.gone_to == [PROBE, LOGIN]


def test_an_identity_check_that_nobody_answers_times_out(ui: Witness) -> None:
    browser = FakeBrowser(headless=False)
    browser.on_login = asking_for_identity(browser, 1000)
    with pytest.raises(LoginError, match=r"timed out after 120 s \(at: identity_check\)"):
        login(browser, ui, timeout_s=120).ensure()


def test_an_identity_check_on_the_probe_page(ui: Witness) -> None:
    browser = FakeBrowser(headless=False)
    browser.session = True

    def probe() -> None:
        browser.show(url=IDENTITY if len(browser.gone_to) == 1 else PROBE)
        browser.at(30, browser.log_in)

    browser.on_probe = probe
    login(browser, ui).ensure()
    assert ui.steps == [STEP.PROBE, STEP.IDENTITY_CHECK, STEP.LOGGED_IN]


def test_a_login_that_does_not_hold_is_tried_twice(browser: FakeBrowser, ui: Witness) -> None:
    number = 0

    def open_page() -> None:
        nonlocal number
        number += 1
        browser.show(url=LOGIN, code=payload(number))
        browser.at(5, url=f"{LOGIN_HOST}/done", code=None, cookies={"uid": "1", "nick": "x"})

    browser.on_login = open_page  # the server gives no session: the probe leads to the login again
    with pytest.raises(LoginError, match=r"still not logged in after 2 tries \(the page is: login_wall\)"):
        login(browser, ui).ensure()
    assert ui.steps.count(STEP.VERIFY) == 2 and ui.codes == [(1, payload(1)), (2, payload(2))]


def test_a_login_page_that_does_not_load(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = lambda: browser.show(url="chrome-error://chromewebdata/")
    browser.on_probe = browser.on_login
    with pytest.raises(LoginError, match=r"2 tries \(the page is: server_error\)"):
        login(browser, ui).ensure()
    assert browser.gone_to.count(LOGIN) == 2 and STEP.CONFIRMED not in ui.steps
