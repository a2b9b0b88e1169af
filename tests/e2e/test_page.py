"""The web page in a real browser, against a real server with a small gallery."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from service.gallery import Gallery, Item
from tests.e2e.browser import Page, chromium
from tests.service.dummy import DIM, DummyEncoder, fill, picture, vector_of_text
from tests.service.dummy_server import ServerProcess, dummy_server

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


@pytest.fixture(scope="module")
def gallery_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "gallery"
    encoder = DummyEncoder()
    with Gallery.create(path, model_name=encoder.name, fingerprint=encoder.fingerprint, dim=DIM) as gallery:
        fill(gallery, encoder)
        gallery.upsert([Item("坏/evil?<b>", vector_of_text("恶意标题"), EVIL)])
    return path


@pytest.fixture(scope="module")
def server(gallery_path: Path) -> Iterator[ServerProcess]:
    with dummy_server(gallery_path) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, server: ServerProcess, tmp_path: Path) -> Page:
    """The start page, in Chinese, in a window of 1280 x 900, with nothing remembered."""
    page = Page(browser, server.url, tmp_path)
    page.resize(1280, 900)
    page.dark(False)
    page.open()
    page.script("localStorage.clear(); sessionStorage.clear()")
    page.open()
    page.complaints()
    return page


def test_start_page(page: Page) -> None:
    assert page.state == "home"
    assert page.focused() == "q"
    assert page.one("h1").text == "用中文，找到那张图"
    assert len(page.all("#chips button")) >= 4
    page.wait(lambda: "33" in page.one("#gallery").text and "dummy" in page.one("#gallery").text)
    page.shoot("home")
    page.dark(True)
    page.shoot("home-dark")
    assert page.complaints() == []


def test_search_shows_results_with_scores(page: Page) -> None:
    page.search("红色的圆")
    page.wait_for_results()
    assert len(page.titles()) == 24
    assert all(title.startswith("红色") for title in page.titles()[:4])
    scores = [float(score.text) for score in page.all("#results .score")]
    assert scores == sorted(scores, reverse=True)
    status = page.one("#status")
    assert status.get_attribute("aria-live") == "polite"
    assert "红色的圆" in status.text
    assert "24 张" in status.text
    assert "毫秒" in status.text
    assert "dummy" in status.text
    assert page.script("return new URLSearchParams(location.search).get('q')") == "红色的圆"
    assert page.driver.title.startswith("红色的圆")
    page.shoot("results")
    page.dark(True)
    page.shoot("results-dark")
    assert page.complaints() == []


def test_while_it_searches_it_shows_where_results_will_be(page: Page) -> None:
    page.script(
        """
        const real = window.fetch;
        const gate = new Promise((open) => { window.openGate = open; });
        window.fetch = async (...call) => { await gate; return real(...call); };
        """
    )
    page.search("红色")
    page.wait_for("loading")
    assert len(page.all("#results .skeleton .card")) == 12
    assert page.one("#results").get_attribute("aria-busy") == "true"
    assert "正在搜索" in page.one("#status").text
    page.shoot("loading")
    page.script("window.openGate()")
    page.wait_for_results()
    assert page.one("#results").get_attribute("aria-busy") == "false"


def test_more_results_on_demand(page: Page) -> None:
    page.search("绿色")
    page.wait_for_results()
    first = page.titles()
    page.one("#more").click()
    page.wait(lambda: len(page.titles()) == 33)
    assert page.titles()[:24] == first
    assert not page.one("#more").is_displayed()


def test_a_click_on_a_result_finds_similar_ones_and_back_goes_back(page: Page) -> None:
    page.search("蓝色")
    page.wait_for_results()
    before = page.titles()
    page.all("#results .card")[0].click()
    page.wait(lambda: "相似" in page.one("#status").text and page.state == "results")
    assert all(title.startswith("蓝色") for title in page.titles()[:3])
    assert before[0] not in page.titles()
    assert page.one("#query-picture").is_displayed()
    page.wait_for_results()
    page.shoot("similar")
    page.driver.refresh()
    page.wait(lambda: "相似" in page.one("#status").text)
    assert before[0] in page.one("#query-name").text
    page.driver.back()
    page.wait(lambda: page.titles() == before)
    assert page.one("#q").get_attribute("value") == "蓝色"
    assert not page.one("#query-picture").is_displayed()
    page.driver.back()
    page.wait_for("home")
    page.driver.forward()
    page.wait(lambda: page.titles() == before)
    assert page.complaints() == []


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
    import base64

    yellow, black = (base64.b64encode(picture(word)).decode() for word in "黄黑")
    page.script(send, "a.png", yellow, "dragover")
    assert page.one("#overlay").is_displayed()
    page.shoot("drop")
    page.script(send, "a.png", yellow, "drop")
    page.wait(lambda: page.titles() and page.titles()[0].startswith("黄"))
    assert not page.one("#overlay").is_displayed()
    page.script(send, "b.png", black, "paste")
    page.wait(lambda: page.titles() and page.titles()[0].startswith("黑"))


def test_nothing_found(browser: webdriver.Chrome, tmp_path: Path) -> None:
    encoder = DummyEncoder()
    path = tmp_path / "empty"
    Gallery.create(path, model_name=encoder.name, fingerprint=encoder.fingerprint, dim=DIM).close()
    with dummy_server(path) as server:
        page = Page(browser, server.url, tmp_path)
        page.open()
        page.search("红色")
        page.wait_for("empty")
        assert "图库里还没有图片" in page.one(".panel").text
        page.shoot("empty-gallery")


def test_no_match(page: Page) -> None:
    # The page itself never asks for a minimum relevance; an answer without results is made by hand.
    page.script(
        """
        const real = window.fetch;
        const nothing = { results: [], no_match: true, model: { name: "dummy" }, took_ms: {} };
        window.fetch = async (path, options) =>
            path === "/v1/search" ? new Response(JSON.stringify(nothing)) : real(path, options);
        """
    )
    page.search("红色的外星飞船")
    page.wait_for("empty")
    assert "没有找到相符的图片" in page.one(".panel").text
    assert len(page.all(".panel .chips button")) >= 4
    page.shoot("empty")


def test_errors_say_what_to_do(page: Page, gallery_path: Path, tmp_path: Path) -> None:
    page.search("poison")
    page.wait_for("error")
    assert "服务出错了" in page.one(".panel").text
    assert "请求编号" in page.one(".panel .id").text
    page.shoot("error")
    garbage = tmp_path / "garbage.jpg"
    garbage.write_text("not a picture")
    page.one("#file").send_keys(str(garbage))
    page.wait(lambda: "读不出这张图片" in page.one(".panel").text)
    page.shoot("error-picture")
    huge = tmp_path / "huge.bmp"
    side = 2700
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(huge)
    page.one("#file").send_keys(str(huge))
    page.wait(lambda: "最大 20 MB" in page.one(".panel").text)
    page.open("/?like=nobody")
    page.wait(lambda: "找不到这一项" in page.one(".panel").text)
    page.open("/?q=" + "x" * 600)
    page.wait(lambda: "太长" in page.one(".panel").text)
    assert Gallery.exists(gallery_path)


def test_a_stopped_server_is_an_error_that_can_be_retried(
    browser: webdriver.Chrome, gallery_path: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(gallery_path, tmp_path / "copy")
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


def test_an_api_key_is_asked_for(browser: webdriver.Chrome, gallery_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(gallery_path, tmp_path / "copy")
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
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with chromium(tmp_path_factory.mktemp("english"), "en-US") as driver:
        page = Page(driver, server.url, tmp_path)
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
    tops = [card.rect["y"] for card in page.all("#results .card")]
    columns = tops.count(tops[0])
    page.press(Keys.ARROW_DOWN)
    assert page.focused() == titles[1 + columns]
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


def test_only_the_last_of_two_quick_searches_is_shown(page: Page) -> None:
    page.search("红色")
    page.search("绿色")
    page.wait_for_results()
    assert page.titles()[0].startswith("绿")
    assert page.one("#status b").text == "绿色"


def test_documentation_works_offline(page: Page) -> None:
    page.driver.get(page.url + "/docs")
    page.wait(lambda: len(page.all("details")) == 12)
    assert "/v1/search/image" in page.one("main").text
    page.all("summary")[0].click()
    assert "top_k" in page.all("details")[0].text
    page.shoot("docs")
    assert page.complaints() == []
