"""The pages in a real Chromium: cards appear with their pictures, codes can be scanned, blocks cover."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import zxingcpp
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from crawler.practice_shop import Phone, PracticeShop, ShopSettings, label_of, read_label
from tests.crawler.practice_shop.visitor import eventually
from tests.e2e.browser import Page, chromium

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CARDS = 7
LOADED = """return [...document.querySelectorAll('#root a img')].filter(
    (img) => img.naturalWidth >= 100 && img.getBoundingClientRect().width >= 100).length"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_page_load_timeout(30)
        yield driver


@pytest.fixture
def page(driver: webdriver.Chrome, tmp_path: Path) -> Iterator[ShopPage]:
    with PracticeShop(ShopSettings(card_delay_s=0.1, items_per_page=CARDS)) as shop:
        driver.execute_cdp_cmd("Network.clearBrowserCookies", {})  # they know no ports
        yield ShopPage(driver, shop, tmp_path)
        driver.switch_to.default_content()
        driver.get("about:blank")


class ShopPage(Page):
    def __init__(self, driver: webdriver.Chrome, shop: PracticeShop, shots: Path) -> None:
        super().__init__(driver, shop.search_origin, shots)
        self.shop = shop

    def look_for(self, query: str) -> None:
        self.driver.get(f"{self.url}/search?q={quote(query, safe='')}")

    def see(self) -> Image.Image:
        """What is on the screen."""
        return Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")

    def code(self) -> str | None:
        """The payload of the QR code on the screen."""
        found = zxingcpp.read_barcodes(self.see().convert("L"))
        return next((code.text for code in found if "QR" in code.format.name), None)

    def open_code(self) -> str:
        """Switch the login form to its code; what the code says."""
        self.wait(lambda: self.one("#login .icon-qrcode")).click()
        return str(self.wait(self.code))


@pytest.mark.parametrize("layout", ["2022", "2023", "2025", "2026", "redesign", "redesign-mixed", "stale"])
def test_every_layout_shows_its_cards_with_pictures(page: ShopPage, layout: str) -> None:
    page.shop.set(layout=layout)
    page.look_for("连衣裙")
    expected = CARDS + 8 if layout == "redesign-mixed" else CARDS
    page.wait(lambda: page.script(LOADED) == expected)
    page.shoot(f"practice-{layout}")
    picture = page.one("#root a img")
    assert read_label(Image.open(io.BytesIO(picture.screenshot_as_png)))[0] == label_of("连衣裙")  # type: ignore[index]
    assert not page.complaints()


def test_no_products_an_empty_result_and_the_skeleton(page: ShopPage) -> None:
    page.shop.set(layout="none")
    page.look_for("连衣裙")
    page.wait(lambda: "升级" in page.one("#root").text)
    assert not page.all("#root a")
    page.shop.set(layout="2025", empty_queries=("无",), empty_recommendations=True)
    page.look_for("无")
    page.wait(lambda: page.script(LOADED) == 8)
    assert "没有找到" in page.one("#root").text
    page.shop.set(card_delay_s=60)
    page.look_for("连衣裙")
    assert len(page.all(".bone")) == 12 and page.all(".next-pagination") and not page.all("#root a")


@pytest.mark.parametrize("layout", ["2022", "2025"])
def test_lazy_pictures_come_when_they_are_scrolled_into_view(page: ShopPage, layout: str) -> None:
    page.shop.set(layout=layout, lazy=True, items_per_page=40)
    page.look_for("连衣裙")
    page.wait(lambda: page.script(LOADED) >= 3)
    assert page.script(LOADED) < 40
    last = page.all("#root a img")[-1]
    assert last.get_dom_attribute("src").endswith((".gif", "-2-2.png"))
    page.script("arguments[0].scrollIntoView()", last)
    page.wait(lambda: page.script("return arguments[0].naturalWidth", last) >= 100)


def test_a_redraw_makes_elements_stale_without_asking_again(page: ShopPage) -> None:
    page.shop.set(redraw=True)
    page.look_for("连衣裙")
    page.wait(lambda: page.script(LOADED) == CARDS)
    asked = len(page.shop.log("image"))
    for _ in range(2):
        card = page.one("#root a")

        def stale(card: object = card) -> bool:
            try:
                return not card.text  # type: ignore[attr-defined]
            except StaleElementReferenceException:
                return True

        eventually(stale)
    page.wait(lambda: page.script(LOADED) == CARDS)
    assert len(page.shop.log("image")) == asked


def test_the_front_page_opens_a_tab(page: ShopPage) -> None:
    page.driver.get(page.url)
    box = page.one("#q")
    box.send_keys("手机壳")
    box.submit()
    page.wait(lambda: len(page.driver.window_handles) == 2)
    first, second = page.driver.window_handles
    page.driver.switch_to.window(second)
    page.wait(lambda: page.script(LOADED) == CARDS)
    page.driver.close()
    page.driver.switch_to.window(first)


@pytest.mark.parametrize(("node", "frame"), [("canvas", False), ("img", True)])
def test_a_login_by_a_phone_that_sees_only_the_screen(page: ShopPage, node: str, frame: bool) -> None:
    page.shop.set(login="required", qr_node=node, qr_frame=frame, keep_dialog=frame, identity_check=frame)
    page.look_for("连衣裙")
    assert page.driver.current_url.startswith(page.shop.login_origin)
    assert page.code() is None, "the password comes first"
    if frame:
        page.driver.switch_to.frame(page.wait(lambda: page.one("#alibaba-login-box")))
    payload = page.open_code()
    page.shoot(f"practice-login-{node}")
    assert page.all(f".qrcode-img {node}")
    with Phone(page.url) as phone:
        assert phone.scan(payload) == "SCANED"
        page.wait(lambda: page.one(".qrcode-success").is_displayed())
        assert not page.one(".qrcode-expired-mask").is_displayed()
        assert phone.confirm(payload) == "CONFIRMED"
    if frame:
        page.wait(lambda: page.one(".keep-login-confirm.show .cancel")).click()
        page.driver.switch_to.default_content()
        page.wait(lambda: "/iv/" in page.driver.current_url)
        assert not page.driver.get_cookie("unb")
        page.shop.solve()
    page.wait(lambda: page.script(LOADED) == CARDS)
    names = {cookie["name"]: "expiry" in cookie for cookie in page.driver.get_cookies()}
    assert names["unb"] is names["_nk_"] is not frame
    assert not any(visit.cookie_names for visit in page.shop.log("image"))


def test_expired_and_cancelled_codes_are_said_and_renewed(page: ShopPage) -> None:
    page.shop.set(qr_ttl_s=0.3)
    page.driver.get(f"{page.shop.login_origin}/member/login.jhtml")
    first = page.open_code()
    page.wait(lambda: page.one(".qrcode-expired-mask").is_displayed())
    assert "二维码已失效" in page.one(".qrcode-expired-mask").text
    page.shop.set(qr_ttl_s=60)
    page.one(".qrcode-expired-mask button").click()
    second = page.wait(lambda: (code := page.code()) != first and code)
    with Phone(page.url) as phone:
        phone.scan(second)
        phone.cancel(second)
    page.wait(lambda: page.one(".qrcode-canceled-mask").is_displayed())
    page.shop.set(qr_ttl_s=0.3, qr_silent=True)
    page.one(".qrcode-canceled-mask button").click()
    third = page.wait(lambda: (code := page.code()) not in (first, second) and code)
    with Phone(page.url) as phone:
        eventually(lambda: phone.scan(third) in ("EXPIRED", "SCANED"))
        eventually(lambda: phone.confirm(third) in ("EXPIRED", "CONFIRMED"))
    assert not page.one(".qrcode-expired-mask").is_displayed()


def test_an_overlay_covers_the_page_until_a_human_drags_the_slider(page: ShopPage) -> None:
    page.shop.set(risk_after=1, risk_kind="captcha_overlay")
    page.look_for("一")
    page.wait(lambda: page.script(LOADED) == CARDS)
    page.look_for("二")
    overlay = page.wait(lambda: page.one(".J_MIDDLEWARE_FRAME_WIDGET"))
    assert overlay.rect["width"] >= 1000 and not page.all("#root a")
    page.shoot("practice-overlay")
    page.driver.switch_to.frame(page.one("#baxia-dialog-content iframe"))
    knob = page.wait(lambda: page.one("#nc_1_n1z"))
    ActionChains(page.driver).drag_and_drop_by_offset(knob, 500, 0).perform()
    page.driver.switch_to.default_content()
    page.wait(lambda: page.script(LOADED) == CARDS)
    assert page.shop.blocked is None


def test_decoys_do_not_disturb(page: ShopPage) -> None:
    page.shop.set(decoys="all", layout="2022")
    page.look_for("验证码")
    page.wait(lambda: page.script(LOADED) == CARDS)
    assert not page.one(".J_MIDDLEWARE_FRAME_WIDGET").is_displayed()
    assert page.one("iframe.side").rect["width"] < 300
    eventually(lambda: any(visit.path == "/newlogin/silentHasLogin.do" for visit in page.shop.log("xhr")))
    page.shoot("practice-decoys")


def test_humans_have_a_phone_too(page: ShopPage, tmp_path: Path) -> None:
    driver = page.driver
    driver.get(f"{page.shop.login_origin}/member/login.jhtml")
    page.open_code()
    picture = tmp_path / "barcode_0.png"
    picture.write_bytes(driver.get_screenshot_as_png())
    login = driver.current_window_handle
    driver.switch_to.new_window("tab")
    driver.get(f"{page.url}/_phone")
    page.shoot("practice-phone")
    page.one("#file").send_keys(str(picture))
    page.wait(lambda: page.one("#confirm").is_displayed())
    page.shoot("practice-phone-ask")
    page.one("#confirm").click()
    page.wait(lambda: "登录成功" in page.one("#result").text)
    page.one("#again").click()
    page.one("#shown").click()
    page.wait(lambda: "没有" in page.one("#note").text)
    driver.close()
    driver.switch_to.window(login)
    page.wait(lambda: page.driver.current_url == f"{page.url}/")
    assert driver.get_cookie("unb")
    driver.find_element(By.CSS_SELECTOR, ".site-nav-login-info-nick")
