"""What a learner gets from a crawl, whatever becomes of the crawl, and how long it waits."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cache.picture_cache import PictureCache
from crawler.presence import Presence
from run_scripts import online_crawler
from run_scripts.online_crawler import AskedQueries, Crawler
from run_scripts.online_settings import SourceSettings
from run_scripts.online_source import CrawledPictures, open_image_source
from tests.cache.picture_kit import jpeg
from tests.run_scripts.fake_crawl import commands, starts
from tests.run_scripts.online_kit import PLENTY_S, ROOT, fetch, fill, learner, numbers_of, reasons


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PictureCache:
    monkeypatch.chdir(ROOT)  # where the stand-in for a crawl is found
    return PictureCache(tmp_path / "valid")


def test_what_is_missing_is_crawled_and_what_is_there_is_not(cache: PictureCache) -> None:
    fill(cache, "有的")
    queries = ["有的", "新的", "没有的"]
    with learner(cache, "works") as source:
        source.prefetch(queries)
        found = fetch(source, queries, [2])
        assert numbers_of(found["有的"]) == numbers_of(found["新的"]) == [2]
        assert reasons(found) == {"没有的": "empty"}
        assert numbers_of(fetch(source, ["又一"], [1, 2, 3, 4, 5])["又一"]) == [1, 2, 3, 4, 5]
    assert starts(cache.root) == ["1000"]
    log = (cache.root.parent / "mark_log/events.jsonl").read_text(encoding="utf-8")
    asked = [json.loads(line)["query"] for line in log.splitlines()]
    assert sorted(asked) == sorted(["新的", "没有的", "又一"])


def test_a_full_cache_needs_no_crawl(cache: PictureCache) -> None:
    fill(cache, "红裙")
    cache.put_miss("没有", "empty", "", now=time.time())
    with learner(cache, "works") as source:
        source.prefetch(["红裙", "没有"])
        found = fetch(source, ["红裙"], [5])
    assert numbers_of(found["红裙"]) == [5] and starts(cache.root) == []


def test_a_number_that_no_crawl_looks_for_is_not_waited_for(cache: PictureCache) -> None:
    with learner(cache, "works", pictures=2) as source:
        found = fetch(source, ["红裙"], [2, 3])
        assert numbers_of(found["红裙"]) == [2]
        assert reasons(fetch(source, ["红裙"], [4])) == {"红裙": "no further picture"}


def test_no_longer_than_the_deadline(cache: PictureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.provider.STOP_TIMEOUT_S", 0.2)
    fill(cache, "有的")
    with learner(cache, "hangs") as source:
        started = time.monotonic()
        source.prefetch(["有的", "新的"])
        found = fetch(source, ["有的", "新的"], [1], wait_s=1.0)
        assert 1.0 <= time.monotonic() - started < 10
    assert numbers_of(found["有的"]) == [1] and reasons(found) == {"新的": "deadline"}


def test_a_crawl_that_dies_costs_no_time_and_is_started_again_in_the_next_round(cache: PictureCache) -> None:
    queries = ["一", "二", "三"]
    with learner(cache, "dies", "works") as source:
        source.prefetch(queries)
        found = fetch(source, queries)
        assert numbers_of(found["一"]) == [1]
        assert reasons(found) == {"二": "the crawler has ended", "三": "the crawler has ended"}
        assert reasons(fetch(source, queries)) == {"二": "not in the cache", "三": "not in the cache"}
        assert starts(cache.root) == ["1000"]  # once a round
        source.prefetch(queries)
        assert reasons(fetch(source, queries)) == {}
    assert starts(cache.root) == ["1000", "999"]  # what one has asked, the next may not


def test_after_a_block_nothing_is_tried_again(cache: PictureCache) -> None:
    with learner(cache, "blocked", "works") as source:
        for _ in range(3):
            source.prefetch(["一"])
            assert reasons(fetch(source, ["一"])) == {"一": "stopped by captcha"}
    assert starts(cache.root) == ["1000"]


@pytest.mark.parametrize("code", [3, 4, 5, 130])
def test_what_needs_a_human_is_not_tried_again(cache: PictureCache, code: int) -> None:
    crawler = Crawler(cache, lambda _: [sys.executable, "-c", f"import sys; sys.exit({code})"], 9)
    source = CrawledPictures("shop", cache, crawler, 5)
    for _ in range(2):
        source.prefetch(["一"])
        found = fetch(source, ["一"])
    crawler.close()
    assert reasons(found) == {"一": online_crawler.FINAL[code]}


def test_the_queries_of_a_run_are_counted_over_all_its_crawls(cache: PictureCache) -> None:
    queries = ["一", "二", "三"]
    with learner(cache, "dies", "works", cap=2) as source:
        for _ in range(3):
            source.prefetch(queries)
            found = fetch(source, queries)
    assert starts(cache.root) == ["2", "1"]
    assert reasons(found) == {"三": "the cap of queries a run"}


def test_a_crawl_that_never_starts_is_tried_a_few_times(cache: PictureCache) -> None:
    with learner(cache, "crashes") as source:
        for _ in range(8):
            source.prefetch(["一"])
            found = fetch(source, ["一"])
    assert len(starts(cache.root)) == online_crawler.MAX_STARTS
    assert reasons(found) == {"一": "it was started 5 times"}


def test_a_program_that_cannot_be_started_is_a_miss(cache: PictureCache) -> None:
    crawler = Crawler(cache, lambda _: ["/nonexistent/python"], 9)
    source = CrawledPictures("shop", cache, crawler, 5)
    source.prefetch(["一"])
    assert reasons(fetch(source, ["一"])) == {"一": "not in the cache"}
    crawler.close()


def test_a_crawl_that_hangs_is_ended_after_a_while(
    cache: PictureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.provider.STOP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(online_crawler, "HANG_S", 0.8)
    with learner(cache, "hangs", "works") as source:
        source.prefetch(["一"])
        started = time.monotonic()
        while not starts(cache.root):
            assert time.monotonic() - started < PLENTY_S
            time.sleep(0.02)
        started = time.monotonic()
        for _ in range(2):
            source.prefetch(["一"])
            assert reasons(fetch(source, ["一"], wait_s=0.5)) == {"一": "deadline"}
        assert time.monotonic() - started < 15
        source.prefetch(["一"])
        assert numbers_of(fetch(source, ["一"])["一"]) == [1]
    assert len(starts(cache.root)) == 2


def test_a_cache_that_another_crawl_fills_is_only_read(cache: PictureCache) -> None:
    fill(cache, "有的")
    with Presence(cache.root), learner(cache, "works") as source:
        source.prefetch(["有的", "新的"])
        found = fetch(source, ["有的", "新的"])
        assert numbers_of(found["有的"]) == [1] and reasons(found) == {"新的": "not in the cache"}
    assert starts(cache.root) == []


def test_nothing_starts_after_the_end(cache: PictureCache) -> None:
    with learner(cache, "works") as source:
        pass
    source.prefetch(["一"])
    assert reasons(fetch(source, ["一"])) == {"一": "closed"} and starts(cache.root) == []


def test_queries_are_counted_from_now_on(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    line = '{"ts": "t", "outcome": "ok", "query": "红"}\n'
    events.write_text(line * 3, encoding="utf-8")
    asked = AskedQueries(events)
    assert asked.count() == 0
    with events.open("a", encoding="utf-8") as file:
        file.write(line + '{"ts": "t", "outcome": "stopped"}\n' + line[:20])
    assert asked.count() == 1
    with events.open("a", encoding="utf-8") as file:
        file.write(line[20:])
    assert asked.count() == asked.count() == 2
    events.write_text(line, encoding="utf-8")  # begun anew
    assert asked.count() == 3
    events.unlink()
    assert asked.count() == 3


def test_a_real_crawl_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cnclip crawl` itself, with pictures from a folder."""
    monkeypatch.chdir(ROOT)
    for name in ("红裙/a", "红裙/b", "番茄/c"):
        path = tmp_path / "pictures" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(name, (300, 300)))
    settings = SourceSettings(tmp_path, source="folder", folder=tmp_path / "pictures")
    with open_image_source(settings, "test") as source:
        assert source.name == "folder"
        queries = ["红裙", " 番茄 ", "没有"]
        source.prefetch(queries)
        found = fetch(source, queries, [1, 2])
    assert numbers_of(found["红裙"]) == [1, 2] and numbers_of(found[" 番茄 "]) == [1]
    assert reasons(found) == {"没有": "empty"}
    assert (tmp_path / "test" / "红裙" / "2.jpg").is_file() and not (tmp_path / "valid").exists()


def test_the_crawl_ends_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    begun: list[online_crawler.CrawlerProcess] = []
    start: Callable[[Sequence[str]], online_crawler.CrawlerProcess] = online_crawler.CrawlerProcess

    def note(command: Sequence[str]) -> online_crawler.CrawlerProcess:
        begun.append(start(command))
        return begun[-1]

    monkeypatch.setattr(online_crawler, "CrawlerProcess", note)
    monkeypatch.setattr(
        SourceSettings, "crawl_command", lambda _, root, most: commands(root, ["works"])(most)
    )
    (tmp_path / "pictures" / "一").mkdir(parents=True)
    settings = SourceSettings(tmp_path, source="folder", folder=tmp_path / "pictures")
    with pytest.raises(KeyboardInterrupt), open_image_source(settings) as source:
        fetch(source, ["一"])
        assert begun[0].alive
        raise KeyboardInterrupt
    assert len(begun) == 1 and not begun[0].alive
