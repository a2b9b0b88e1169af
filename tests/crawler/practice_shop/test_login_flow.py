"""The QR login over HTTP alone: who gets which cookies, and when."""

from __future__ import annotations

import io
from urllib.parse import parse_qs, urlsplit

import pytest
import zxingcpp
from PIL import Image

from crawler.errors import CrawlError
from crawler.practice_shop import Phone, PracticeShop
from tests.crawler.practice_shop.visitor import LOGIN_PAGE, Page, Visitor, eventually

ANONYMOUS = {"cookie2", "t", "_m_h5_tk"}
LOGIN_ONLY = {"unb", "_nk_", "tracknick", "lgc"}


def test_a_search_leads_to_the_login_and_after_the_scan_back_to_its_results(
    shop: PracticeShop, visitor: Visitor, phone: Phone
) -> None:
    shop.set(login="required")
    wall = visitor.open("连衣裙")
    assert str(wall.url).startswith(shop.login_origin + LOGIN_PAGE)
    target = parse_qs(urlsplit(str(wall.url)).query)["redirectURL"][0]
    token, payload = visitor.new_code()
    assert visitor.poll(token)["qrCodeStatus"] == "NEW"
    assert phone.scan(payload) == "SCANED"
    assert visitor.poll(token)["qrCodeStatus"] == "SCANED"
    assert phone.confirm(payload) == "CONFIRMED"
    answer = visitor.client.post(
        f"{shop.login_origin}/newlogin/qrcode/query.do", params={"t": token, "redirectURL": target}
    ).json()["content"]["data"]
    back = visitor.client.get(shop.login_origin + answer["redirect"])
    assert back.status_code == 200 and back.url.params["q"] == "连衣裙"
    hops = [(hop.url.host, hop.status_code) for hop in back.history]
    assert hops == [("127.0.0.2", 302), ("127.0.0.1", 302)]
    assert len(visitor.cards("手机壳").all("img")) == 5
    assert str(visitor.get("/my_taobao.htm").url) == f"{shop.search_origin}/my_taobao.htm"


def test_login_cookies_come_only_with_the_login_and_never_to_the_pictures(
    shop: PracticeShop, visitor: Visitor
) -> None:
    visitor.open("连衣裙")
    visitor.new_code()
    for origin in (shop.search_origin, shop.login_origin):
        assert visitor.cookies(origin) == ANONYMOUS
    before = visitor.client.cookies.get("cookie2", domain="127.0.0.1")
    visitor.log_in()
    for origin in (shop.search_origin, shop.login_origin):
        assert visitor.cookies(origin) == ANONYMOUS | LOGIN_ONLY
    assert visitor.client.cookies.get("cookie2", domain="127.0.0.1") != before
    assert not visitor.cookies(shop.image_origin)


def test_keep_decides_whether_the_cookies_outlive_the_browser(
    shop: PracticeShop, visitor: Visitor, phone: Phone
) -> None:
    shop.set(keep_dialog=True)
    for keep, kept in (("1", True), ("0", False)):
        token, payload = visitor.new_code()
        phone.scan(payload), phone.confirm(payload)
        answer = visitor.poll(token)
        assert answer["askToKeep"] is True
        visitor.client.get(shop.login_origin + answer["redirect"] + f"&keep={keep}")
        lives = {c.domain: c.expires is not None for c in visitor.client.cookies.jar if c.name == "unb"}
        assert lives == {"127.0.0.1": kept, "127.0.0.2": kept}


def test_a_refreshed_code_replaces_the_old_one(shop: PracticeShop, visitor: Visitor, phone: Phone) -> None:
    old_token, old_payload = visitor.new_code()
    phone.scan(old_payload)
    token, payload = visitor.new_code()
    assert payload != old_payload
    assert phone.confirm(old_payload) == phone.scan(old_payload) == "EXPIRED"
    assert visitor.poll(old_token)["qrCodeStatus"] == "EXPIRED"
    assert "redirect" not in visitor.poll(old_token)
    assert visitor.poll(token)["qrCodeStatus"] == "NEW"
    assert [visit.status for visit in shop.log("confirm")] == [410]
    assert "unb" not in visitor.cookies(shop.search_origin)


def test_codes_expire_with_or_without_a_word(shop: PracticeShop, visitor: Visitor, phone: Phone) -> None:
    shop.set(qr_ttl_s=0.05)
    token, payload = visitor.new_code()
    eventually(lambda: visitor.poll(token)["qrCodeStatus"] == "EXPIRED")
    assert phone.scan(payload) == phone.confirm(payload) == "EXPIRED"
    shop.set(qr_silent=True)
    assert visitor.poll(token)["qrCodeStatus"] == "NEW"
    assert phone.scan(payload) == "EXPIRED"


def test_a_cancelled_login_is_none(visitor: Visitor, phone: Phone) -> None:
    token, payload = visitor.new_code()
    phone.scan(payload)
    assert phone.cancel(payload) == "CANCELED"
    assert visitor.poll(token)["qrCodeStatus"] == "CANCELED"
    assert phone.confirm(payload) == "CANCELED"


def test_another_browser_cannot_use_the_code(shop: PracticeShop, visitor: Visitor, phone: Phone) -> None:
    token, payload = visitor.new_code()
    phone.scan(payload), phone.confirm(payload)
    stranger = Visitor(shop)
    stranger.new_code()
    assert stranger.poll(token)["qrCodeStatus"] == "EXPIRED"
    stranger.client.close()


def test_a_ticket_is_good_once(shop: PracticeShop, visitor: Visitor, phone: Phone) -> None:
    token, payload = visitor.new_code()
    phone.scan(payload), phone.confirm(payload)
    way = shop.login_origin + visitor.poll(token)["redirect"]
    assert visitor.client.get(way).url.host == "127.0.0.1"
    thief = Visitor(shop)
    assert thief.client.get(way).url.path == "/havanaone/login/login.htm"
    assert "unb" not in thief.cookies(shop.search_origin)
    thief.client.close()


def test_the_identity_check_stands_between_the_scan_and_the_cookies(
    shop: PracticeShop, visitor: Visitor, phone: Phone
) -> None:
    shop.set(identity_check=True)
    token, payload = visitor.new_code()
    phone.scan(payload), phone.confirm(payload)
    check = visitor.finish(token)
    assert check.url.path == "/iv/identity_verify.htm" and "unb" not in visitor.cookies(shop.search_origin)
    around = str(check.url).replace("/iv/identity_verify.htm", "/havanaone/login/finish.htm")
    assert visitor.client.get(around).url.path == "/havanaone/login/login.htm"
    assert visitor.client.get(f"{check.url}&check=1").json() == {"proven": False}
    shop.solve()
    assert visitor.client.get(f"{check.url}&check=1").json() == {"proven": True}
    visitor.client.get(around)
    assert "unb" in visitor.cookies(shop.search_origin)


def test_a_session_ends_though_its_cookies_stay(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(login="required", session_searches=2)
    visitor.log_in()
    for query in ("一", "二"):
        assert visitor.cards(query).all("img")
    assert visitor.open("三").url.host == "127.0.0.2"
    assert visitor.get("/my_taobao.htm").url.path == "/member/login.jhtml"
    assert "unb" in visitor.cookies(shop.search_origin)
    assert [visit.status for visit in shop.log("search")] == [200, 200, 302]
    assert all(visit.cookies_login for visit in shop.log("search"))
    visitor.log_in()
    assert visitor.cards("三").all("img")


def test_a_shop_that_rejects_every_login(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(login="required", reject_cookie=True)
    visitor.log_in()
    assert visitor.open("连衣裙").url.host == "127.0.0.2"
    shop.set(reject_cookie=False)
    assert visitor.open("连衣裙").url.host == "127.0.0.1"


def test_the_code_as_an_img_says_the_same(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(qr_node="img")
    token, payload = visitor.new_code()
    picture = visitor.client.get(f"{shop.login_origin}/newlogin/qrcode/image.do", params={"t": token})
    with Image.open(io.BytesIO(picture.content)) as image:
        assert [code.text for code in zxingcpp.read_barcodes(image.convert("L"))] == [payload]


def test_the_password_form_takes_nothing_and_the_code_is_hidden_at_first(
    shop: PracticeShop, visitor: Visitor
) -> None:
    page = Page(visitor.client.get(shop.login_origin + LOGIN_PAGE).text)
    assert all("disabled" in field for field in page.all("input"))
    assert [d for d in page.all("div") if d.get("class") == "login-view-qrcode" and "hidden" in d]
    shop.set(qr_frame=True)
    page = Page(visitor.client.get(shop.login_origin + LOGIN_PAGE).text)
    [frame] = page.all("iframe")
    assert not page.all("input")
    assert Page(visitor.client.get(shop.login_origin + frame["src"]).text).all("input")


def test_the_phone_refuses_foreign_codes(shop: PracticeShop, phone: Phone) -> None:
    with PracticeShop() as other:
        stranger = Visitor(other)
        _, payload = stranger.new_code()
        stranger.client.close()
        with pytest.raises(CrawlError, match="not one of the shop"):
            phone.scan(payload)
        assert not other.log("scan")
    with pytest.raises(CrawlError, match="not one of the shop"):
        phone.confirm("https://example.org/qrcodeCheck.htm?lgToken=1")
    unknown = f"{shop.login_origin}/qrcodeCheck.htm?lgToken=nobody"
    assert phone.scan(unknown) == phone.confirm(unknown) == "UNKNOWN"
