"""Pace, breaker and cool-down, on a clock that only moves when somebody sleeps."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crawler.errors import BlockedError, CrawlError, SettingsError
from crawler.policy import FORGIVEN_AFTER, Policy, read_state
from crawler.profile import Pace, load_profile
from crawler.types import PageState
from tests.crawler.fakes import FakeClock


def make(path: Path, clock: FakeClock, pace: Pace | None = None, *, resume: bool = False) -> Policy:
    return Policy(path / "state.json", pace or Pace(), clock, random.Random(0), resume=resume)


def test_searches_are_six_to_twelve_seconds_apart(tmp_path: Path) -> None:
    clock = FakeClock()
    policy = make(tmp_path, clock, load_profile("taobao").pace)
    starts, ends = [], []
    for _ in range(200):
        policy.wait_for_search()
        starts.append(clock.now())
        clock.time += 2.0
        ends.append(clock.now())
        policy.searched()
    gaps = [start - end for start, end in zip(starts[1:], ends, strict=False)]
    assert min(gaps) >= 6.0 and max(gaps) <= 12.0
    assert max(gaps) - min(gaps) > 4.0  # there is jitter
    assert starts[0] == clock.time - sum(gaps) - 200 * 2.0  # and no wait before the first


def test_the_pace_holds_across_runs_and_a_clock_set_back(tmp_path: Path) -> None:
    clock = FakeClock()
    make(tmp_path, clock).searched()
    clock.time += 1
    make(tmp_path, clock).wait_for_search()
    assert 5.0 <= clock.slept[-1] <= 11.0
    clock.time -= 1e6
    make(tmp_path, clock).wait_for_search()
    assert len(clock.slept) == 1


def test_pictures_are_a_second_apart(tmp_path: Path) -> None:
    clock = FakeClock()
    policy = make(tmp_path, clock)
    policy.wait_for_picture()
    assert clock.slept == []
    policy.fetched()
    clock.time += 0.25
    policy.wait_for_picture()
    assert clock.slept == [0.75]


def test_backing_off_grows_threefold(tmp_path: Path) -> None:
    clock = FakeClock()
    policy = make(tmp_path, clock)
    for attempt in range(3):
        policy.wait_for_retry(attempt)
    for slept, base in zip(clock.slept, (5, 15, 45), strict=True):
        assert base <= slept <= base + 5


def test_five_failures_in_a_row_stop_the_run(tmp_path: Path) -> None:
    policy = make(tmp_path, FakeClock())
    for _ in range(4):
        policy.failed("no page")
    policy.succeeded()
    for _ in range(4):
        policy.failed("no page")
    with pytest.raises(CrawlError, match="5 queries in a row failed \\(last: no page\\)"):
        policy.failed("no page")


def test_a_block_forbids_searching_until_the_user_resumes(tmp_path: Path) -> None:
    clock = FakeClock()
    error = make(tmp_path, clock).blocked(PageState.CAPTCHA)
    assert "30 min" in str(error) and "--resume" in str(error)
    for resume in (False, True):  # cooling down: not even with --resume
        with pytest.raises(BlockedError, match="no requests before"):
            make(tmp_path, clock, resume=resume).wait_for_search()
    clock.time += 1801
    with pytest.raises(BlockedError, match="go on with --resume"):
        make(tmp_path, clock).check()
    make(tmp_path, clock, resume=True).check()
    make(tmp_path, clock).check()  # once is enough


def test_the_cool_down_doubles_up_to_a_day_and_is_forgiven(tmp_path: Path) -> None:
    clock, minutes = FakeClock(), []
    for _ in range(8):
        make(tmp_path, clock).blocked(PageState.THROTTLED)
        minutes.append(round((read_state(tmp_path / "state.json").blocked_until - clock.now()) / 60))
        clock.time += 90_000
        make(tmp_path, clock, resume=True).check()
    assert minutes == [30, 60, 120, 240, 480, 960, 1440, 1440]
    policy = make(tmp_path, clock)
    for _ in range(FORGIVEN_AFTER):
        policy.succeeded()
    policy.searched()
    make(tmp_path, clock).blocked(PageState.CAPTCHA)
    assert round((read_state(tmp_path / "state.json").blocked_until - clock.now()) / 60) == 30


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"blocked_by": "nonsense"}',
        '{"blocked_by": "results"}',
        '{"odd": 1}',
        '{"last_search": "x"}',
        '{"last_search": Infinity}',
        '{"blocked_until": NaN}',
        '{"blocked_until": 1e300}',
    ],
)
def test_a_damaged_state_is_no_permission(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"state\.json: cannot be read"):
        make(tmp_path, FakeClock())
