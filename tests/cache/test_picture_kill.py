"""Writers that are killed: no half file, nothing lost that was acknowledged."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cache.picture_cache import PictureCache
from cache.picture_content import own_problem
from cache.picture_health import Kind, verify
from cache.picture_prune import prune
from tests.cache.picture_kit import NOW, content, jpeg
from tests.cache.picture_writer import QUERIES, plan

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.cache.picture_writer"]


@pytest.mark.slow
def test_killed_at_every_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "die", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    nothing, old, new = map(int, done.stdout.split())
    assert nothing > 50 and old > 50 and new > 5


@pytest.mark.slow
def test_killed_at_random(tmp_path: Path) -> None:
    root = tmp_path / "valid"
    stored: dict[tuple[str, int], str] = {}  # what was acknowledged last
    misses: dict[str, str] = {}
    acknowledged = 0
    for turn in range(35):
        steps = kill_after(root, str(turn), random.Random(turn).uniform(0, 0.15))
        acknowledged += len(steps) - 1
        *done, (query, number, label) = steps
        for done_query, done_number, done_label in done:
            if done_number:
                stored[done_query, done_number] = done_label
                misses.pop(done_query, None)
            else:
                misses[done_query] = done_label
        cache = PictureCache(root)
        for key in itertools.product(QUERIES, (1, 2)):
            found = content(cache, *key)
            wanted = [jpeg(stored[key])] if key in stored else [None]
            if key == (query, number):  # it was at work on this one
                wanted.append(jpeg(label))
            assert found in wanted
            if found is not None and found == wanted[-1] and key == (query, number):
                stored[key] = label
        for other in QUERIES:
            miss = cache.miss(other, now=NOW)
            if other != query:
                assert (miss.detail if miss else None) == misses.get(other)
            elif miss:
                misses[other] = miss.detail
            else:
                misses.pop(other, None)
        for path in root.glob("*/[0-9]*.jpg"):
            assert own_problem(path.read_bytes()) == ""
    assert acknowledged > 100
    # What the kills left behind is no more than prune takes away.
    later = time.time() + 3600
    left = {problem.kind for problem in verify(PictureCache(root), now=later)}
    assert left <= {Kind.LEFTOVER, Kind.MISSING, Kind.EMPTY}
    prune(PictureCache(root), now=later)
    assert verify(PictureCache(root), now=later) == []
    assert all(content(PictureCache(root), *key) == jpeg(label) for key, label in stored.items())


def kill_after(root: Path, seed: str, seconds: float) -> list[tuple[str, int, str]]:
    """Let the endless writer work for `seconds` after its first step; what it did, last what it was at."""
    with subprocess.Popen([*COMMAND, "kill", str(root), seed], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.read(1) == b"."
        time.sleep(seconds)
        writer.kill()
        steps = 1 + len(writer.stdout.read())
    return list(itertools.islice(plan(seed), steps + 1))
