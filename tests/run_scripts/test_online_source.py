"""What a learner gets from a cache alone, and that nothing is started for it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.picture_cache import PictureCache
from run_scripts.online_source import CachedPictures
from tests.cache.picture_kit import jpeg, origin
from tests.run_scripts.online_kit import ROOT, fetch, fill, learner, numbers_of, reasons


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PictureCache:
    monkeypatch.chdir(ROOT)  # where the stand-in for a crawl is found
    return PictureCache(tmp_path / "valid")


def test_a_cached_picture_comes_with_its_bytes_and_its_origin(cache: PictureCache) -> None:
    path = cache.put("红裙", 1, jpeg("a"), origin("红裙"))
    legacy = cache.root / "番茄" / "2.jpg"
    legacy.parent.mkdir()
    legacy.write_bytes(jpeg("b"))
    found = fetch(CachedPictures(cache), ["红裙", "番茄"], [1, 2])
    (dress,), (tomato,) = found["红裙"], found["番茄"]  # type: ignore[misc]
    assert (dress.query, dress.number, dress.data) == ("红裙", 1, path.read_bytes())
    assert dress.origin == {
        "source": "shop", "page_url": "https://s.example/?q=1", "title": "标题 红裙", "file": str(path),
        "image_url": "https://img.example/1.jpg", "fetched_at": "2026-12-01T10:00:00+00:00",
    }  # fmt: skip
    assert (tomato.number, tomato.data, tomato.origin) == (2, legacy.read_bytes(), {"file": str(legacy)})


@pytest.mark.parametrize(
    ("numbers", "found"), [([1], [1]), ([3], [3]), ([5, 1, 1], [1, 5]), ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])]
)
def test_the_numbers_that_are_asked_for(cache: PictureCache, numbers: list[int], found: list[int]) -> None:
    fill(cache, "红裙")
    with learner(cache, "works") as crawled:
        for source in (CachedPictures(cache), crawled):
            assert numbers_of(fetch(source, ["红裙"], numbers)["红裙"]) == found


def test_misses_say_why(cache: PictureCache) -> None:
    fill(cache, "两张", pictures=2)
    cache.put_miss("没有", "empty", "", now=time.time())
    (cache.put("坏的", 3, jpeg("c"), origin())).write_bytes(b"broken")
    found = fetch(CachedPictures(cache), ["两张", "没有", "坏的", "从未"], [3])
    assert reasons(found) == {
        "两张": "no further picture", "没有": "empty", "坏的": "not in the cache", "从未": "not in the cache",
    }  # fmt: skip


def test_a_cache_that_cannot_be_read_is_a_miss(cache: PictureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CacheError("disk gone")

    monkeypatch.setattr(PictureCache, "picture", fail)
    with learner(cache, "works") as crawled:
        for source in (CachedPictures(cache), crawled):
            assert reasons(fetch(source, ["红裙"])) == {"红裙": "the cache cannot be read"}


def test_each_picture_is_read_once(cache: PictureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, "红裙", "番茄")
    opened: list[str] = []
    whole = Path.open

    def count(path: Path, *args: object, **kwargs: object) -> object:
        opened.append(path.name)
        return whole(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", count)
    fetch(CachedPictures(cache), ["红裙", "番茄"], [1, 2])
    assert sorted(name for name in opened if name.endswith(".jpg")) == ["1.jpg", "1.jpg", "2.jpg", "2.jpg"]


def test_the_cache_alone_starts_no_process_and_loads_no_browser(cache: PictureCache) -> None:
    """In a Python that dies if anything is started, forked, connected to, or written in the cache."""
    fill(cache, "红裙")
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import cnclip.online.source
FORBIDDEN = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.", "socket.")
LOADED = ("crawler.browser", "crawler.login", "selenium", "torch")
def forbid(event, arguments):
    started = event.startswith(FORBIDDEN)
    written = event == "open" and str(arguments[0]).startswith({str(cache.root)!r}) and arguments[2] & 3
    if started or written or event == "os.mkdir":
        os.write(2, repr((event, arguments)).encode())
        os._exit(99)
sys.addaudithook(forbid)
from run_scripts.online_source import SourceSettings, open_image_source
with open_image_source(SourceSettings(Path({str(cache.root.parent)!r}), cache_only=True)) as source:
    source.prefetch(["红裙", "番茄"])
    answers = source.fetch(["红裙", "番茄"], [1, 2], time.monotonic() + 60)
print([len(getattr(answer, "reason", answer)) for answer in answers.values()], source.name)
print([name for name in sys.modules if name.startswith(LOADED)])
"""
    started = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd="/",
        env={"PATH": "/nonexistent", "LANG": "C.UTF-8"},
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (0, f"[2, {len('not in the cache')}] cache\n[]\n"), (
        answer.stderr
    )
    assert time.monotonic() - started < 50  # nobody was waited for
