"""What stops a crawl, and how it goes on: blocks, sessions, layouts, browsers, failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawler.browser_errors import BrowserDied
from crawler.errors import BlockedError, BrowserError, CrawlError, LayoutError, LoginError
from crawler.types import Outcome, PageState, Refusal, Refused
from tests.crawler.crawl_kit import Run
from tests.crawler.fakes import FakeClock, page, results


def test_five_failed_queries_in_a_row_stop_the_crawl(tmp_path: Path) -> None:
    run = Run(tmp_path, [page(PageState.SERVER_ERROR)] * 99)
    with pytest.raises(CrawlError, match="5 queries in a row"):
        run(*[f"查询{n}" for n in range(9)])
    assert len(run.reports) == 5 and len(run.source.searches) == 15
    assert run.source.log[-1] == "close" and run.events[-1]["outcome"] == "stopped"
    assert Run(tmp_path)("查询0") == {"查询0": Outcome.OK}  # an outage is no property of the query


@pytest.mark.parametrize("state", [state for state in PageState if state.blocked])
def test_a_block_stops_everything_at_once(tmp_path: Path, state: PageState) -> None:
    clock = FakeClock()
    run = Run(tmp_path, [results("一"), page(state)], clock=clock)
    with pytest.raises(BlockedError):
        run("一", "二", "三")
    assert [query for _, query in run.source.searches] == ["一", "二"] and len(run.source.fetches) == 1
    assert run.source.log[-2:] == [f"dump {state.value}", "close"]
    later = Run(tmp_path, clock=clock)
    with pytest.raises(BlockedError):
        later("二")
    assert later.source.log == ["close"]
    clock.time += 1801
    assert Run(tmp_path, clock=clock, resume=True)("一", "二") == {"一": Outcome.CACHED, "二": Outcome.OK}


def test_a_block_at_the_login_is_a_block(tmp_path: Path) -> None:
    clock = FakeClock()
    run = Run(tmp_path, clock=clock)
    run.source.refuse_login = BlockedError("captcha", PageState.CAPTCHA)
    with pytest.raises(BlockedError, match="30 min"):
        run("一")
    assert run.source.searches == [] and run.source.log == ["open", "login", "dump captcha", "close"]
    with pytest.raises(BlockedError, match="no requests before"):
        Run(tmp_path, clock=clock)("一")


def test_an_expired_session_is_renewed_once_in_ten_minutes(tmp_path: Path) -> None:
    run = Run(tmp_path, [page(PageState.LOGIN_WALL)])
    assert run("连衣裙") == {"连衣裙": Outcome.OK}
    assert run.source.log == ["open", "login", "login", "close"]
    assert [query for _, query in run.source.searches] == ["连衣裙", "连衣裙"]
    run = Run(tmp_path, [page(PageState.LOGIN_WALL), results("袜子"), page(PageState.LOGIN_WALL)])
    with pytest.raises(LoginError, match="twice within 10 min"):
        run("袜子", "帽子")
    assert len(run.source.searches) == 3


def test_three_unknown_pages_in_a_row_mean_that_the_layout_changed(tmp_path: Path) -> None:
    unknown = [page(PageState.UNKNOWN)] * 3
    run = Run(tmp_path, [*unknown, *unknown, results("三"), *unknown, *unknown, *unknown])
    with pytest.raises(LayoutError, match="layout changed"):
        run("一", "二", "三", "四", "五", "六", "七")
    unknown_ones = [Outcome.UNKNOWN_LAYOUT]
    assert [r.outcome for r in run.reports] == unknown_ones * 2 + [Outcome.OK] + unknown_ones * 3
    assert run.source.log.count("dump unknown") == 5
    assert run.cache.miss("一") is None  # the fault is the profile's, not the query's


def test_a_browser_that_dies_is_started_once_more(tmp_path: Path) -> None:
    run = Run(tmp_path, [BrowserDied("gone")])
    assert run("连衣裙") == {"连衣裙": Outcome.OK}
    assert run.source.log == ["open", "login", "close", "open", "login", "close"]
    run = Run(tmp_path, [BrowserDied("gone"), results("一"), BrowserDied("gone again")])
    with pytest.raises(BrowserDied, match="gone again"):
        run("一", "二")


def test_a_browser_that_cannot_be_started_is_no_dead_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.source.refuse_login = BrowserError("chromium not found")
    with pytest.raises(BrowserError, match="not found"):
        run("一")
    assert run.source.log == ["open", "login", "close"] and run.clock.slept == []
    assert not (tmp_path / "state.json").exists()  # nothing was asked


def test_pictures_that_never_arrive_are_a_failure(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.source.on_fetch = lambda _candidate, url: Refused(Refusal.NETWORK, url)
    with pytest.raises(CrawlError, match="5 queries in a row"):
        run(*[f"查询{n}" for n in range(9)])


def test_a_block_is_remembered_before_anything_else(tmp_path: Path) -> None:
    run = Run(tmp_path, [page(PageState.CAPTCHA)])
    run.source.on_dump = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run("一")
    with pytest.raises(BlockedError, match="no requests before"):
        Run(tmp_path, clock=run.clock)("一")


def test_a_question_that_a_human_answers_ends_the_block(tmp_path: Path) -> None:
    run = Run(tmp_path, [page(PageState.CAPTCHA)])
    run.source.human = results("一")
    assert run("一", "二") == {"一": Outcome.OK, "二": Outcome.OK}
    assert [event["outcome"] for event in run.events[:2]] == ["blocked", "answered by a human"]
    again = Run(tmp_path / "b", [page(PageState.CAPTCHA)])
    again.source.human = page(PageState.CAPTCHA)
    with pytest.raises(BlockedError):
        again("一")
