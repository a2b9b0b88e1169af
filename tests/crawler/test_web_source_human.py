"""What only a human may answer is left to the human, if there is one."""

from __future__ import annotations

from typing import Any

from crawler.snapshot import Rect, Snapshot
from crawler.sources.web import HUMAN_WAIT_S, WebSource
from crawler.types import PageState, SearchResult
from tests.crawler.fakes import FakeClock
from tests.crawler.snapshot_builders import QUERY, TAOBAO, node, page, results
from tests.crawler.test_web_source import FakeBrowser, FakeFetcher

PUZZLE = page(probes=(node("captcha", "#nc_1_n1z", Rect(0, 0, 1366, 900)),))
DENIED = page(url="https://bixi.alicdn.com/punish/x?action=deny")


def search(*shows: Snapshot, human: bool = True) -> tuple[SearchResult, FakeBrowser, list[str], float]:
    """The result, the browser, what the human was told, and the seconds it took."""
    browser, clock, told = FakeBrowser(shows), FakeClock(), list[str]()
    parts: Any = (TAOBAO, browser, None, FakeFetcher(), clock)
    source = WebSource(*parts, call_human=told.append if human else None)
    result = source.search(QUERY, 4)
    result = source.wait_for_human(QUERY, 4) or result
    return result, browser, told, clock.time - 1_700_000_000.0


def test_a_puzzle_that_is_answered_lets_the_search_go_on() -> None:
    result, browser, told, _ = search(*[PUZZLE] * 20, results(4))
    assert result.state is PageState.RESULTS and len(result.candidates) == 4
    assert len(told) == 1 and "网站需要您本人验证" in told[0]
    assert browser.log == ["single_window", TAOBAO.search_url(QUERY)]  # nothing was asked for meanwhile


def test_a_puzzle_that_nobody_answers_stays_one() -> None:
    result, browser, told, seconds = search(PUZZLE)
    assert result.state is PageState.CAPTCHA and len(told) == 1
    assert HUMAN_WAIT_S <= seconds < HUMAN_WAIT_S + 30 and browser.scrolls == 0


def test_without_a_human_nobody_waits() -> None:
    result, browser, told, seconds = search(PUZZLE, human=False)
    assert (result.state, browser.looks, told, seconds) == (PageState.CAPTCHA, 1, [], 0.0)


def test_a_refusal_is_no_question() -> None:
    result, _, told, seconds = search(DENIED)
    assert (result.state, told, seconds) == (PageState.DENIED, [], 0.0)
