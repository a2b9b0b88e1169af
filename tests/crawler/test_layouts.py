from __future__ import annotations

from dataclasses import replace

import pytest

from crawler.layouts import candidates, find, speaks_of
from crawler.snapshot import Rect, Row, Snapshot
from tests.crawler.snapshot_builders import GRID, QUERY, TAOBAO, heading, image, page, results, row, rows


def items(snapshot: Snapshot, query: str | None = QUERY, limit: int = 99) -> list[int]:
    """Numbers of the rows that became candidates."""
    return [int(one.item_id) - 1000 for one in candidates(snapshot, TAOBAO, query, limit)[1]]


def generic(*given: Row, **changes: object) -> Snapshot:
    return page(rows=given, **changes)


def with_card(card: Row) -> Snapshot:
    """Results whose second card is this one."""
    first, _, *others = rows(4)
    return results(layouts={"2025": (first, card, *others)})


def test_the_first_layout_with_a_product_wins() -> None:
    both = page(layouts={"2022": rows(3), "2023": rows(2)})
    assert candidates(both, TAOBAO, QUERY, 9)[0] == "2023"
    no_pictures = page(layouts={"2025": rows(2, images=()), "2022": rows(3)})
    assert candidates(no_pictures, TAOBAO, QUERY, 9)[0] == "2022"
    assert candidates(page(layouts={"2025": ()}), TAOBAO, QUERY, 9) == ("", ())


def test_a_candidate_says_where_it_is_from() -> None:
    _, (first, *_) = candidates(results(), TAOBAO, QUERY, 1)
    assert first.item_id == "1000" and first.rank == 0 and first.title == "红色连衣裙"
    assert first.image_urls == ("https://img.alicdn.com/imgextra/i1/0.jpg",)
    assert first.page_url.startswith("https://s.taobao.com/search?q=")


def test_a_fragment_is_no_part_of_the_referer() -> None:
    _, (first, *_) = candidates(results(url="https://s.taobao.com/search?q=x#item5"), TAOBAO, None, 1)
    assert first.page_url == "https://s.taobao.com/search?q=x"


def test_relative_pictures_refer_to_the_base_of_the_page() -> None:
    cards = rows(1, images=(image("a.jpg"),))
    snapshot = results(base_url="https://cdn.taobao.com/x/", layouts={"2025": cards})
    assert candidates(snapshot, TAOBAO, QUERY, 1)[1][0].image_urls == ("https://cdn.taobao.com/x/a.jpg",)


def test_limit_and_rank() -> None:
    assert items(results(4), limit=2) == [0, 1]
    snapshot = with_card(row(1, images=()))
    assert items(snapshot) == [0, 2, 3]
    assert [one.rank for one in candidates(snapshot, TAOBAO, QUERY, 9)[1]] == [0, 2, 3]
    assert find(snapshot, TAOBAO, QUERY, 9).waiting == 1


@pytest.mark.parametrize(
    "card",
    [
        row(1, ads=("img[class*='mainP4pPic']",)),
        row(1, links=("https://click.simba.taobao.com/cc_im?p=1",)),
        row(1, links=("https://item.taobao.com/item.htm?id=1001", "https://click.simba.taobao.com/x")),
    ],
)
def test_advertisements_are_never_candidates(card: Row) -> None:
    snapshot = with_card(card)
    assert items(snapshot) == [0, 2, 3]
    assert [one.rank for one in candidates(snapshot, TAOBAO, QUERY, 9)[1]] == [0, 1, 2]
    assert items(generic(*rows(3), replace(row(3), ads=card.ads, links=card.links))) == [0, 1, 2]


@pytest.mark.parametrize(
    "links",
    [
        (),
        ("https://s.taobao.com/redirect?to=https%3A%2F%2Fitem.taobao.com%2Fitem.htm%3Fid%3D1001",),
        ("https://shop1.taobao.com/",),
        ("https://item.taobao.com.evil.example/item.htm?id=1001",),
        ("https://item.taobao.com/item.htm?id=1001", "https://item.taobao.com/item.htm?id=77"),  # which one?
    ],
)
def test_cards_without_one_product_are_left_out(links: tuple[str, ...]) -> None:
    assert items(with_card(row(1, links=links))) == [0, 2, 3]


@pytest.mark.parametrize(
    "link",
    [
        "https://item.taobao.com/item.htm?id=1001",
        "https://item.taobao.com/item.htm?spm=a21n57.1&priceTId=2&id=1001&ns=1",
        "http://detail.tmall.com/item.htm?id=1001&skuId=5",
        "https://detail.tmall.hk/hk/item.htm?id=1001",
    ],
)
def test_product_links(link: str) -> None:
    assert items(with_card(row(1, links=(link,)))) == [0, 1, 2, 3]


def test_one_item_is_one_candidate_and_the_first_wins() -> None:
    again = row(1, links=("https://detail.tmall.com/item.htm?id=1000",), images=(image("//h/again.jpg"),))
    _, found = candidates(with_card(again), TAOBAO, QUERY, 9)
    assert [one.item_id for one in found] == ["1000", "1002", "1003"]
    assert found[0].image_urls == ("https://img.alicdn.com/imgextra/i1/0.jpg",)


# --- Recommendations below a heading, in a known layout


def test_cards_below_a_heading_in_the_grid_are_recommendations() -> None:
    cards = (row(0), row(1), row(3), row(4))
    assert items(page(layouts={"2025": cards}, texts=(heading((*GRID, 2), y=500),))) == [0, 1]


def test_a_heading_right_above_the_grid_makes_all_of_it_recommendations() -> None:
    assert items(results(texts=(heading((1, 3), y=150),))) == []


@pytest.mark.parametrize(
    "harmless",
    [
        heading((1, 0), y=10),  # a tab far above
        heading((1, 3), y=150, x=1200),  # heads the side column
        heading((1, 9), y=700),  # follows the results
    ],
)
def test_other_headings_do_not_matter_to_a_known_grid(harmless: object) -> None:
    assert items(results(texts=(harmless,))) == [0, 1, 2, 3]


# --- Product links alone


def test_one_list_of_products_about_the_query() -> None:
    assert candidates(generic(*rows(4)), TAOBAO, QUERY, 9)[0] == "generic"
    assert items(generic(*rows(3))) == [0, 1, 2]
    assert items(generic(*rows(4)), limit=2) == [0, 1]


@pytest.mark.parametrize("query", [None, "", "手机壳", "咖啡", "iphone"])
def test_titles_must_speak_of_the_query(query: str | None) -> None:
    assert items(generic(*rows(4)), query) == []


def test_half_of_the_titles_is_enough() -> None:
    half = (row(0), row(1), row(2, "手机壳"), row(3, "咖啡杯"))
    assert items(generic(*half)) == [0, 1, 2, 3]
    assert items(generic(*half[1:])) == []


def test_fewer_than_three_are_no_list() -> None:
    assert items(generic(*rows(2))) == []


def test_products_in_two_places_are_no_list() -> None:
    other = tuple(row(number, grid=(1, 5, 0)) for number in range(4, 8))
    assert items(generic(*rows(4), *other)) == []
    assert items(generic(*rows(4), row(9, grid=(1, 5)))) == []


def test_most_products_may_not_lack_a_picture() -> None:
    late = [row(n, images=()) for n in range(3, 9)]
    assert items(generic(*rows(3), *late)) == [0, 1, 2]
    assert items(generic(*rows(3), *late, row(9, images=()))) == []
    assert items(generic(*rows(2), row(2, images=()))) == []
    assert find(generic(*rows(3), row(3, images=())), TAOBAO, QUERY, 9).waiting == 1


def test_more_products_than_were_read_are_no_list() -> None:
    assert items(generic(*rows(4), more_rows=1)) == []


def test_recommendations_below_the_list_are_left_out() -> None:
    other = tuple(row(number, grid=(1, 6)) for number in range(5, 9))
    assert items(generic(*rows(4), *other, texts=(heading((1, 5), y=1000),))) == [0, 1, 2, 3]


def test_a_heading_before_the_list_spoils_it() -> None:
    assert items(generic(*rows(4), texts=(heading((1, 3), y=10),))) == []
    drawn_above = heading((1, 9), y=100)  # it comes later in the document
    assert items(generic(*rows(4), texts=(drawn_above,))) == []
    beside = replace(drawn_above, rect=Rect(1250, 100, 90, 30))
    assert items(generic(*rows(4), texts=(beside,))) == [0, 1, 2, 3]


def test_recommended_cards_of_a_known_layout_do_not_come_back_as_a_list() -> None:
    assert items(page(layouts={"2025": rows(4)}, rows=rows(4), texts=(heading((1, 3), y=150),))) == []


@pytest.mark.parametrize(
    ("title", "query", "expected"),
    [
        ("2024新款红色连衣裙", "连衣裙", True),
        ("半身裙", "连衣裙", False),  # one character is not enough
        ("衣架", "连衣裙", False),
        ("裙", "裙", True),
        ("半身裙", "裙", True),
        ("男士T恤 纯棉", "T恤", True),
        ("男士t恤", "Ｔ恤", True),  # full-width
        ("毛衣", "T恤", False),
        ("Apple iPhone15手机壳", "iphone 手机", True),
        ("IPHONE15", "iphone", True),
        ("phone", "iphone", False),
        ("13号画笔", "13", True),
        ("130号画笔", "13", False),
        ("红 色", "红色", False),
        ("Ботинки зимние", "ботинки", True),
        ("任何东西", "👗", False),
        ("", "连衣裙", False),
        ("连衣裙", "", False),
    ],
)
def test_what_speaks_of_a_query(title: str, query: str, expected: bool) -> None:
    assert speaks_of(title, query) is expected
