"""The script that reads a page, in a real browser, with Taobao's own profile."""

from __future__ import annotations

import dataclasses
import json

import pytest

from crawler.classify import judge
from crawler.errors import BrowserError, SettingsError
from crawler.snapshot import _code, _wanted, parse_snapshot, take_snapshot
from crawler.types import PageState
from tests.crawler.pages_driver import QUERY, PagesBrowser, pages  # noqa: F401 - a fixture
from tests.crawler.snapshot_builders import HARD_QUERIES

pytestmark = [pytest.mark.browser, pytest.mark.slow]
S = PageState
BOTH_2025 = ["2801", "2802"]
# page: state, layout, items
EXPECTED: dict[str, tuple[PageState, str, list[str]]] = {
    "layout_2022": (S.RESULTS, "2022", ["2201", "2202"]),
    "layout_2023": (S.RESULTS, "2023", ["2301", "2302"]),
    "layout_2025": (S.RESULTS, "2025", ["2501", "2503", "2504"]),
    "layout_2026": (S.RESULTS, "2026", ["2601", "2602", "2603"]),
    "results_recommendations": (S.RESULTS, "2025", ["2711"]),
    "solved_widget": (S.RESULTS, "2025", BOTH_2025),
    "side_frame": (S.RESULTS, "2025", BOTH_2025),
    "tricky_titles": (S.RESULTS, "2025", ["2901", "2902", "2903", "2904", "2905"]),
    "redesign": (S.RESULTS, "generic", ["3001", "3002", "3003", "3004"]),
    "redesign_recommendations": (S.RESULTS, "generic", ["3101", "3102", "3103"]),
    "redesign_two_lists": (S.UNKNOWN, "", []),
    "no_products": (S.UNKNOWN, "", []),
    "empty": (S.EMPTY, "", []),
    "empty_recommendations": (S.EMPTY, "", []),
    "skeleton": (S.LOADING, "", []),
    "captcha_overlay": (S.CAPTCHA, "", []),
    "captcha_dialog": (S.CAPTCHA, "", []),
    "punish": (S.CAPTCHA, "", []),
    "throttle": (S.THROTTLED, "", []),
    "deny": (S.DENIED, "", []),
    "deny_text": (S.DENIED, "", []),
    "login_overlay": (S.LOGIN_WALL, "", []),
    "502": (S.SERVER_ERROR, "", []),
    "404": (S.UNKNOWN, "", []),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_page_is(pages: PagesBrowser, name: str) -> None:  # noqa: F811
    verdict = judge(pages.look(name), pages.profile, QUERY, limit=9)
    found = verdict.found if verdict.state is S.RESULTS else None
    items = [candidate.item_id for candidate in found.candidates] if found else []
    assert (verdict.state, found.layout if found else "", items) == EXPECTED[name], verdict.detail


def test_another_querys_results_are_unknown(pages: PagesBrowser) -> None:  # noqa: F811
    for name in ("layout_2022", "layout_2025", "redesign", "empty"):
        verdict = judge(pages.look(name, box="手机"), pages.profile, QUERY)
        assert verdict.state is S.UNKNOWN and "手机" in verdict.detail
        assert judge(pages.look(name, "手机"), pages.profile, QUERY).state is S.UNKNOWN


@pytest.mark.parametrize("query", HARD_QUERIES)
def test_queries_survive_the_way_into_the_page_and_back(pages: PagesBrowser, query: str) -> None:  # noqa: F811
    snapshot = pages.look("layout_2025", query)
    assert snapshot.query_box == query
    assert judge(snapshot, pages.profile, query).state is S.RESULTS
    assert judge(snapshot, pages.profile, query + "x").state is S.UNKNOWN


@pytest.mark.parametrize(
    "query", ["没有找到相关的宝贝", "被挤爆啦,请稍后重试", "RGV587_ERROR", "验证码", "滑块", "登录"]
)
def test_queries_that_sound_like_trouble(pages: PagesBrowser, query: str) -> None:  # noqa: F811
    assert judge(pages.look("tricky_titles", query), pages.profile, query).state is S.RESULTS


def test_a_snapshot_is_plain_data(pages: PagesBrowser) -> None:  # noqa: F811
    snapshot = pages.look("layout_2025")
    raw = pages.script(_code(), _wanted(pages.profile))
    assert parse_snapshot(json.loads(json.dumps(raw))) == snapshot
    assert parse_snapshot(json.loads(json.dumps(dataclasses.asdict(snapshot)))) == snapshot
    assert snapshot.status == 200 and snapshot.ready_state == "complete" and snapshot.query_box == QUERY
    assert snapshot.title == f"{QUERY}_淘宝搜索" and snapshot.width > 1000 and snapshot.height > 500


def test_details_of_a_card(pages: PagesBrowser) -> None:  # noqa: F811
    snapshot = pages.look("layout_2026")
    cards = snapshot.layouts["2026"]
    assert [card.path[-1] for card in cards] == [0, 1, 2]
    assert len({card.path[:-1] for card in cards}) == 1
    loaded = {image.natural_width: image for image in cards[2].images}
    assert sorted(loaded) == [80, 300, 400]
    assert (loaded[300].rect.width, loaded[300].rect.height) == (40, 40)
    assert loaded[400].attributes["src"] == "/picture/400x400/main.png"
    assert loaded[400].attributes["currentSrc"] == f"{pages.origin}/picture/400x400/main.png"
    assert cards[0].images[0].attributes == {
        "currentSrc": "data:",
        "src": "data:",
        "data-src": "//img.alicdn.com/imgextra/i1/26/a.jpg",
    }


def test_advertisements_are_told_by_their_badge(pages: PagesBrowser) -> None:  # noqa: F811
    cards = pages.look("layout_2025").layouts["2025"]
    assert [bool(card.ads) for card in cards] == [True, False, False, False, False, False]
    assert pages.look("layout_2022").layouts["2022"][0].ads == (".item-ad",)


def test_only_what_is_visible_is_seen(pages: PagesBrowser) -> None:  # noqa: F811
    snapshot = pages.look("solved_widget")
    assert (snapshot.probes, snapshot.texts, snapshot.frames) == ((), (), ())
    pages.script("document.querySelector('.baxia-dialog').style.display = 'block'")
    shown = take_snapshot(pages, pages.profile)  # type: ignore[arg-type]
    assert {node.wanted for node in shown.probes} == {"#baxia-dialog-content", ".baxia-dialog"}


def test_hidden_cards_are_no_results(pages: PagesBrowser) -> None:  # noqa: F811
    pages.open("layout_2025")
    pages.script("document.querySelector('.search-content-col').style.display = 'none'")
    assert judge(take_snapshot(pages, pages.profile), pages.profile, QUERY).state is S.UNKNOWN  # type: ignore[arg-type]


def test_a_wrapper_without_size_is_as_large_as_what_it_shows(pages: PagesBrowser) -> None:  # noqa: F811
    snapshot = pages.look("captcha_overlay")
    [wrapper] = snapshot.probes
    assert wrapper.wanted == "div.J_MIDDLEWARE_FRAME_WIDGET" and wrapper.overlay
    assert wrapper.rect == snapshot.frames[0].rect and wrapper.rect.height > 300
    assert "/_____tmd_____/punish" in snapshot.frames[0].url


def test_titles_are_no_messages_but_texts_around_them_are(pages: PagesBrowser) -> None:  # noqa: F811
    texts = pages.look("tricky_titles").texts
    assert [(text.kind, text.text) for text in texts] == [("empty", "没有找到相关的宝贝？告诉我们")]
    kinds = {text.kind: text.text for text in pages.look("empty_recommendations").texts}
    assert kinds == {"empty": f"没有找到与“{QUERY}”相关的宝贝", "recommendation": "猜你喜欢"}


def test_words_of_neighbours_make_no_message(pages: PagesBrowser) -> None:  # noqa: F811
    pages.open("no_products")
    pages.script(
        "document.body.innerHTML = '<p>没有找到</p><p>相关的宝贝</p><p>没有<b>找到</b><i>与</i>你</p>'"
    )
    texts = take_snapshot(pages, pages.profile).texts  # type: ignore[arg-type]
    assert [(text.wanted, text.text) for text in texts] == [("没有找到与", "没有找到与你")]


def test_long_texts_are_cut(pages: PagesBrowser) -> None:  # noqa: F811
    pages.open("no_products")
    pages.script("document.querySelector('p').textContent = '被挤爆啦,请稍后重试'.repeat(99)")
    [text] = take_snapshot(pages, pages.profile).texts  # type: ignore[arg-type]
    assert len(text.text) == 200


def test_many_cards_are_cut_and_counted(pages: PagesBrowser) -> None:  # noqa: F811
    pages.open("redesign")
    pages.script(
        "const ul = document.querySelector('ul'); for (let id = 9000; id < 9200; id += 1)"
        "ul.insertAdjacentHTML('beforeend', `<li><a href='//item.taobao.com/item.htm?id=${id}'>裙</a></li>`)"
    )
    snapshot = take_snapshot(pages, pages.profile)  # type: ignore[arg-type]
    assert (len(snapshot.rows), snapshot.more_rows) == (100, 104)


def test_a_dead_server_is_a_server_error(pages: PagesBrowser) -> None:  # noqa: F811
    pages.goto("http://127.0.0.1:1/search?q=x")
    verdict = judge(take_snapshot(pages, pages.profile), pages.profile, "x")  # type: ignore[arg-type]
    assert verdict.state is S.SERVER_ERROR and verdict.detail.startswith("ERR_")


@pytest.mark.parametrize(
    "address",
    ["about:blank", "data:text/plain,x", "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"],
)
def test_pages_that_are_no_pages(pages: PagesBrowser, address: str) -> None:  # noqa: F811
    pages.goto(address)
    snapshot = take_snapshot(pages, pages.profile)  # type: ignore[arg-type]
    assert judge(snapshot, pages.profile, "x").state is S.UNKNOWN


def test_a_bad_selector_or_pattern_is_named(pages: PagesBrowser) -> None:  # noqa: F811
    pages.open("layout_2025")
    profile = pages.profile
    broken = profile.model_copy(update={"empty": profile.empty.model_copy(update={"selectors": ("div[",)})})
    with pytest.raises(SettingsError, match=r"profile taobao: div\["):
        take_snapshot(pages, broken)  # type: ignore[arg-type]
    products = profile.products.model_copy(update={"link": (r"(?P<id>\d+)(?#no comment in JavaScript)",)})
    with pytest.raises(SettingsError, match="no comment"):
        take_snapshot(pages, profile.model_copy(update={"products": products}))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, 7, {}, {"url": 1, "ready_state": "complete"}, {"url": "x"}])
def test_nonsense_is_refused(content: object) -> None:
    with pytest.raises(BrowserError, match="the page could not be read"):
        parse_snapshot(content)
