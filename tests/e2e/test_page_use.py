"""Ways to use the page: pictures, keyboard, phone, languages, a key, and hostile input."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.e2e.browser import Page, chromium
from tests.e2e.conftest import EVIL, NO_TITLE
from tests.service.dummy import picture
from tests.service.dummy_server import ServerProcess, dummy_server

pytestmark = pytest.mark.browser


def test_search_by_a_picture(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "我的图片.jpg"
    file.write_bytes(picture("紫", "square", format="JPEG"))
    page.one("#file").send_keys(str(file))
    page.wait_for_results()
    assert all(title.startswith("紫色") for title in page.titles()[:4])
    assert "我的图片.jpg" in page.one("#query-name").text
    page.wait(lambda: page.script("return document.getElementById('query-thumb').naturalWidth") == 240)
    page.shoot("image-search")
    page.search("红")
    page.wait(lambda: page.titles() and page.titles()[0].startswith("红"))
    page.driver.back()
    page.wait(lambda: page.titles() and page.titles()[0].startswith("紫"))
    page.driver.refresh()
    page.wait_for("error")
    assert "重新选择" in page.one(".panel").text
    assert page.complaints() == []


def test_browsers_without_the_size_of_url_parameters(page: Page) -> None:
    """Chrome before 113 and Safari before 17."""
    older = {"source": "delete URLSearchParams.prototype.size"}
    script = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", older)
    try:
        page.open()
        assert page.script("return new URLSearchParams('a=1').size") is None
        page.search("红")
        page.wait(lambda: page.titles() and page.titles()[0].startswith("红"))
        assert "q=" in page.driver.current_url
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_dropping_and_pasting_a_picture(page: Page) -> None:
    send = """
        const [name, base64, kind] = arguments;
        const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], name, { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === "paste"
            ? new ClipboardEvent("paste", { ...options, clipboardData: data })
            : new DragEvent(kind, { ...options, dataTransfer: data }));
    """
    yellow, black = (base64.b64encode(picture(word)).decode() for word in "黄黑")
    page.script(send, "a.png", yellow, "dragover")
    assert page.one("#overlay").is_displayed()
    page.shoot("drop")
    page.script(send, "a.png", yellow, "drop")
    page.wait(lambda: page.titles() and page.titles()[0].startswith("黄"))
    assert not page.one("#overlay").is_displayed()
    page.script(send, "b.png", black, "paste")
    page.wait(lambda: page.titles() and page.titles()[0].startswith("黑"))


def test_a_stopped_server_is_an_error_that_can_be_retried(
    browser: webdriver.Chrome, page_gallery: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(page_gallery, tmp_path / "copy")
    with dummy_server(copy) as server:
        page = Page(browser, server.url, tmp_path)
        page.resize(1280, 900)
        page.open()
        assert server.stop()[0] == 0
        port = server.url.rsplit(":", 1)[1]
        page.search("红色")
        page.wait_for("error")
        assert "连不上服务" in page.one(".panel").text
        page.shoot("error-offline")
        with dummy_server(copy, "--port", port):
            page.one(".panel button").click()
            page.wait_for_results()
            assert page.titles()[0].startswith("红")


def test_an_api_key_is_asked_for(browser: webdriver.Chrome, page_gallery: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(page_gallery, tmp_path / "copy")
    with dummy_server(copy, "--api-key", "sesame-open") as server:
        page = Page(browser, server.url, tmp_path)
        page.open("/?q=红色")
        page.wait_for("error")
        assert "密钥" in page.one(".panel").text
        page.shoot("key")
        page.one(".panel input").send_keys("sesame-open", Keys.ENTER)
        page.wait_for_results()  # pictures too: they are fetched with the key
        assert page.titles()[0].startswith("红")


def test_phone(page: Page) -> None:
    page.resize(390, 844, phone=True)
    page.open()
    page.shoot("phone-home")
    page.search("黄色")
    page.wait_for_results()
    page.shoot("phone-results")
    assert page.script("return document.documentElement.scrollWidth") <= 390
    first, second, third = (card.rect for card in page.all("#results .card")[:3])
    assert first["y"] == second["y"] < third["y"], "two columns"
    assert page.one("#q").rect["width"] > 120
    page.all("#results .card")[0].click()
    page.wait(lambda: "相似" in page.one("#status").text)
    page.wait_for_results()
    page.shoot("phone-similar")
    assert page.script("return document.documentElement.scrollWidth") <= 390
    for button in page.all("header button"):
        if button.is_displayed():
            assert button.rect["height"] >= 32, "large enough for a thumb"


def test_language_is_switched_and_remembered(page: Page) -> None:
    page.search("红色")
    page.wait_for_results()
    page.one("#language").click()
    assert "24 pictures" in page.one("#status").text
    assert page.one("#search .go").text == "Search"
    assert page.script("return document.documentElement.lang") == "en"
    page.shoot("results-english")
    page.open()
    assert page.one("h1").text.startswith("Say it in Chinese")
    page.shoot("home-english")
    page.one("#language").click()
    assert page.one("h1").text.startswith("用中文")


def test_the_browsers_language_is_the_default(
    page_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with chromium(tmp_path_factory.mktemp("english"), "en-US") as driver:
        page = Page(driver, page_server.url, tmp_path)
        page.open()
        assert page.one("#search .go").text == "Search"


def test_keyboard(page: Page) -> None:
    page.one("#q").send_keys("白色", Keys.ENTER)
    page.wait_for_results()
    titles = page.titles()
    page.press(Keys.ARROW_DOWN)
    assert page.focused() == titles[0]
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == titles[2]
    page.press(Keys.ARROW_LEFT)
    assert page.focused() == titles[1]
    columns = page.script(
        "const tops = [...document.querySelectorAll('#results li')].map((item) => item.offsetTop);"
        "return tops.filter((top) => top === tops[0]).length"
    )
    assert columns > 2
    page.press(Keys.ARROW_DOWN)
    assert page.focused() == titles[1 + columns]
    page.press(Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    assert page.focused() == titles[columns]
    page.shoot("keyboard-focus")
    page.press(Keys.END)
    assert page.focused() == titles[-1]
    page.press(Keys.HOME, Keys.ARROW_UP)
    assert page.focused() == "q"
    page.press(Keys.ARROW_DOWN, "/")
    assert page.focused() == "q"
    assert page.one("#q").get_attribute("value") == "白色", "the slash focuses and is not typed"
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    page.wait(lambda: "相似" in page.one("#status").text)
    page.press(Keys.ESCAPE)
    page.wait_for("home")
    assert page.focused() == "q"
    assert page.one("#q").get_attribute("value") == ""


def test_titles_are_text_and_never_markup(page: Page) -> None:
    page.search("恶意标题")
    page.wait_for_results()
    assert page.titles()[0] == EVIL
    page.all("#results .card")[0].click()
    page.wait(lambda: "相似" in page.one("#status").text)
    page.open("/?q=" + "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    page.wait_for_results()
    assert page.one("#q").get_attribute("value") == "<img src=x onerror=alert(1)>"
    assert "pwned" not in page.driver.title
    assert page.script("return document.querySelectorAll('main script').length") == 0


def test_an_item_without_a_title_is_called_by_its_id(page: Page) -> None:
    page.search("没有标题")
    page.wait_for_results()
    name = page.all("#results .name")[0]
    assert name.text == NO_TITLE
    assert page.script("return getComputedStyle(arguments[0]).textOverflow", name) == "ellipsis"
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    assert page.script("return arguments[0].children.length", name) == 0
    assert page.complaints() == []
