"""Codes that expire, are cancelled, do not change, lead elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from crawler.errors import LoginError
from tests.crawler.login_fakes import (
    LOGIN,
    SECRET,
    STEP,
    FakeBrowser,
    Witness,
    login,
    payload,
)


@pytest.fixture
def browser() -> FakeBrowser:
    return FakeBrowser()


@pytest.fixture
def ui() -> Witness:
    return Witness()


def expiring(browser: FakeBrowser, after_s: float = 20, last: int = 3, **how: object) -> Callable[[], None]:
    """Opens a page whose codes expire one after another (`how` they say so); `last` is confirmed."""
    number = 0

    def next_code() -> None:
        nonlocal number
        number += 1
        browser.show(url=LOGIN, code=payload(number))
        if number == last:
            browser.at(5, browser.log_in)
        elif how:
            browser.at(after_s, **how)

    browser.on["#refresh"] = browser.on["#code"] = next_code
    return next_code


def test_an_expired_code_is_refreshed(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = expiring(browser, expired=True, refresh=True)
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1)), (2, payload(2)), (3, payload(3))]
    assert browser.clicked == ["#refresh", "#refresh"] and browser.gone_to.count(LOGIN) == 1
    shown = [event for event in ui.events if event.step in (STEP.QR_SHOWN, STEP.EXPIRED)]
    assert [(event.step, event.number) for event in shown] == [
        (STEP.QR_SHOWN, 1),
        (STEP.EXPIRED, 2),
        (STEP.QR_SHOWN, 2),
        (STEP.EXPIRED, 3),
        (STEP.QR_SHOWN, 3),
    ]
    assert "expired; getting a new one: code 2 of 6" in shown[1].message


def test_a_cancelled_login_gets_another_code(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = expiring(browser, cancelled=True, refresh=True, last=2)
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1)), (2, payload(2))]
    cancelled = ui.events[ui.steps.index(STEP.CANCELLED)]
    assert "cancelled on the phone" in cancelled.message and STEP.EXPIRED not in ui.steps


def test_without_a_refresh_button_the_code_is_clicked(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = expiring(browser, expired=True, last=2)
    login(browser, ui).ensure()
    assert browser.clicked == ["#code"] and browser.gone_to.count(LOGIN) == 1


def test_if_clicks_do_nothing_the_page_is_loaded_again(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = expiring(browser, expired=True, refresh=True, last=2)
    browser.on.clear()
    login(browser, ui).ensure()
    assert browser.clicked == ["#refresh", "#code"] and browser.gone_to.count(LOGIN) == 2
    assert ui.codes == [(1, payload(1)), (2, payload(2))] and ui.steps.count(STEP.EXPIRED) == 1


def test_a_page_loaded_again_begins_with_the_password_form(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, switch=True)

    def switch() -> None:
        number = browser.gone_to.count(LOGIN)
        browser.show(url=LOGIN, code=payload(number))
        browser.at(5, browser.log_in) if number == 2 else browser.at(5, expired=True, code=None)

    browser.on_login, browser.on["#switch"] = open_page, switch
    login(browser, ui).ensure()
    assert browser.clicked == ["#switch", "#switch"] and ui.steps.count(STEP.SWITCH_TO_QR) == 1
    assert ui.codes == [(1, payload(1)), (2, payload(2))]


def test_a_code_that_changes_without_a_word_has_expired(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(60, code=payload(2))
        browser.at(80, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.steps[2:5] == [STEP.QR_SHOWN, STEP.EXPIRED, STEP.QR_SHOWN] and browser.clicked == []
    assert ui.codes == [(1, payload(1)), (2, payload(2))]


@pytest.mark.parametrize("tainted", [False, True])
def test_a_code_that_is_too_old_has_expired_silently(
    browser: FakeBrowser, ui: Witness, tainted: bool
) -> None:
    def open_page() -> None:
        number = browser.gone_to.count(LOGIN)
        browser.show(url=LOGIN, code=payload(number), tainted=tainted)
        if number == 2:
            browser.at(5, browser.log_in)

    browser.on_login = open_page
    login(browser, ui, max_code_age_s=90).ensure()
    assert ui.codes == [(1, payload(1)), (2, payload(2))] and STEP.EXPIRED in ui.steps
    reloaded = [time for time, what in browser.log if what == f"goto {LOGIN}"]
    assert 90 < reloaded[1] - reloaded[0] < 90 + 20


def test_who_has_scanned_gets_the_full_time_to_confirm(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(80, scanned=True, code=None)
        browser.at(150, browser.log_in)

    browser.on_login = open_page
    login(browser, ui, max_code_age_s=90).ensure()
    assert STEP.EXPIRED not in ui.steps and len(ui.codes) == 1


def test_an_old_code_is_not_shown_again_as_a_new_one(browser: FakeBrowser, ui: Witness) -> None:
    """The overlay goes at once, the picture is replaced later; confirming the old one would be in vain."""

    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(10, expired=True, refresh=True)

    def refresh() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(4, code=payload(2))
        browser.at(14, browser.log_in)

    browser.on_login, browser.on["#refresh"] = open_page, refresh
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1)), (2, payload(2))]
    assert browser.clicked == ["#refresh"], "it is given time"


def test_codes_are_limited(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = expiring(browser, last=99, expired=True, refresh=True)
    with pytest.raises(LoginError, match="3 QR codes were of no use") as error:
        login(browser, ui, max_codes=3).ensure()
    assert error.value.exit_code == 4
    assert [number for number, _ in ui.codes] == [1, 2, 3] and len(browser.clicked) == 2
    assert ui.steps[-1] is STEP.FAILED and str(error.value) in ui.events[-1].message and ui.closed == 1


def test_a_page_that_gives_no_new_code(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(10, expired=True, refresh=True)

    browser.on_login = open_page
    with pytest.raises(LoginError, match="gives no new QR code"):
        login(browser, ui).ensure()
    assert browser.gone_to.count(LOGIN) == 2 and len(ui.codes) == 1


def test_the_time_is_limited(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = lambda: browser.show(url=LOGIN, code=payload(1))
    started = browser.clock.monotonic()
    with pytest.raises(LoginError, match=r"^login timed out after 100 s \(at: qr_shown\)$"):
        login(browser, ui, timeout_s=100).ensure()
    assert 99 <= browser.clock.monotonic() - started <= 101
    assert ui.steps.count(STEP.QR_SHOWN) == 1, "one event, however often it is looked at"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        (f"https://evil.example.net/?lgToken={SECRET}", "evil.example.net"),
        (f"https://login.m.example.com.evil.net/{SECRET}", "login.m.example.com.evil.net"),
        (f"https://login.m.example.com@evil.net/{SECRET}", "evil.net"),
        (f"https://e\x1b[1mvil.net/{SECRET}", "no web address"),
        (f"https://e\x07vil.net/{SECRET}", "evil.net"),
        (f"WIFI:S:{SECRET};;", "no web address"),
        (f"http://[{SECRET}", "no web address"),
    ],
)
def test_a_code_that_leads_elsewhere_is_never_shown(
    browser: FakeBrowser, ui: Witness, text: str, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser.on_login = lambda: browser.show(url=LOGIN, code=text)
    with caplog.at_level(logging.DEBUG), pytest.raises(LoginError) as error:
        login(browser, ui).ensure()
    assert f"leads to {host}," in str(error.value)
    assert ui.codes == [] and all(event.png is None for event in ui.events)
    assert SECRET not in caplog.text + str(error.value) + ui.events[-1].message


def test_a_refresh_that_leaves_nothing_is_followed_by_a_reload(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = expiring(browser, expired=True, refresh=True, last=2)
    browser.on["#refresh"] = lambda: browser.show(url=LOGIN)
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1)), (2, payload(2))] and browser.gone_to.count(LOGIN) == 2


def test_a_code_that_has_gone_is_not_switched_back_to(browser: FakeBrowser, ui: Witness) -> None:
    """The switch leads back to the password form, while the page is about to go on."""

    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1), switch=True)
        browser.at(10, code=None)
        browser.at(40, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert browser.clicked == []
