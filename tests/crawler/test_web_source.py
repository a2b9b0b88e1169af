from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from crawler.browser_errors import BrowserDied, PageError
from crawler.profile import Profile
from crawler.snapshot import Image, Rect, Snapshot
from crawler.sources.web import POLL_S, SETTLE_S, WebSource
from crawler.types import Candidate, PageState, Picture, Refusal, Refused, SearchResult
from tests.crawler.fakes import FakeClock
from tests.crawler.snapshot_builders import (
    QUERY,
    TAOBAO,
    frame,
    heading,
    node,
    page,
    results,
    row,
    rows,
)

S = PageState
WAIT_S = TAOBAO.search.wait_s
FULL = Rect(0, 0, 1366, 900)
SKELETON = page(busy=4)
EMPTY = page(probes=(node("empty", ".item-not-found", Rect(10, 100, 600, 40)),))
GENERIC = page(rows=rows(4))


class FakeBrowser:
    """Shows one snapshot after the other, the last one for ever; an exception in between is raised."""

    def __init__(self, shows: Sequence[Snapshot | Exception], loads: bool = True) -> None:
        self.shows, self.loads = list(shows), loads
        self.log: list[str] = []
        self.looks = self.scrolls = 0

    def script(self, _code: str, *arguments: object) -> Any:
        if not arguments:
            self.scrolls += 1
            return None
        self.looks += 1
        shown = self.shows.pop(0) if len(self.shows) > 1 else self.shows[0]
        if isinstance(shown, Exception):
            raise shown
        return json.loads(json.dumps(dataclasses.asdict(shown)))

    def goto(self, url: str) -> bool:
        self.log.append(url)
        return self.loads

    def __getattr__(self, name: str) -> Any:
        return lambda: self.log.append(name)


class FakeFetcher:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.closed = 0

    def fetch(self, url: str, referer: str = "") -> Picture | Refused:
        self.asked.append((url, referer))
        return Refused(Refusal.GONE, url)

    def close(self) -> None:
        self.closed += 1


def make(browser: object, profile: Profile = TAOBAO, clock: object = None, **parts: Any) -> WebSource:
    fetcher = parts.get("fetcher", FakeFetcher())
    login = parts.get("login", lambda: None)
    return WebSource(profile, browser, login, fetcher, clock)  # type: ignore[arg-type]


def search(
    *shows: Snapshot | Exception, limit: int = 4, loads: bool = True
) -> tuple[SearchResult, FakeBrowser, float]:
    """What a search says, its browser, and the seconds it took."""
    browser, clock = FakeBrowser(shows, loads), FakeClock()
    start = clock.time
    result = make(browser, clock=clock).search(QUERY, limit)
    return result, browser, clock.time - start


def items(result: SearchResult) -> list[str]:
    return [candidate.item_id for candidate in result.candidates]


def test_results_need_two_looks() -> None:
    result, browser, seconds = search(results(4))
    assert result.state is S.RESULTS and result.layout == "2025" and len(result.candidates) == 4
    assert browser.looks == 2 and seconds == POLL_S
    assert browser.log == ["single_window", TAOBAO.search_url(QUERY)]
    assert result.url == results().url and browser.scrolls == 0
    assert len(search(results(9), limit=3)[0].candidates) == 3


def test_results_that_are_drawn_again_need_more() -> None:
    redrawn = results(layouts={"2025": tuple(row(number) for number in (3, 2, 1, 0))})
    result, browser, _ = search(SKELETON, page(), results(2), redrawn)
    assert items(result) == ["1003", "1002", "1001", "1000"]
    assert browser.looks == 5


def test_empty_needs_two_looks() -> None:
    result, browser, _ = search(EMPTY)
    assert result.state is S.EMPTY and browser.looks == 2
    result, browser, _ = search(EMPTY, results(4))
    assert result.state is S.RESULTS and browser.looks == 3


def test_recommendations_are_not_given_as_candidates() -> None:
    said = node("empty", "没有找到与", Rect(10, 100, 600, 40))
    result, _, _ = search(results(4, texts=(said,)))
    assert result.state is S.EMPTY and result.candidates == () and result.layout == ""


def test_empty_beside_skeletons_may_change() -> None:
    early = dataclasses.replace(EMPTY, busy=2)
    assert search(*[early] * 8, results(4))[0].state is S.RESULTS
    result, _, seconds = search(early)
    assert result.state is S.EMPTY and seconds == SETTLE_S


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (page(probes=(node("captcha", "#nc_1_n1z", FULL),)), S.CAPTCHA),
        (page(url="https://s.taobao.com/_____tmd_____/punish?x5secdata=1"), S.CAPTCHA),
        (page(texts=(node("throttle", "RGV587_ERROR", FULL),)), S.THROTTLED),
        (page(texts=(node("deny", "cloud_ip_bl", FULL),)), S.DENIED),
        (page(url="https://passport.taobao.com/iv/x"), S.IDENTITY_CHECK),
        (page(url="https://login.taobao.com/member/login.jhtml"), S.LOGIN_WALL),
        (page(status=502), S.SERVER_ERROR),
        (page(url="chrome-error://chromewebdata/"), S.SERVER_ERROR),
    ],
)
def test_what_stops_a_search_is_said_at_once(shown: Snapshot, expected: PageState) -> None:
    result, browser, seconds = search(shown)
    assert result.state is expected and result.candidates == () and result.detail
    assert browser.looks == 1 and seconds == 0
    assert search(SKELETON, results(3), shown)[0].state is expected


def test_product_links_alone_wait_for_a_known_layout() -> None:
    result, _, seconds = search(GENERIC)
    assert result.state is S.RESULTS and result.layout == "generic" and seconds == SETTLE_S
    assert search(*[GENERIC] * 6, results(4))[0].layout == "2025"


def test_product_links_of_a_page_that_still_loads_wait_till_the_end() -> None:
    result, _, seconds = search(dataclasses.replace(GENERIC, ready_state="interactive"))
    assert result.state is S.RESULTS and result.layout == "generic" and seconds == WAIT_S


@pytest.mark.parametrize(
    ("shown", "expected", "detail"),
    [
        (page(), S.UNKNOWN, "no products"),
        (page(rows=rows(2)), S.UNKNOWN, "do not form one list"),
        (page(url="https://www.example.com/search"), S.UNKNOWN, "not a page of the site: www.example.com"),
        (results(query_box="手机"), S.UNKNOWN, "another query: '手机'"),
        (results(texts=(heading((1, 3), y=150),)), S.UNKNOWN, "recommendation heading"),
        (SKELETON, S.LOADING, "no products yet"),
        (results(layouts={"2025": rows(3, images=())}), S.LOADING, "3 products without a picture"),
    ],
)
def test_the_rest_is_said_when_its_time_is_over(shown: Snapshot, expected: PageState, detail: str) -> None:
    result, _, seconds = search(shown)
    assert result.state is expected and detail in result.detail and result.candidates == ()
    assert seconds == WAIT_S


def test_results_may_come_at_the_last_moment() -> None:
    result, _, seconds = search(*[SKELETON] * int(WAIT_S / POLL_S), results(4), results(4))
    assert result.state is S.LOADING and seconds == WAIT_S
    assert search(*[SKELETON] * int(WAIT_S / POLL_S - 1), results(4))[0].state is S.RESULTS


def test_results_that_never_stay_the_same_are_none() -> None:
    changing = [results(1 + number % 2) for number in range(200)]
    result, _, seconds = search(*changing)
    assert result.state is S.LOADING and result.detail == "the results kept changing" and seconds == WAIT_S


def test_a_side_frame_counts_when_nothing_else_came() -> None:
    side = frame("https://s.taobao.com/_____tmd_____/punish?action=captcha", Rect(1080, 150, 250, 200))
    assert search(page(frames=(side,)), results(4, frames=(side,)))[0].state is S.RESULTS
    result, _, seconds = search(page(frames=(side,)))
    assert result.state is S.CAPTCHA and seconds == WAIT_S


def test_no_token_in_the_address_that_is_logged() -> None:
    result, _, _ = search(
        page(url="https://s.taobao.com/_____tmd_____/punish?x5secdata=SECRET&action=captcha")
    )
    assert result.url == "https://s.taobao.com/_____tmd_____/punish?x5secdata=[redacted]&action=captcha"


# --- Scrolling


def _partly(loaded: int, *, bottom: bool) -> Snapshot:
    nothing: tuple[Image, ...] = ()
    cards = tuple(row(number) if number < loaded else row(number, images=nothing) for number in range(9))
    return results(layouts={"2025": cards}, scroll_height=900 if bottom else 3000)


def test_scrolls_until_there_are_enough_pictures() -> None:
    two, four = _partly(2, bottom=False), _partly(4, bottom=False)
    result, browser, _ = search(two, two, four, four, limit=4)
    assert len(result.candidates) == 4 and browser.scrolls == 1
    result, browser, _ = search(two, two, two, four, limit=4)
    assert len(result.candidates) == 4 and browser.scrolls == 2


def test_scrolls_for_the_first_picture_too() -> None:
    none = _partly(0, bottom=False)
    result, browser, _ = search(none, none, _partly(4, bottom=False), limit=4)
    assert len(result.candidates) == 4 and browser.scrolls == 1


def test_takes_what_there_is_at_the_bottom() -> None:
    result, browser, seconds = search(
        _partly(2, bottom=False), _partly(2, bottom=False), _partly(2, bottom=True)
    )
    assert len(result.candidates) == 2 and browser.scrolls == 1 and seconds < 1


def test_takes_what_there_is_at_the_end() -> None:
    result, browser, seconds = search(_partly(2, bottom=False))
    assert result.state is S.RESULTS and len(result.candidates) == 2 and seconds == WAIT_S
    assert browser.scrolls > 10


# --- Loading, and a browser that does not answer


@pytest.mark.parametrize("shown", [Snapshot("about:blank", "complete"), page(), SKELETON])
def test_a_page_that_did_not_load(shown: Snapshot) -> None:
    result, _, seconds = search(shown, loads=False)
    assert result.state is S.SERVER_ERROR and "did not load in time" in result.detail
    assert seconds == SETTLE_S


def test_a_page_that_did_not_load_to_its_end_may_do() -> None:
    assert search(results(4), loads=False)[0].state is S.RESULTS
    assert search(EMPTY, loads=False)[0].state is S.EMPTY


def test_a_page_that_goes_away_meanwhile() -> None:
    assert search(PageError("aborted by navigation"), results(4))[0].state is S.RESULTS
    result, _, seconds = search(PageError("script timed out"))
    assert result.state is S.LOADING and result.url == TAOBAO.search_url(QUERY) and seconds == WAIT_S


def test_a_browser_that_died_is_no_page() -> None:
    with pytest.raises(BrowserDied):
        search(SKELETON, BrowserDied("gone"))


def test_a_query_the_site_cannot_spell() -> None:
    latin = TAOBAO.model_copy(update={"search": TAOBAO.search.model_copy(update={"encoding": "gbk"})})
    browser = FakeBrowser([page()])
    result = make(browser, latin).search("👗", 4)
    assert result.state is S.EMPTY and "gbk" in result.detail and browser.log == []


# --- The rest of the source


def test_pictures_are_fetched_with_a_referer() -> None:
    fetcher = FakeFetcher()
    candidate = Candidate(
        "1", ("https://i/1.jpg", "https://i/2.jpg"), page_url="https://s.taobao.com/search?q=x"
    )
    source = make(FakeBrowser([page()]), fetcher=fetcher)
    assert isinstance(source.fetch(candidate, "https://i/2.jpg"), Refused)
    assert fetcher.asked == [("https://i/2.jpg", "https://s.taobao.com/search?q=x")]
    pictures = TAOBAO.pictures.model_copy(update={"referer": "https://www.taobao.com/"})
    make(object(), TAOBAO.model_copy(update={"pictures": pictures}), fetcher=fetcher).fetch(candidate, "u")
    assert fetcher.asked[1] == ("u", "https://www.taobao.com/")


def test_open_session_close() -> None:
    browser, fetcher, logins = FakeBrowser([page()]), FakeFetcher(), []
    source = make(browser, fetcher=fetcher, login=lambda: logins.append(1))
    source.open()
    source.ensure_session()
    source.close()
    source.close()
    assert source.name == "taobao" and browser.log == ["start", "close", "close"]
    assert logins == [1] and fetcher.closed == 2
