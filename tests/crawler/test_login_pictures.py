"""How a code gets off the page: its own drawing, a screenshot, and codes that cannot be read."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.crawler.login_fakes import LOGIN, STEP, FakeBrowser, Witness, login, payload


@pytest.fixture
def browser() -> FakeBrowser:
    return FakeBrowser()


@pytest.fixture
def ui() -> Witness:
    return Witness()


def grey(shade: int) -> bytes:
    """A picture without a code."""
    file = io.BytesIO()
    Image.new("RGB", (150, 150), (shade, 255 - shade, 90)).save(file, "PNG")
    return file.getvalue()


def test_a_code_that_cannot_be_read_is_handed_on_as_a_picture(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, picture=grey(10))
        browser.at(30, picture=grey(200))
        browser.at(50, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.codes == [(1, None), (2, None)]
    shown = [event.png for event in ui.events if event.step is STEP.QR_SHOWN]
    assert shown == [grey(10), grey(200)]


@pytest.mark.parametrize("tainted", [False, True])
def test_unreadable_codes_are_refreshed_too(browser: FakeBrowser, ui: Witness, tainted: bool) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, picture=grey(10), tainted=tainted)
        browser.at(20, expired=True, refresh=True)

    def refresh() -> None:
        browser.show(url=LOGIN, picture=grey(200), tainted=tainted)
        browser.at(9, browser.log_in)

    browser.on_login, browser.on["#refresh"] = open_page, refresh
    login(browser, ui).ensure()
    assert [event.png for event in ui.events if event.step is STEP.QR_SHOWN] == [grey(10), grey(200)]
    assert ui.codes == [(1, None), (2, None)] and browser.clicked == ["#refresh"]


def test_an_unreadable_code_is_known_again_after_a_reload(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, picture=grey(10))
        if browser.gone_to.count(LOGIN) == 1:
            browser.at(20, expired=True)
        else:
            browser.at(6, picture=grey(200))
            browser.at(15, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert [event.png for event in ui.events if event.step is STEP.QR_SHOWN] == [grey(10), grey(200)]


def test_a_code_still_being_painted_is_waited_for(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, picture=grey(255))
        browser.at(2, picture=None, code=payload(1))
        browser.at(10, picture=grey(255), code=None)  # and a moment in which it is repainted
        browser.at(11, picture=None, code=payload(1))
        browser.at(20, browser.log_in)

    browser.on_login = open_page
    login(browser, ui).ensure()
    assert ui.codes == [(1, payload(1))]


def test_the_pages_own_drawing_comes_before_a_screenshot(browser: FakeBrowser, ui: Witness) -> None:
    def open_page() -> None:
        browser.show(url=LOGIN, code=payload(1), tainted=tainted)
        browser.at(5, browser.log_in)

    browser.on_login, tainted = open_page, False
    login(browser, ui).ensure()
    assert not [what for _, what in browser.log if what.startswith("shoot")]
    browser.session, tainted = False, True
    login(browser, ui).ensure()
    assert [what for _, what in browser.log if what.startswith("shoot")]
    assert ui.codes == [(1, payload(1)), (1, payload(1))]
