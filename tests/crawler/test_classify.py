from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crawler.classify import classify, judge
from crawler.snapshot import Rect, Said, Snapshot
from crawler.types import PageState
from tests.crawler.snapshot_builders import (
    GRID,
    HARD_QUERIES,
    QUERY,
    TAOBAO,
    frame,
    heading,
    node,
    page,
    results,
    rows,
)

S = PageState
PUNISH = "https://s.taobao.com/_____tmd_____/punish?x5secdata=1&x5step=2&action=captcha"
DENY = "https://bixi.alicdn.com/punish/punish:resource?action=deny"
LOGIN = "https://login.taobao.com/member/login.jhtml?style=mini"
IDENTITY = "https://passport.taobao.com/iv/identity_verify.htm"
DIALOG = Rect(470, 290, 420, 320)  # a tenth of the viewport, in its middle
SIDE = Rect(1080, 150, 250, 200)
FULL = Rect(0, 0, 1366, 900)
ABOVE, BELOW, BESIDE = Rect(10, 100, 600, 40), Rect(10, 600, 600, 40), Rect(1250, 100, 100, 40)


def _url(query: str, more: str = "") -> str:
    return TAOBAO.search_url(query) + more


def state(snapshot: Snapshot, query: str | None = QUERY) -> PageState:
    return classify(snapshot, TAOBAO, query)


# --- By address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (PUNISH, S.CAPTCHA),
        ("https://s.taobao.com//_____tmd_____/punish?x5secdata=abc", S.CAPTCHA),
        ("https://sec.taobao.com/query.htm?smApp=tmallsearch", S.CAPTCHA),
        ("https://s.taobao.com/_____tmd_____/punish?x5secdata=1&action=deny", S.DENIED),
        (DENY, S.DENIED),
        (IDENTITY, S.IDENTITY_CHECK),
        ("https://login.taobao.com/member/login_unusual.htm", S.IDENTITY_CHECK),
        ("https://login.taobao.com/member/login.jhtml?redirectURL=https%3A%2F%2Fs.taobao.com", S.LOGIN_WALL),
        ("https://login.taobao.com/havanaone/login/login.htm?bizName=taobao", S.LOGIN_WALL),
        ("https://login.tmall.com/?from=sm", S.LOGIN_WALL),
        ("chrome-error://chromewebdata/", S.SERVER_ERROR),
        ("about:neterror?e=connectionFailure", S.SERVER_ERROR),
    ],
)
def test_the_address_of_the_document_comes_first(url: str, expected: PageState) -> None:
    assert state(results(url=url)) is expected
    assert state(page(url=url), None) is expected


@pytest.mark.parametrize("host", ["www.example.com", "taobao.com.evil.example", "s.taobao.com:8080"])
def test_other_sites_are_never_results(host: str) -> None:
    verdict = judge(results(url=f"https://{host}/search?q=%E8%BF%9E%E8%A1%A3%E8%A3%99"), TAOBAO, QUERY)
    assert verdict.state is S.UNKNOWN and host.partition(":")[0] in verdict.detail


def test_login_addresses_that_are_no_wall() -> None:
    silent = frame("https://login.taobao.com/newlogin/silentHasLogin.do", FULL, overlay=True)
    assert state(results(frames=(silent,))) is S.RESULTS


# --- Challenges


@pytest.mark.parametrize(
    ("url", "expected"),
    [(PUNISH, S.CAPTCHA), (DENY, S.DENIED), (IDENTITY, S.IDENTITY_CHECK), (LOGIN, S.LOGIN_WALL)],
)
def test_frames_count_when_they_are_in_the_way(url: str, expected: PageState) -> None:
    assert state(results(frames=(frame(url, DIALOG, overlay=True),))) is expected
    assert state(results(frames=(frame(url, FULL),))) is expected
    assert state(page(frames=(frame(url, DIALOG),))) is expected
    assert state(results(frames=(frame(url, DIALOG),))) is S.RESULTS  # in the flow of the page
    beside = judge(results(frames=(frame(url, SIDE),)), TAOBAO, QUERY)
    assert beside.state is S.RESULTS and "beside the results: a frame" in beside.detail


def test_a_frame_out_of_view_does_not_cover_anything() -> None:
    assert state(results(frames=(frame(PUNISH, Rect(0, 2000, 1366, 900)),))) is S.RESULTS


def test_a_side_frame_may_be_harmless_until_nothing_more_comes() -> None:
    for waiting in (page(frames=(frame(DENY, SIDE),)), page(frames=(frame(PUNISH, SIDE),), busy=2)):
        assert not state(waiting).blocked
        assert judge(waiting, TAOBAO, QUERY, final=True).state.blocked
    login = page(frames=(frame(LOGIN, SIDE),))
    assert judge(login, TAOBAO, QUERY, final=True).state is S.UNKNOWN


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("captcha", S.CAPTCHA),
        ("deny", S.DENIED),
        ("throttle", S.THROTTLED),
        ("identity", S.IDENTITY_CHECK),
        ("login", S.LOGIN_WALL),
    ],
)
def test_visible_nodes(kind: str, expected: PageState) -> None:
    assert state(results(probes=(node(kind, "#x", FULL),))) is expected
    assert state(results(probes=(node(kind, "#x", DIALOG, overlay=True),))) is expected
    assert state(results(probes=(node(kind, "#x", SIDE),))) is S.RESULTS
    assert state(results(probes=(node(kind, "#x", Rect(680, 445, 10, 10), overlay=True),))) is S.RESULTS


def test_a_slider_in_the_page_counts_without_results() -> None:
    slider = node("captcha", "#nc_1_n1z", Rect(20, 20, 300, 34))
    assert state(page(probes=(slider,))) is S.CAPTCHA
    assert state(results(probes=(slider,))) is S.RESULTS


@pytest.mark.parametrize(("kind", "expected"), [("throttle", S.THROTTLED), ("deny", S.DENIED)])
def test_texts(kind: str, expected: PageState) -> None:
    said = node(kind, "FAIL_SYS", Rect(0, 0, 100, 20))
    assert state(page(texts=(said,))) is expected
    assert state(results(texts=(said,))) is expected
    assert state(results(texts=(replace(said, link=True),))) is S.RESULTS  # others searched for it
    assert state(page(texts=(said,), query_box="FAIL_SYS", url=_url("FAIL_SYS")), "FAIL_SYS") is S.UNKNOWN


def test_comments_count_only_on_pages_without_products() -> None:
    comments = (Said("deny", "rgv587_flag:sm"), Said("empty", "没有找到与"))
    assert state(page(comments=comments)) is S.DENIED
    assert state(page(comments=comments[1:])) is S.UNKNOWN
    assert state(results(comments=comments)) is S.RESULTS


def test_the_worst_comes_first() -> None:
    kinds = ["empty", "login", "identity", "throttle", "captcha", "deny"]
    order = [S.DENIED, S.CAPTCHA, S.THROTTLED, S.IDENTITY_CHECK, S.LOGIN_WALL, S.EMPTY]
    for expected in order:
        assert state(page(probes=tuple(node(kind, "#x", FULL) for kind in kinds))) is expected
        kinds.pop()


# --- HTTP, and whose results they are


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (500, S.SERVER_ERROR),
        (502, S.SERVER_ERROR),
        (503, S.SERVER_ERROR),
        (429, S.THROTTLED),
        (403, S.DENIED),
    ],
)
def test_http_status(status: int, expected: PageState) -> None:
    assert state(page(status=status)) is expected
    assert state(page(status=status, probes=(node("captcha", "#x", FULL),))) is S.CAPTCHA


@pytest.mark.parametrize("status", [0, 200, 304, 404])
def test_other_status_says_nothing(status: int) -> None:
    assert state(results(status=status)) is S.RESULTS
    assert state(page(status=status)) is S.UNKNOWN


@pytest.mark.parametrize("query", HARD_QUERIES)
def test_the_query_in_the_address(query: str) -> None:
    shown = results(url=_url(query, "&page=1#top"), query_box=query)
    assert state(shown, query) is S.RESULTS
    assert state(shown, query + "z") is S.UNKNOWN
    assert state(replace(shown, query_box=""), query) is S.RESULTS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"url": _url("手机")}, S.UNKNOWN),
        ({"query_box": "手机"}, S.UNKNOWN),
        ({"query_box": ""}, S.RESULTS),
        ({"query_box": "  连衣裙 "}, S.RESULTS),
        ({"url": "https://s.taobao.com/search"}, S.RESULTS),  # the box says it
        ({"url": "https://s.taobao.com/search", "query_box": ""}, S.UNKNOWN),  # nothing says it
        ({"url": _url("连衣裙", "&q=手机")}, S.UNKNOWN),
    ],
)
def test_results_of_another_query(changes: dict[str, Any], expected: PageState) -> None:
    assert state(results(**changes)) is expected
    assert state(results(**changes), None) is S.RESULTS
    nothing = page(**changes, probes=(node("empty", ".item-not-found", ABOVE),))
    assert state(nothing) is (S.EMPTY if expected is S.RESULTS else S.UNKNOWN)


@pytest.mark.parametrize(("shown", "asked"), [("iPhone  15", "IPHONE 15"), ("Ｔ恤", "T恤"), ("a b", "a　b")])
def test_sites_rewrite_width_case_and_space(shown: str, asked: str) -> None:
    assert state(results(url=_url(shown), query_box=shown), asked) is S.RESULTS


@pytest.mark.parametrize(("shown", "asked"), [("AB", "A B"), ("连衣裙", "连衣"), ("", "x")])
def test_but_not_more(shown: str, asked: str) -> None:
    assert state(results(url=_url(shown), query_box=shown), asked) is S.UNKNOWN


def test_another_encoding() -> None:
    gbk = TAOBAO.model_copy(update={"search": TAOBAO.search.model_copy(update={"encoding": "gbk"})})
    assert gbk.search_url(QUERY).endswith("%C1%AC%D2%C2%C8%B9")
    assert classify(results(url=gbk.search_url(QUERY)), gbk, QUERY) is S.RESULTS


# --- Empty, results, loading, unknown


@pytest.mark.parametrize(("where", "expected"), [(ABOVE, S.EMPTY), (BELOW, S.RESULTS), (BESIDE, S.RESULTS)])
def test_nothing_found_stands_above_recommendations(where: Rect, expected: PageState) -> None:
    said, marked = node("empty", "没有找到与", where), node("empty", "[class*='noResult']", where)
    assert state(results(texts=(said,))) is expected
    assert state(results(probes=(marked,))) is expected
    without_pictures = results(layouts={"2025": rows(4, images=())}, rows=rows(4, images=()), texts=(said,))
    assert state(without_pictures) is (S.EMPTY if where is ABOVE else S.LOADING)
    assert state(page(texts=(said,))) is S.EMPTY


def test_nothing_found_below_cards_of_no_known_list() -> None:
    two = rows(2)  # too few for a list
    assert state(page(rows=two, texts=(node("empty", "没有找到与", ABOVE),))) is S.EMPTY
    assert state(page(rows=two, texts=(node("empty", "没有找到与", BESIDE),))) is S.EMPTY
    assert state(page(rows=two, texts=(node("empty", "没有找到与", BELOW),))) is S.UNKNOWN


def test_the_query_repeated_is_no_message() -> None:
    text = "没有找到相关的宝贝"
    echo = node("empty", text, ABOVE, text=f"“{text} T恤”的搜索结果")
    query = f"{text} T恤"
    assert state(results(texts=(echo,), url=_url(query), query_box=query), query) is S.RESULTS
    assert state(results(texts=(echo,))) is S.EMPTY
    assert state(results(texts=(replace(echo, link=True),))) is S.RESULTS


def test_few_results_above_recommendations() -> None:
    texts = (heading((*GRID, 1), y=500),)
    cards = (rows(1)[0], *rows(4)[2:])
    verdict = judge(results(layouts={"2025": cards}, texts=texts), TAOBAO, QUERY, limit=9)
    assert verdict.state is S.RESULTS and len(verdict.found.candidates) == 1


def test_results_by_product_links_alone_need_the_query() -> None:
    assert state(page(rows=rows(4))) is S.RESULTS
    assert state(page(rows=rows(4)), None) is S.UNKNOWN


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (page(ready_state="loading"), S.LOADING),
        (page(ready_state="interactive"), S.LOADING),
        (page(busy=3), S.LOADING),
        (results(layouts={"2025": rows(3, images=())}, rows=()), S.LOADING),
        (page(), S.UNKNOWN),
        (page(busy=3, rows=rows(2)), S.UNKNOWN),  # products there are, but we do not understand them
        (results(layouts={"2025": ()}, rows=rows(2)), S.UNKNOWN),
        (page(rows=rows(4, title="咖啡杯")), S.UNKNOWN),
        (Snapshot("about:blank", "complete"), S.UNKNOWN),
    ],
)
def test_neither_results_nor_empty(snapshot: Snapshot, expected: PageState) -> None:
    verdict = judge(snapshot, TAOBAO, QUERY)
    assert verdict.state is expected and verdict.detail
