"""A real browser crawls the practice shop: each picture is of its query, and the shop's log knows the rest.

$CNCLIP_CRAWL_QUERIES sets how many queries each layout is crawled for (the full measure is 200).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from crawler.crawl import CrawlOptions
from crawler.errors import BlockedError, LayoutError, LoginError
from crawler.policy import read_state
from crawler.practice_shop import PracticeShop, ShopSettings
from crawler.types import Outcome
from tests.e2e.crawl_run import QUICK, crawl, queries, wrong_pictures

pytestmark = [pytest.mark.browser, pytest.mark.slow]
COUNT = int(os.environ.get("CNCLIP_CRAWL_QUERIES", "6"))
ALL_FORMS = (
    "suffix",
    "plain",
    "absolute",
    "relative",
    "webp",
    "png",
    "quality",
    "srcset",
    "placeholder",
    "icon_first",
)
DECOYS = ("solved_widget", "blocked_iframe", "login_link", "login_xhr", "titles")


@pytest.mark.parametrize("layout", ["2022", "2023", "2025", "2026", "redesign", "redesign-mixed"])
def test_every_layout_gives_the_right_pictures_at_the_right_pace(tmp_path: Path, layout: str) -> None:
    asked = queries(COUNT)
    settings = ShopSettings(
        layout=layout,
        ads=True,
        lazy=True,
        redraw=True,
        login="required",
        url_forms=ALL_FORMS,
        decoys=DECOYS,  # type: ignore[arg-type]
    )
    with PracticeShop(settings) as shop:
        run = crawl(shop, tmp_path, asked)
        assert run.stopped is None
        assert wrong_pictures(run.cache, asked) == []
        good = sum(bool(run.cache.pictures(query)) for query in asked)
        assert good >= 0.99 * len(asked), run.summary
        searches = shop.log("search")
        # the page asks for its cards by itself; what counts is the result page
        pages = [visit for visit in searches if visit.status == 200]
        assert Counter(visit.query for visit in pages) == Counter(asked)
        assert min(b.t - a.t for a, b in pairwise(pages)) >= QUICK.gap_s
        ours = [visit for visit in shop.log("image") if visit.user_agent == "cnclip-test"]
        assert len(ours) >= len(asked) and not any(visit.cookie_names for visit in ours)
        assert all(visit.referer.startswith(shop.search_origin) for visit in ours)
        assert not any(visit.cookies_login for visit in shop.log("image") if visit.origin == "images")
        assert len({visit.user_agent for visit in searches}) == 1


def test_a_page_that_shows_another_query_gives_no_picture(tmp_path: Path) -> None:
    with PracticeShop(ShopSettings(layout="stale")) as shop:
        run = crawl(shop, tmp_path, queries(4), wait_s=3)
        assert wrong_pictures(run.cache, queries(4)) == []
        assert isinstance(run.stopped, LayoutError) or run.summary.new_pictures == 4


def test_a_page_that_nobody_knows_stops_with_a_dump(tmp_path: Path) -> None:
    with PracticeShop(ShopSettings(layout="none")) as shop:
        run = crawl(shop, tmp_path, queries(5), wait_s=3)
        assert isinstance(run.stopped, LayoutError) and "layout changed" in str(run.stopped)
        assert len({visit.query for visit in shop.log("search")}) == 3
    dumps = sorted(path.suffix for path in (tmp_path / "mark_log/dumps").iterdir())
    assert set(dumps) == {".html", ".json", ".png"}
    assert run.summary.new_pictures == 0


@pytest.mark.parametrize(
    "kind", ["captcha_overlay", "captcha_page", "throttle_json", "throttle_page", "deny"]
)
def test_after_a_block_nothing_more_is_asked(tmp_path: Path, kind: str) -> None:
    asked = queries(6)
    with PracticeShop(ShopSettings(risk_after=2, risk_kind=kind, decoys=DECOYS)) as shop:  # type: ignore[arg-type]
        run = crawl(shop, tmp_path, asked)
        assert isinstance(run.stopped, BlockedError)
        log = shop.log()
        first = next(n for n, visit in enumerate(log) if visit.blocked)
        after = log[first + 1 :]
        assert not [v for v in after if v.kind == "search"]
        assert not [v for v in after if v.kind == "image" and v.user_agent == "cnclip-test"]
        # while the pause lasts not even a browser is started
        before = len(shop.log())
        again = crawl(shop, tmp_path, asked, resume=True)
        assert isinstance(again.stopped, BlockedError) and len(shop.log()) == before
        state = tmp_path / "state.json"
        first_pause = read_state(state).cooldown_s
        _let_the_pause_pass(state)
        # the shop still blocks: the next pause is twice as long
        assert isinstance(crawl(shop, tmp_path, asked, resume=True).stopped, BlockedError)
        assert read_state(state).cooldown_s == 2 * first_pause
        _let_the_pause_pass(state)
        shop.reset()
        shop.set(risk_after=None)
        done = crawl(shop, tmp_path, asked, resume=True)
        assert done.stopped is None and len({v.query for v in shop.log("search")}) == len(asked) - 2
    assert wrong_pictures(done.cache, asked) == [] and all(done.cache.pictures(query) for query in asked)


def _let_the_pause_pass(state: Path) -> None:
    content = json.loads(state.read_text(encoding="utf-8"))
    state.write_text(json.dumps(content | {"blocked_until": 1.0}), encoding="utf-8")


BAD = {
    "404": "gone", "410": "gone", "500": "http_status", "429": "throttled", "truncated": "truncated",
    "html": "not_an_image", "tiny_body": "too_few_bytes", "one_pixel": "too_few_bytes too_small",
    "flat": "near_constant", "bomb": "too_many_pixels", "endless": "too_slow too_many_bytes",
    "drip": "too_slow", "hang": "too_slow", "foreign_redirect": "host_not_allowed",
    "placeholder": "placeholder near_constant too_small too_few_bytes",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BAD))
def test_each_bad_picture_is_refused_for_its_reason_and_the_next_is_taken(tmp_path: Path, kind: str) -> None:
    with PracticeShop(ShopSettings(bad_pictures=(kind,))) as shop:  # type: ignore[arg-type]
        run = crawl(shop, tmp_path, queries(1))
        assert run.stopped is None and run.summary.new_pictures == 1
        assert wrong_pictures(run.cache, queries(1)) == []
        assert set(run.summary.refused) & set(BAD[kind].split())  # its other size may fail otherwise


def test_five_pictures_of_a_query_are_five_different_ones(tmp_path: Path) -> None:
    kinds = ("duplicate_bytes", "duplicate_item", "png", "webp", "gif")
    with PracticeShop(ShopSettings(bad_pictures=kinds)) as shop:  # type: ignore[arg-type]
        run = crawl(shop, tmp_path, queries(2), CrawlOptions(pictures=5))
    assert run.stopped is None and run.summary.outcomes == {Outcome.OK: 2}
    assert wrong_pictures(run.cache, queries(2)) == []
    for query in queries(2):
        pictures = run.cache.pictures(query)
        assert sorted(pictures) == [1, 2, 3, 4, 5]
        assert len({path.read_bytes() for path in pictures.values()}) == 5


def test_names_that_are_no_file_names(tmp_path: Path) -> None:
    odd = [
        "a/b",
        "../x",
        "苹" * 100,
        "😀",
        "A B",
        "AB",
        "ab",
        "ＡＢ",
        "con",
        "。红。",
        "x\\y",
        "%2e%2e",
        "红 裙",
        "红裙",
        '"引号"&#?+',
    ]
    with PracticeShop(ShopSettings()) as shop:
        run = crawl(shop, tmp_path, [*odd, "。，！", *odd])
        assert Counter(visit.query for visit in shop.log("search")) == Counter(odd)
    assert run.stopped is None
    assert run.summary.outcomes == {Outcome.OK: len(odd), Outcome.UNUSABLE_QUERY: 1}
    assert wrong_pictures(run.cache, odd) == []
    folders = {path.parent for query in odd for path in run.cache.pictures(query).values()}
    assert len(folders) == len(odd)
    assert all(folder.parent == tmp_path / "valid" for folder in folders)


def test_nothing_found_is_told_from_recommendations(tmp_path: Path) -> None:
    asked = queries(3)
    with PracticeShop(ShopSettings(empty_queries=(asked[1],), empty_recommendations=True)) as shop:
        run = crawl(shop, tmp_path, asked)
        assert run.summary.outcomes == {Outcome.OK: 2, Outcome.EMPTY: 1}
        before = len(shop.log())
        again = crawl(shop, tmp_path, asked)
        assert len(shop.log()) == before and again.summary.outcomes == {
            Outcome.CACHED: 2,
            Outcome.EMPTY: 1,
        }


@pytest.mark.parametrize("fault", ["hang_html", "hang_css", "hang_image", "bad_gateway_once", "reset_once"])
def test_slow_and_broken_pages_cost_time_but_nothing_else(tmp_path: Path, fault: str) -> None:
    asked = queries(3)
    with PracticeShop(ShopSettings(faults={asked[1]: fault})) as shop:  # type: ignore[dict-item]
        run = crawl(shop, tmp_path, asked)
    assert run.stopped is None and wrong_pictures(run.cache, asked) == []
    expected = Outcome.LOAD_FAILED if fault == "hang_html" else Outcome.OK
    assert [report.outcome for report in run.reports] == [Outcome.OK, expected, Outcome.OK]


def test_a_session_that_ends_is_renewed_once(tmp_path: Path) -> None:
    asked = queries(8)
    with PracticeShop(ShopSettings(login="required", session_searches=5)) as shop:
        run = crawl(shop, tmp_path, asked)
        assert run.stopped is None and run.summary.new_pictures == 8
        assert len(shop.log("confirm")) == 2
    with PracticeShop(ShopSettings(login="required", session_searches=2)) as shop:
        run = crawl(shop, tmp_path / "again", asked)
        assert isinstance(run.stopped, LoginError) and run.summary.new_pictures == 4
