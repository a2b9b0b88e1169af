"""Several writers and readers at once."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cache.errors import CacheError
from cache.picture_archive import export_archive
from cache.picture_cache import PictureCache
from cache.picture_folder import Folder
from cache.picture_health import verify
from cache.picture_import import import_archive
from tests.cache.picture_kit import NOW, content, jpeg, put
from tests.cache.picture_writer import QUERIES, plan

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.cache.picture_writer", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_two_writers_of_the_same_queries(tmp_path: Path) -> None:
    with start("race", str(tmp_path), "one") as one, start("race", str(tmp_path), "two") as two:
        for writer in (one, two):
            assert writer.stdout and writer.stdout.read(1) == b"r"
        for writer in (one, two):
            assert writer.stdin
            writer.stdin.write(b"go\n")
            writer.stdin.close()
    assert (one.returncode, two.returncode) == (0, 0)
    cache = PictureCache(tmp_path)
    for query, number in itertools.product(QUERIES, (1, 2)):
        assert content(cache, query, number) in [jpeg(f"{name} {query} {number}") for name in ("one", "two")]
    folders = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(folders) == len(QUERIES)
    assert len({path.name.lower() for path in folders}) == len(folders)
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"meta.json", "1.jpg", "2.jpg"}


def test_reading_while_another_process_replaces(tmp_path: Path) -> None:
    """A picture that was there once is there at every moment, whole."""
    seed = "reader"
    with start("kill", str(tmp_path), seed) as writer:
        assert writer.stdout
        writer.stdout.read(30)
        steps = list(itertools.islice(plan(seed), 5000))
        there = {(query, number) for query, number, _ in steps[:30] if number}
        labels = {key: {label for query, number, label in steps if (query, number) == key} for key in there}
        known = {key: {jpeg(label) for label in labels[key]} for key in there}
        cache = PictureCache(tmp_path)
        for _ in range(60):
            for key in there:
                path = cache.get(*key)
                assert path is not None
                assert path.read_bytes() in known[key]
        writer.kill()


@pytest.fixture
def replaced_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PictureCache:
    """A cache whose picture of 红 is replaced between the next reader's look at sidecar and file."""
    cache = PictureCache(tmp_path / "valid")
    put(cache, "红", label="old")
    look = Folder.picture
    calls: list[int] = []

    def late(self: Folder, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            put(PictureCache(cache.root), "红", label="new")
        return look(self, *arguments)

    monkeypatch.setattr(Folder, "picture", late)
    return cache


def test_a_picture_that_is_replaced_while_it_is_read(replaced_midway: PictureCache) -> None:
    assert content(replaced_midway, "红") == jpeg("new")


def test_a_picture_that_is_replaced_while_it_is_verified(replaced_midway: PictureCache) -> None:
    assert verify(replaced_midway, now=NOW) == []


def test_a_picture_that_is_replaced_while_it_is_exported(
    replaced_midway: PictureCache, tmp_path: Path
) -> None:
    assert export_archive([replaced_midway], tmp_path / "x.tar").splits["valid"]["pictures"] == 1
    import_archive(tmp_path / "x.tar", tmp_path / "there", now=NOW)
    assert content(PictureCache(tmp_path / "there" / "valid"), "红") == jpeg("new")


def test_a_lock_keeps_threads_and_processes_out(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)
    events: list[str] = []

    def other() -> None:
        with PictureCache(tmp_path).lock("A B"):
            events.append("other")

    with cache.lock("AB"):
        with cache.lock("AB"), PictureCache(tmp_path).lock("ab"):  # the same thread may
            put(cache, "AB")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        with start("race", str(tmp_path), "one") as writer:
            assert writer.stdin and writer.stdout
            writer.stdout.read(1)
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.5)
            events.append("mine")
            writer.kill()
    thread.join()
    assert events == ["mine", "other"]


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)
    failures: list[str] = []

    def other() -> None:
        try:
            with cache.lock("红", timeout_s=0.1):
                failures.append("it let me in")
        except CacheError as error:
            failures.append(str(error))

    with cache.lock("红"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert failures == [f"{tmp_path}: another process has been at work on '红' for 0.1 s"]
    with cache.lock("红", timeout_s=0.1):
        pass


def test_threads_that_store_at_once(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path)

    def work(number: int) -> None:
        for query in QUERIES:
            put(cache, query, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for query, number in itertools.product(QUERIES, (1, 2, 3)):
        assert content(cache, query, number) == jpeg(f"{query} {number}")


def test_locks_stay_in_the_cache(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "valid"
    root.mkdir()
    (root / ".locks").symlink_to(outside)
    with pytest.raises(CacheError, match=r"\.locks: a link that leads out of the cache"):
        put(PictureCache(root), "红")
    assert not list(outside.iterdir())
