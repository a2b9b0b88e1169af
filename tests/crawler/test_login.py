"""The way of a login that goes well, and what counts as being logged in."""

from __future__ import annotations

import logging

import pytest

from crawler.browser_errors import BrowserDied, PageError
from crawler.errors import BlockedError, LoginError, SettingsError
from crawler.login import masked
from crawler.qr import decode_qr
from tests.crawler.login_fakes import (
    COOKIES,
    HOME,
    LOGIN,
    LOGIN_HOST,
    PROBE,
    SECRET,
    SITE,
    STEP,
    FakeBrowser,
    Witness,
    login,
    payload,
    profile,
)


@pytest.fixture
def browser() -> FakeBrowser:
    return FakeBrowser()


@pytest.fixture
def ui() -> Witness:
    return Witness()


def test_who_is_logged_in_is_not_bothered(browser: FakeBrowser, ui: Witness) -> None:
    browser.session, browser.now.cookies["uid"] = True, "1"
    browser.now.cookies["nick"] = COOKIES["nick"]
    assert login(browser, ui).ensure() == "小***3"
    assert ui.steps == [STEP.PROBE, STEP.LOGGED_IN] and browser.gone_to == [PROBE]
    assert "logged in as 小***3" in ui.events[-1].message and ui.closed == 1


def test_a_login_step_by_step(browser: FakeBrowser, ui: Witness, caplog: pytest.LogCaptureFixture) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, switch=True)  # the password form
        browser.on["#switch"] = show_code

    def show_code() -> None:
        browser.show(url=LOGIN, switch=True, code=payload(1))
        browser.at(7, scanned=True, code=None)
        browser.at(12, browser.log_in)

    browser.on_login = open_page
    with caplog.at_level(logging.DEBUG):
        assert login(browser, ui).ensure() == "小***3"
    assert ui.steps == [
        STEP.PROBE,
        STEP.OPEN_LOGIN,
        STEP.SWITCH_TO_QR,
        STEP.QR_SHOWN,
        STEP.SCANNED,
        STEP.CONFIRMED,
        STEP.VERIFY,
        STEP.LOGGED_IN,
    ]
    assert ui.codes == [(1, payload(1))] and browser.clicked == ["#switch"]
    shown = ui.events[3]
    assert shown.png is not None and decode_qr(shown.png) == payload(1)
    assert "scan the code with the 例子 app (code 1 of 6)" in shown.message
    assert all(event.payload is event.png is None for event in ui.events if event is not shown)
    assert browser.gone_to == [PROBE, LOGIN, PROBE] and ui.closed == 1
    secrets = (SECRET, COOKIES["uid"], "小明", "5c0f")
    assert not any(secret in text for secret in secrets for text in (caplog.text, repr(ui.events)))


def test_the_widget_may_be_in_a_frame(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, switch=True, framed=True)
        browser.on["#switch"] = show_code

    def show_code() -> None:
        browser.show(url=LOGIN, code=payload(1), framed=True, tainted=True)
        browser.at(9, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1))] and browser.clicked == ["#switch"]


def test_a_frame_on_an_ordinary_page_is_a_login_until_it_is_gone(browser: FakeBrowser, ui: Witness) -> None:
    """The old session's cookies are still there, and the page's address is no wall."""

    def open_page() -> None:
        browser.show(url=HOME, code=payload(1), framed=True, cookies=COOKIES)
        browser.at(30, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.steps.count(STEP.VERIFY) == 1 and ui.codes == [(1, payload(1))]


def test_redirects_after_the_confirm_are_not_cut_short(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(5, scanned=True, code=None)
        browser.at(10, url=f"{LOGIN_HOST}/finish", cookies=COOKIES, scanned=False)
        browser.at(11.5, url="https://other.example.org/sso")
        browser.at(15, url="https://third.example.net/sso")
        browser.at(18, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    times = [time for time, what in browser.log if what == f"goto {PROBE}"]
    opened = next(time for time, what in browser.log if what == f"goto {LOGIN}")
    assert len(times) == 2 and times[1] - opened >= 18, "the probe was not opened before the chain had ended"


def test_a_login_that_ends_where_its_cookies_cannot_be_seen(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(5, finish)

    def finish() -> None:
        browser.log_in()
        browser.show(url="https://welcome.example.org/")

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.steps[-1] is STEP.LOGGED_IN


@pytest.mark.parametrize(("keep", "button"), [(True, "#yes"), (False, "#no")])
def test_the_question_to_stay_logged_in(browser: FakeBrowser, ui: Witness, keep: bool, button: str) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(5, scanned=True, code=None)
        browser.at(8, scanned=False, keep=True)
        browser.on[button] = browser.log_in

    browser.on_login = open_page
    login(browser, ui, keep=keep).ensure()
    at = ui.steps.index(STEP.KEEP_LOGIN)
    assert ui.steps[at - 1 : at + 2] == [STEP.CONFIRMED, STEP.KEEP_LOGIN, STEP.VERIFY]
    assert browser.clicked == [button], "never the other one"
    assert f"answered: {'yes' if keep else 'no'}" in ui.events[at].message


def test_an_unanswerable_question_is_not_answered_otherwise(browser: FakeBrowser, ui: Witness) -> None:
    browser.on_login = lambda: browser.show(url=LOGIN, keep=True)
    with pytest.raises(LoginError, match=r"timed out after 60 s \(at: keep_login\)"):
        login(browser, ui, keep=False, keep_no=["#absent"], timeout_s=60).ensure()
    assert browser.clicked == [] and ui.steps.count(STEP.KEEP_LOGIN) == 1


def test_the_probe_decides(browser: FakeBrowser, ui: Witness) -> None:
    def probe(**shown: object) -> bool:
        browser.on_probe = lambda: browser.show(**{"url": PROBE, **shown})
        return login(browser, ui).logged_in()

    browser.now.cookies.clear()
    assert not probe(), "the page stays, but nobody is logged in"
    assert not probe(cookies={"uid": "", "nick": "x"}), "an empty cookie is none"
    assert probe(cookies=COOKIES)
    assert probe(switch=True), "an icon of a QR code proves nothing"
    assert not probe(url=LOGIN), "cookies that the server refuses"
    assert not probe(url="https://shop.example.com.evil.net/my.htm")
    assert not probe(url=f"{SITE}/iv/check.htm")
    assert not probe(status=502) and not probe(url="chrome-error://chromewebdata/")
    assert ui.events == [] and browser.clicked == []


def test_a_probe_page_that_leaves_by_script_is_a_refusal(browser: FakeBrowser, ui: Witness) -> None:
    def leave_soon() -> None:
        browser.show(url=PROBE, cookies=COOKIES)
        browser.at(1.5, url=LOGIN)

    browser.on_probe = leave_soon
    assert not login(browser, ui).logged_in()


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"url": f"{SITE}/_____tmd_____/punish?action=captcha"}, "whether you are human"),
        ({"url": f"{SITE}/punish?action=deny"}, "refuses this network"),
        ({"url": LOGIN, "slider": True}, "whether you are human"),
        ({"url": HOME, "status": 429}, "too many requests"),
    ],
    ids=["captcha", "denied", "slider on the login page", "throttled"],
)
@pytest.mark.parametrize("when", ["probe", "login", "scanned"])
def test_a_site_that_says_no_is_not_asked_again(
    browser: FakeBrowser, ui: Witness, shown: dict[str, object], said: str, when: str
) -> None:
    if when == "probe":
        browser.on_probe = lambda: browser.show(**shown)
    elif when == "login":
        browser.on_login = lambda: browser.show(**shown)
    else:

        def open_page() -> None:
            browser.show(url=LOGIN, code=payload(1))
            browser.at(5, scanned=True)
            browser.at(8, lambda: browser.show(**shown))

        browser.on_login = open_page
    with pytest.raises(BlockedError, match=said) as error:
        login(browser, ui).ensure()
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    assert ui.steps[-1] is STEP.FAILED and ui.closed == 1
    assert browser.gone_to == ([PROBE] if when == "probe" else [PROBE, LOGIN]) and browser.clicked == []


def test_a_page_that_changes_while_it_is_read(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.failing = [PageError("no such execution context")] * 3
        browser.at(9, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1))]


def test_a_browser_that_dies_ends_the_login(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(4, lambda: browser.failing.append(BrowserDied("the browser is gone")))

    browser.on_login = open_page
    with pytest.raises(BrowserDied):
        login(browser, ui).ensure()
    assert ui.steps[-1] is STEP.FAILED and ui.closed == 1


def test_ctrl_c_leaves_no_code_behind(browser: FakeBrowser, ui: Witness) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1))
        browser.at(3, interrupt)

    browser.on_login = open_page
    with pytest.raises(KeyboardInterrupt):
        login(browser, ui).ensure()
    assert ui.closed == 1


def test_a_second_login_in_one_crawl(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        number = len(ui.codes) + 1
        browser.show(url=LOGIN, code=payload(number))
        browser.at(5, browser.log_in)

    browser.on_login = open_page
    machine = login(browser, ui)
    machine.ensure()
    browser.session = False  # expired
    browser.clock.time += 1000
    machine.ensure()
    assert ui.codes == [(1, payload(1)), (1, payload(2))] and ui.closed == 2


def test_a_site_without_login_is_a_mistake(browser: FakeBrowser, ui: Witness) -> None:
    from crawler.login import QrLogin

    with pytest.raises(SettingsError, match=r"profile example: no section \[login\]"):
        QrLogin(browser, profile().model_copy(update={"login": None}), ui)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cookie", "shown"),
    [
        ("", ""),
        ("a", "a*"),
        ("ab", "a*"),
        ("abcd", "a**d"),
        ("%E5%B0%8F%E6%98%8E%E7%88%B1%E5%90%83", "小**吃"),
        (r"\u5c0f\u660e\u660e", "小*明"),
        (r"\ud83d\ude00abc", "😀**c"),
        (r"\ud83dabc", "\ufffd**c"),
        ("\x1b[31mred%0A%1b]0;x%07", "[*********x"),
    ],
)
def test_nick_names_are_masked_and_safe_to_print(cookie: str, shown: str) -> None:
    assert masked(cookie) == shown
