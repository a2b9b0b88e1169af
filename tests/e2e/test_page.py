"""What the page shows, in a real browser against a real server with a small gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver

from service.gallery import Gallery
from tests.e2e.browser import Page
from tests.service.dummy import DIM, DummyEncoder
from tests.service.dummy_server import dummy_server

pytestmark = pytest.mark.browser


def test_start_page(page: Page) -> None:
    assert page.state == "home"
    assert page.focused() == "q"
    assert page.one("h1").text == "用中文，找到那张图"
    assert len(page.all("#chips button")) >= 4
    page.wait(lambda: "34" in page.one("#gallery").text and "dummy" in page.one("#gallery").text)
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
    page.wait(lambda: len(page.titles()) == 34)
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


def test_errors_say_what_to_do(page: Page, page_gallery: Path, tmp_path: Path) -> None:
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
    assert Gallery.exists(page_gallery)


def test_only_the_last_of_two_quick_searches_is_shown(page: Page) -> None:
    page.search("红色")
    page.search("绿色")
    page.wait_for_results()
    assert page.titles()[0].startswith("绿")
    assert page.one("#status b").text == "绿色"


def test_documentation_works_offline(page: Page) -> None:
    page.driver.get(page.url + "/docs")
    page.wait(lambda: len(page.all("details")) == 17)
    assert "/v1/search/image" in page.one("main").text
    page.all("summary")[0].click()
    assert "top_k" in page.all("details")[0].text
    page.shoot("docs")
    assert page.complaints() == []
