"""Result pages by their HTML: what is on them, in every layout, in every way to write an address."""

from __future__ import annotations

import re
import time
from typing import get_args
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest

from crawler.practice_shop import PracticeShop
from crawler.practice_shop.addresses import BLANK, BLANK_GIF, ICON, read_picture_path
from crawler.practice_shop.items import AD_QUERY, RECOMMENDED_QUERY
from crawler.practice_shop.settings import UrlForm
from tests.crawler.practice_shop.visitor import SOON, Page, Visitor

LAYOUTS = ("2022", "2023", "2025", "2026", "redesign")
STAND_INS = (BLANK, BLANK_GIF, ICON)


def queries_of(page: Page, attribute: str = "src") -> list[str]:
    """Which query the picture of each card shows."""
    paths = [urlsplit(image[attribute]).path for image in page.all("img")]
    found = [read_picture_path(path) for path in paths if path not in STAND_INS]
    return [address.query for address in found if address]


def item_ids(page: Page) -> list[str]:
    links = [parse_qs(urlsplit(link["href"]).query) for link in page.all("a") if "href" in link]
    return list(dict.fromkeys(words["id"][0] for words in links if "id" in words))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_all_cards_with_pictures_of_the_query(
    shop: PracticeShop, visitor: Visitor, layout: str
) -> None:
    shop.set(layout=layout)
    page = visitor.cards("连衣裙")
    assert queries_of(page) == ["连衣裙"] * 5
    assert len(item_ids(page)) == 5
    assert item_ids(page) == item_ids(visitor.cards("连衣裙")), "the same for the same seed"
    assert not set(item_ids(page)) & set(item_ids(visitor.cards("手机壳")))
    assert visitor.get(page.all("a")[0]["href"]).status_code == 200


def test_class_names_change_with_the_seed_but_keep_their_words(shop: PracticeShop, visitor: Visitor) -> None:
    def names(seed: int) -> set[str]:
        shop.set(layout="2023", seed=seed)
        return {image["class"] for image in visitor.cards("连衣裙").all("img")}

    first, second = names(1), names(2)
    assert first != second
    assert all(re.fullmatch(r"MainPic--mainPic--[0-9a-f]{8}", name) for name in first | second)


def test_a_redesign_has_no_word_of_the_past(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(layout="redesign")
    classes = " ".join(attributes.get("class", "") for _, attributes in visitor.cards("连衣裙").elements)
    assert not re.search("item|card|pic|doubleCard|tbpc|content", classes, re.IGNORECASE)


def test_the_shell_comes_before_the_data(shop: PracticeShop, visitor: Visitor) -> None:
    shell = Page(visitor.open("连衣裙").text)
    assert not shell.all("img") and "1/100" in shell.text
    assert [box["value"] for box in shell.all("input") if box.get("id") == "q"] == ["连衣裙"]
    assert [visit.kind for visit in shop.log()] == ["search"]


def test_pages_of_results(visitor: Visitor) -> None:
    first, second = item_ids(visitor.cards("连衣裙")), item_ids(visitor.cards("连衣裙", 2))
    assert not set(first) & set(second)
    for odd in ("101", "0", "-1", "x", "9" * 30):
        shell = visitor.get("/search", params={"q": "连衣裙", "page": odd}).text
        assert item_ids(Page(visitor.data(shell)["data"]["html"])) == first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_advertisement_is_first_marked_and_wrong(
    shop: PracticeShop, visitor: Visitor, layout: str
) -> None:
    shop.set(layout=layout, ads=True)
    page = visitor.cards("连衣裙")
    assert queries_of(page) == [AD_QUERY] + ["连衣裙"] * 5
    classes = " ".join(attributes.get("class", "") for _, attributes in page.elements[:12])
    clicks = [link for link in page.all("a") if "click.simba" in link["href"]]
    marks = {"2022": "item-ad", "2023": "P4pTag", "2025": "mainP4pPic", "2026": "mainP4pPic"}
    assert marks.get(layout, "") in classes
    if layout in ("2022", "redesign"):
        assert clicks and visitor.get(clicks[0]["href"]).url.path == "/item.htm"


def test_every_form_of_address_leads_to_its_picture(shop: PracticeShop, visitor: Visitor) -> None:
    forms = get_args(UrlForm)
    shop.set(url_forms="all", items_per_page=len(forms))
    page = visitor.cards("连衣裙")
    images = [image for image in page.all("img") if not image["src"].endswith(ICON)]
    assert len(page.all("img")) == len(images) + 1, "one icon, before the main picture"
    by_form = dict(zip(forms, images, strict=True))
    assert by_form["absolute"]["src"].startswith(shop.image_origin + "/")
    assert by_form["relative"]["src"].startswith("/imgextra/")
    assert by_form["plain"]["src"].endswith(".jpg") and by_form["plain"]["src"].startswith("//127.0.0.3:")
    assert ".png_460x460q90.jpg_.webp" in by_form["png"]["src"]
    assert by_form["placeholder"]["src"].endswith(BLANK)
    assert " 2x" in by_form["srcset"]["srcset"]
    for form, image in by_form.items():
        address = urljoin(shop.search_origin, image.get("data-lazy-src", image["src"]))
        answer = visitor.client.get(address)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/"), form


@pytest.mark.parametrize("layout", ["2022", "2025"])
def test_lazy_pictures_have_a_stand_in_first(shop: PracticeShop, visitor: Visitor, layout: str) -> None:
    shop.set(layout=layout, lazy=True)
    images = visitor.cards("连衣裙").all("img")
    assert all(image["src"].endswith(STAND_INS) for image in images) and len(images) == 5
    waiting = "data-ks-lazyload" if layout == "2022" else "data-fill"
    assert all(image[waiting] for image in images)


def test_nothing_found(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(empty_queries=("无",))
    page = visitor.cards("无")
    assert "没有找到" in page.text and not page.all("img")
    assert visitor.cards("有").all("img")
    shop.set(empty_recommendations=True)
    page = visitor.cards("无")
    assert "没有找到" in page.text and set(queries_of(page)) == {RECOMMENDED_QUERY}


def test_a_mixed_redesign_recommends_in_the_same_shape(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(layout="redesign-mixed")
    shown = queries_of(visitor.cards("连衣裙"))
    assert shown[:5] == ["连衣裙"] * 5 and set(shown[5:]) == {RECOMMENDED_QUERY}


def test_a_page_without_products(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(layout="none")
    page = visitor.cards("连衣裙")
    assert not page.all("img") and not page.all("a")


def test_a_stale_page_shows_the_query_before(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(layout="stale")
    assert set(queries_of(visitor.cards("一"))) == {"一"}
    for _ in range(2):
        assert set(queries_of(visitor.cards("二"))) == {"一"}
    shell = visitor.open("三").text
    assert [box["value"] for box in Page(shell).all("input") if box.get("id") == "q"] == ["二"]


def test_the_same_item_twice(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(bad_pictures="duplicate_item")
    links = [link["href"] for link in visitor.cards("连衣裙").all("a")]
    assert links[0] == links[1] and len(set(links)) == 4


@pytest.mark.parametrize("query", ["a/b", "../x", "😀", "苹" * 100, "。，！", "A B", "AB", "%2e", '"<b>&#?+'])
def test_odd_queries_are_searched_as_they_are(shop: PracticeShop, visitor: Visitor, query: str) -> None:
    assert set(queries_of(visitor.cards(query))) == {query}
    assert [visit.query for visit in shop.log("search")] == [query]


def test_the_front_page_searches_in_a_new_tab(visitor: Visitor) -> None:
    [form] = Page(visitor.get("/").text).all("form")
    assert form["action"] == "/search" and form["target"] == "_blank"


def test_faults_of_one_query(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(faults={"坏": "bad_gateway_once", "断": "reset_once", "样": "hang_css"})
    assert [visitor.open("坏").status_code for _ in range(2)] == [502, 200]
    with pytest.raises(httpx.ReadError):
        visitor.open("断")
    time.sleep(0.2)
    assert visitor.open("断").status_code == 200
    assert [visit.status for visit in shop.log("search")] == [502, 200, 0, 200]
    [sheet] = [link["href"] for link in Page(visitor.open("样").text).all("link") if "hang" in link["href"]]
    with pytest.raises(httpx.ReadTimeout):
        visitor.get(sheet, timeout=SOON)


def test_a_page_that_stops_coming(shop: PracticeShop, visitor: Visitor) -> None:
    shop.set(faults={"卡": "hang_html", "图": "hang_image"})
    with visitor.client.stream(
        "GET", f"{shop.search_origin}/search?q=卡", timeout=httpx.Timeout(10, read=1)
    ) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            answer.read()
    first = visitor.cards("图").all("img")[0]["src"]
    with pytest.raises(httpx.ReadTimeout):
        visitor.client.get(f"http:{first}", timeout=SOON)
