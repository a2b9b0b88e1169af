"""The crawl's decisions against a scripted site: what is asked, what is stored."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from crawler.crawl import searchable
from crawler.types import Candidate, Outcome, PageState, Picture, Refusal, Refused, SearchResult
from tests.crawler.crawl_kit import Run
from tests.crawler.fakes import FakeClock, page, picture, refusing


def test_a_query_becomes_its_first_picture_with_provenance(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run("连衣裙", " 连衣裙 ", "袜子") == {"连衣裙": Outcome.OK, "袜子": Outcome.OK}
    assert [query for _, query in run.source.searches] == ["连衣裙", "袜子"]
    assert [url for _, url in run.source.fetches] == ["http://img/连衣裙/0.jpg", "http://img/袜子/0.jpg"]
    assert run.cache.get("连衣裙", 1) == tmp_path / "valid/连衣裙/1.jpg"
    kept = run.cache.provenance("连衣裙", 1)
    assert kept is not None
    assert (kept.source, kept.item_id, kept.image_url, kept.layout) == (
        "fake",
        "连衣裙-0",
        "http://img/http://img/连衣裙/0.jpg",
        "2025",
    )
    assert run.source.log == ["open", "login", "close"]
    assert (tmp_path / "mark_log/mark.txt").read_text(encoding="utf-8") == "连衣裙: 1\n袜子: 1\n"
    assert run.crawl.summary.complete


def test_what_is_cached_costs_no_request_and_opens_nothing(tmp_path: Path) -> None:
    Run(tmp_path)("连衣裙")
    run = Run(tmp_path)
    assert run("连衣裙", "！！！", "") == {
        "连衣裙": Outcome.CACHED,
        "！！！": Outcome.UNUSABLE_QUERY,
        "": Outcome.UNUSABLE_QUERY,
    }
    assert run.source.searches == [] and run.source.log == ["close"]


def test_missing_numbers_are_filled_with_pictures_the_query_has_not(tmp_path: Path) -> None:
    Run(tmp_path)("连衣裙")
    run = Run(tmp_path, pictures=3)
    run("连衣裙")
    assert set(run.cache.pictures("连衣裙")) == {1, 2, 3}
    assert run.crawl.summary.refused == {"duplicate": 1}  # the first candidate is picture 1
    stored = [run.cache.provenance("连衣裙", n) for n in (1, 2, 3)]
    assert len({kept.original_sha256 for kept in stored if kept}) == 3


def test_refused_candidates_make_room_for_the_next_up_to_eight(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.source.on_fetch = refusing(*[Refusal.FLAT] * 7)
    assert run("连衣裙") == {"连衣裙": Outcome.OK}
    assert len(run.source.fetches) == 8 and run.crawl.summary.refused == {"near_constant": 7}
    run = Run(tmp_path)
    run.source.on_fetch = refusing(*[Refusal.PLACEHOLDER] * 9)
    assert run("袜子") == {"袜子": Outcome.NO_GOOD_PICTURE}
    assert len(run.source.fetches) == 8
    assert run.cache.pictures("袜子") == {}
    assert (tmp_path / "mark_log/unurl.txt").read_text(encoding="utf-8") == "袜子: 1\n"


@pytest.mark.parametrize("reason", list(Refusal))
def test_a_refusal_is_tried_again_only_where_that_helps(tmp_path: Path, reason: Refusal) -> None:
    run = Run(
        tmp_path, [SearchResult(PageState.RESULTS, (Candidate("1", ("http://img/a", "http://img/b")),))]
    )
    run.source.on_fetch = lambda _candidate, url: Refused(reason, url, retry_after=7.0)
    run("连衣裙")
    urls = [url[-1] for _, url in run.source.fetches]
    if reason in (Refusal.THROTTLED, Refusal.TOO_SLOW):
        assert urls == ["a", "a"] and run.source.fetches[1][0] - run.source.fetches[0][0] >= 7.0
    elif reason in (Refusal.GONE, Refusal.STATUS, Refusal.TOO_SMALL, Refusal.TOO_FEW_BYTES):
        assert urls == ["a", "b"]
    else:
        assert urls == ["a"]


def test_the_same_picture_twice_is_stored_once(tmp_path: Path) -> None:
    run = Run(tmp_path, pictures=2)
    same = picture("same")

    def near(_candidate: Candidate, url: str) -> Picture:
        return (
            same
            if url.endswith("/0.jpg")
            else Picture(same.jpeg, "f" * 64, same.dhash ^ 1, url, "image/jpeg", 9, 9)
        )

    run.source.on_fetch = near
    assert run("连衣裙") == {"连衣裙": Outcome.NO_GOOD_PICTURE}
    assert set(run.cache.pictures("连衣裙")) == {1} and run.crawl.summary.refused == {"duplicate": 8}


def test_nothing_found_is_remembered_for_a_week(tmp_path: Path) -> None:
    clock = FakeClock()
    assert Run(tmp_path, [page(PageState.EMPTY)], clock=clock)("没有的") == {"没有的": Outcome.EMPTY}
    again = Run(tmp_path, clock=clock)
    assert again("没有的") == {"没有的": Outcome.EMPTY} and again.source.searches == []
    assert again.crawl.summary.complete
    clock.time += 7 * 86400 + 1
    assert Run(tmp_path, [page(PageState.EMPTY)], clock=clock)("没有的") == {"没有的": Outcome.EMPTY}
    assert Run(tmp_path, clock=clock, retry_misses=True)("没有的") == {"没有的": Outcome.OK}


@pytest.mark.parametrize("state", [PageState.LOADING, PageState.SERVER_ERROR])
def test_a_page_that_does_not_load_is_tried_three_times(tmp_path: Path, state: PageState) -> None:
    run = Run(tmp_path, [page(state)] * 2)
    assert run("连衣裙") == {"连衣裙": Outcome.OK}
    assert len(run.source.searches) == 3
    run = Run(tmp_path, [page(state)] * 3)
    assert run("袜子") == {"袜子": Outcome.LOAD_FAILED}


def test_a_site_that_answers_is_no_failure_whatever_its_pictures_are(tmp_path: Path) -> None:
    run = Run(tmp_path, pictures=5)
    run.source.on_fetch = lambda _candidate, url: picture(url) if "/0." in url else Refused(Refusal.FLAT, url)
    assert set(run(*[f"查询{n}" for n in range(9)]).values()) == {Outcome.NO_GOOD_PICTURE}
    assert run.crawl.summary.new_pictures == 9


@pytest.mark.parametrize("seconds", [None, 10.0, 3600.0])
def test_a_host_that_wants_fewer_requests_is_waited_for_or_left_alone(
    tmp_path: Path, seconds: float | None
) -> None:
    run = Run(tmp_path)
    run.source.on_fetch = lambda _candidate, url: Refused(Refusal.THROTTLED, url, retry_after=seconds)
    assert run("一") == {"一": Outcome.LOAD_FAILED}
    assert len(run.source.fetches) == (1 if seconds == 3600.0 else 16)  # 8 candidates, each twice
    assert sum(run.clock.slept) >= 8 * (seconds or 0) or seconds == 3600.0


def test_the_cap_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    run = Run(tmp_path, max_queries=2)
    outcomes = run("一", "二", "三")
    assert "三" not in outcomes and run.crawl.summary.capped and not run.crawl.summary.complete
    assert Run(tmp_path, max_queries=2)("一", "二", "三")["三"] is Outcome.OK


def test_requests_keep_the_pace(tmp_path: Path) -> None:
    run = Run(tmp_path, [page(PageState.SERVER_ERROR), page(PageState.LOGIN_WALL)], pictures=3)
    run(*[f"查询{n}" for n in range(20)])
    searches = [when for when, _ in run.source.searches]
    assert min(b - a for a, b in pairwise(searches)) >= 6.0
    fetches = [when for when, _ in run.source.fetches]
    assert min(b - a for a, b in pairwise(fetches)) >= 1.0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("红", True), ("a/b", True), ("😀", True), ("../x", True), ("ＡＢ", True), ("苹" * 100, True),
        ("", False), ("!?.,", False), ("。，！", False), ("苹" * 201, False), ("\ud800红", False),
    ],
)  # fmt: skip
def test_what_can_be_searched_for(query: str, expected: bool) -> None:
    assert searchable(query) is expected
