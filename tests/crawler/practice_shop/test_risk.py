"""Blocks: how each looks, that they stay, and what stays untouched by them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crawler.practice_shop import PracticeShop
from crawler.practice_shop.addresses import picture_path
from tests.crawler.practice_shop.visitor import Page, Visitor


def test_after_so_many_searches_everything_on_the_search_site_is_blocked(
    shop: PracticeShop, visitor: Visitor
) -> None:
    shop.set(risk_after=2)
    for query in ("一", "二"):
        assert visitor.cards(query).all("img")
    assert shop.blocked is None
    for path in ("/search?q=三", "/", "/item.htm?id=1", "/my_taobao.htm", picture_path("一", 0)):
        page = visitor.get(path)
        assert "/_____tmd_____/punish" in page.url.path and page.url.params["action"] == "captcha"
        assert [n for n in Page(page.text).all("button") if n.get("id") == "nc_1_n1z"]
    assert shop.blocked == "captcha_page"
    picture = visitor.client.get(shop.image_origin + picture_path("一", 0))
    assert picture.status_code == 200 and not shop.log("image")[-1].blocked
    blocked = [visit for visit in shop.log() if visit.blocked]
    assert [visit.kind for visit in blocked] == ["search", "other", "item", "other", "image"]
    visitor.client.post(f"{shop.search_origin}/_control/solve")
    assert shop.blocked is None and visitor.cards("三").all("img")


def test_searches_that_come_too_fast_are_blocked(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(risk_gap_s=60)
    visitor.open("一")
    assert shop.blocked is None
    visitor.open("一", 2)
    assert shop.blocked == "captcha_page"


def test_a_block_outlives_its_settings_but_not_a_reset(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(risk_after=0, risk_kind="deny")
    visitor.open("一")
    shop.set(risk_after=None, risk_kind="captcha_page")
    assert visitor.open("二").url.params["action"] == "deny"
    shop.reset()
    assert visitor.cards("二").all("img")


def _overlay(visitor: Visitor) -> str:
    shell = visitor.open("连衣裙")
    assert shell.url.path == "/search"
    answer = visitor.data(shell.text)
    assert answer["ret"][0] == "FAIL_SYS_USER_VALIDATE"
    return visitor.get(answer["data"]["url"]).text


@pytest.mark.parametrize(
    ("kind", "open_", "shows"),
    [
        ("captcha_overlay", _overlay, "nc_1_n1z"),
        ("captcha_page", lambda visitor: visitor.open("连衣裙").text, "nc_1_n1z"),
        ("throttle_json", lambda visitor: " ".join(visitor.open("连衣裙").json()["ret"]), "被挤爆啦"),
        ("throttle_page", lambda visitor: visitor.open("连衣裙").text, "被挤爆啦,请稍后重试"),
        ("deny", lambda visitor: visitor.open("连衣裙").text, "rgv587_flag:sm"),
    ],
)
def test_each_kind_of_block(
    shop: PracticeShop, visitor: Visitor, kind: str, open_: Callable[[Visitor], str], shows: str
) -> None:
    shop.set(risk_after=0, risk_kind=kind)
    assert shows in open_(visitor)
    assert shop.blocked == kind
    assert any(visit.blocked for visit in shop.log())


def test_data_of_a_page_that_was_open_before_is_refused_too(shop: PracticeShop, visitor: Visitor) -> None:
    shell = visitor.open("一").text
    for kind, field in (("throttle_json", {}), ("deny", {"url"}), ("captcha_page", {"url"})):
        shop.reset()
        shop.set(risk_after=0, risk_kind=kind)
        visitor.open("二")
        answer = visitor.data(shell)
        assert not answer["ret"][0].startswith("SUCCESS") and set(answer["data"]) == set(field)


def test_decoys_are_on_good_pages_only_if_wanted(shop: PracticeShop, visitor: Visitor) -> None:
    plain = visitor.open("连衣裙").text
    assert "punish" not in plain and "J_MIDDLEWARE" not in plain and "亲，请登录" in plain
    shop.set(decoys="all")
    visitor.log_in()
    shell = visitor.open("验证码").text
    page = Page(shell)
    [widget] = [d for d in page.all("div") if d.get("class") == "J_MIDDLEWARE_FRAME_WIDGET"]
    assert "hidden" in widget
    [side] = page.all("iframe")
    assert "Access denied" in visitor.get(side["src"]).text
    assert "亲，请登录" in shell and "site-nav-login-info-nick" in shell
    assert "/newlogin/silentHasLogin.do" in shell
    titles = Page(visitor.data(shell)["data"]["html"]).text
    assert all(word in titles for word in ("验证码", "滑块", "登录"))
    assert shop.blocked is None
