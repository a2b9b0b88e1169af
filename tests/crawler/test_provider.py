"""What a learner gets, and how long it waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from cache.picture_cache import PictureCache
from cache.picture_meta import Provenance
from crawler.errors import CrawlError
from crawler.presence import LOCK_FILE, Presence, crawler_at_work, read_status
from crawler.provider import CrawlerProcess, Miss, PictureProvider
from crawler.types import Outcome, QueryReport
from tests.crawler.fakes import FakeClock, jpeg

ORIGIN = Provenance(
    source="test", item_id="1", image_url="http://img/1", page_url="", title="", layout="",
    original_sha256="0" * 64, fetched_at="2026-01-01T00:00:00+00:00", width=500, height=500, dhash="0" * 16,
)  # fmt: skip


class FakeOrder:
    """A crawler that puts a picture of each query into the cache when the clock has moved a while."""

    def __init__(
        self, cache: PictureCache, clock: FakeClock, seconds: float = 2.0, dies_after: int = 99
    ) -> None:
        self.cache, self.clock, self.seconds, self.left = cache, clock, seconds, dies_after
        self.requests: list[str] = []
        self.queued: list[str] = []
        self.ready: list[tuple[float, str]] = []

    def request(self, queries: Iterable[str], *, urgent: bool = False) -> None:
        fresh = list(queries)
        self.requests += [("!" if urgent else "") + query for query in fresh]
        names = fresh + self.queued if urgent else self.queued + fresh
        self.queued = list(dict.fromkeys(names))
        start = self.clock.now()
        self.ready = [(start + self.seconds * n, query) for n, query in enumerate(self.queued, 1)]

    @property
    def alive(self) -> bool:
        while self.ready and self.ready[0][0] <= self.clock.now() and self.left:
            query = self.ready.pop(0)[1]
            self.queued.remove(query)
            self.cache.put(query, 1, jpeg(), ORIGIN)
            self.left -= 1
        return self.left > 0


@pytest.fixture
def cache(tmp_path: Path) -> PictureCache:
    return PictureCache(tmp_path / "valid")


def test_pictures_that_are_there_are_given_at_once(cache: PictureCache) -> None:
    path = cache.put("袜子", 1, jpeg(), ORIGIN)
    clock = FakeClock()
    assert PictureProvider(cache, clock=clock).ensure(["袜子"], 1, clock.time + 9) == {"袜子": {1: path}}
    assert clock.slept == []


def test_the_cache_alone_is_asked_without_waiting(cache: PictureCache) -> None:
    path = cache.put("袜子", 1, jpeg(), ORIGIN)
    clock = FakeClock()
    provider = PictureProvider(cache, wait=False, clock=clock)
    found = provider.ensure(["袜子", "帽子"], 5, clock.time + 9)
    assert found == {"袜子": {1: path}, "帽子": Miss("not in the cache")}
    assert clock.slept == []


def test_missing_pictures_are_ordered_once_and_waited_for(cache: PictureCache) -> None:
    clock = FakeClock()
    order = FakeOrder(cache, clock)
    provider = PictureProvider(cache, order, clock=clock)
    provider.prefetch(["一", "二"])
    found = provider.ensure(["一", "二", "三"], 1, clock.time + 60)
    assert order.requests == ["一", "二", "!一", "!二", "!三"]
    assert all(not isinstance(answer, Miss) for answer in found.values())
    assert 6.0 <= sum(clock.slept) <= 6.5


def test_what_is_waited_for_comes_before_what_is_prefetched(cache: PictureCache) -> None:
    clock = FakeClock()
    provider = PictureProvider(cache, FakeOrder(cache, clock), clock=clock)
    provider.prefetch([f"查询{n}" for n in range(1000)])
    found = provider.ensure(["查询999"], 1, clock.time + 60)
    assert not isinstance(found["查询999"], Miss) and sum(clock.slept) < 3


def test_no_longer_than_the_deadline(cache: PictureCache) -> None:
    clock = FakeClock()
    found = PictureProvider(cache, FakeOrder(cache, clock), clock=clock).ensure(
        ["一", "二"], 1, clock.time + 3
    )
    assert not isinstance(found["一"], Miss) and found["二"] == Miss("deadline")
    assert sum(clock.slept) == pytest.approx(3.0, abs=0.3)


def test_a_crawler_that_dies_is_not_waited_for(cache: PictureCache) -> None:
    clock = FakeClock()
    clock.time = time.time() - 1
    provider = PictureProvider(cache, FakeOrder(cache, clock, dies_after=1), clock=clock)
    with Presence(cache.root) as presence:
        presence.stopped("stopped: captcha")
    found = provider.ensure(["一", "二"], 1, clock.time + 600)
    assert not isinstance(found["一"], Miss) and found["二"] == Miss("stopped: captcha")
    assert sum(clock.slept) < 4


def test_lasting_misses_and_what_the_crawler_passed_are_final(cache: PictureCache) -> None:
    clock = FakeClock()
    cache.put_miss("没有", "empty", "", now=time.time())
    with Presence(cache.root) as presence:
        presence.report(QueryReport("怪页", Outcome.UNKNOWN_LAYOUT))
        presence.report(QueryReport("好的", Outcome.OK, 1))
        provider = PictureProvider(cache, clock=clock)
        found = provider.ensure(["没有", "怪页"], 1, clock.time + 60)
    assert found == {"没有": Miss("empty"), "怪页": Miss("unknown_layout")}
    assert clock.slept == [] and set(read_status(cache.root, 0)[1]) == {"怪页"}


def test_what_an_earlier_run_left_behind_says_nothing(cache: PictureCache) -> None:
    with Presence(cache.root) as presence:
        presence.report(QueryReport("怪页", Outcome.UNKNOWN_LAYOUT))
        presence.stopped("stopped: captcha")
    clock = FakeClock(time.time() + 1)
    found = PictureProvider(cache, FakeOrder(cache, clock), clock=clock).ensure(["怪页"], 1, clock.time + 60)
    assert not isinstance(found["怪页"], Miss)


def test_fewer_pictures_than_wanted_are_given_where_there_are_no_more(cache: PictureCache) -> None:
    path = cache.put("少", 2, jpeg(), ORIGIN)
    cache.put_miss("少", "no_good_picture", "", now=time.time())
    clock = FakeClock()
    assert PictureProvider(cache, clock=clock).ensure(["少"], 5, clock.time + 60) == {"少": {2: path}}


def test_two_crawlers_never_fill_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.presence.LOCK_TIMEOUT_S", 0.1)
    assert not crawler_at_work(tmp_path)
    with Presence(tmp_path):
        assert crawler_at_work(tmp_path)
        with pytest.raises(CrawlError, match="another crawl"), Presence(tmp_path):
            pass
    assert not crawler_at_work(tmp_path)


def test_a_killed_crawler_is_noticed(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from crawler.presence import Presence\n"
    code += "with Presence(Path(sys.argv[1])): print('here', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"here\n"
        assert crawler_at_work(tmp_path)
        child.kill()
        child.wait()
    assert (tmp_path / LOCK_FILE).exists() and not crawler_at_work(tmp_path)


def test_a_crawler_process_gets_every_query_in_order(tmp_path: Path) -> None:
    """More than a pipe holds, to a process that takes its time."""
    out = tmp_path / "queries"
    code = "import sys, time; time.sleep(.2)\nwith open(sys.argv[1], 'w') as f:\n"
    code += "    for _ in range(3000): f.write(sys.stdin.readline())"
    queries = [f'查询 {n} "引号"  {"长" * 40}' for n in range(3000)]
    process = CrawlerProcess([sys.executable, "-c", code, str(out)])
    started = time.monotonic()
    process.request(queries)
    assert process.alive  # it has read nothing yet, and nobody waits for that
    while process.alive and time.monotonic() - started < 60:
        time.sleep(0.01)
    process.close()
    assert [json.loads(line)["query"] for line in out.read_text(encoding="utf-8").splitlines()] == queries
    assert not process.alive


def test_closing_a_crawler_process_ends_it_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.provider.STOP_TIMEOUT_S", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    process = CrawlerProcess([sys.executable, "-c", code])
    process.request(["一"] * 10_000)
    process.close()
    process.close()
    assert not process.alive
