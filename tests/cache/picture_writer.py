"""A process that stores pictures, to be raced and killed: `python -m tests.cache.picture_writer …`."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from cache.picture_cache import PictureCache
from tests.cache.picture_kit import NOW, content, jpeg, origin

WRITING_CODE = {"picture_cache.py", "files.py"}  # of the package cache
QUERIES = ["A B", "AB", "ab", "红 裙", "红裙", "../x", "字" * 90]
ROUTES = {"kill": lambda root, seed: endless(root, seed), "race": lambda root, name: race(root, name)}


def plan(seed: str) -> Iterator[tuple[str, int, str]]:
    """What the endless writer does, known to whoever knows its seed: (query, number, label) without end; a
    number of 0 is a miss."""
    chance = random.Random(seed)
    turn = 0
    while True:
        turn += 1
        yield chance.choice(QUERIES), chance.choice([0, 1, 1, 1, 2]), f"{seed} {turn}"


def act(cache: PictureCache, query: str, number: int, label: str) -> None:
    if number:
        cache.put(query, number, jpeg(label), origin(label))
    else:
        cache.put_miss(query, "empty", label, now=NOW)


def endless(root: Path, seed: str) -> None:
    """Follow the plan, telling after each step that it is done."""
    cache = PictureCache(root)
    for query, number, label in plan(seed):
        act(cache, query, number, label)
        os.write(1, b".")


def race(root: Path, name: str) -> None:
    """Store pictures 1 and 2 of every query, in an order of one's own, once the other is ready too."""
    cache = PictureCache(root)
    work = [(query, number) for query in QUERIES * 5 for number in (1, 2)]
    random.Random(name).shuffle(work)
    os.write(1, b"r")
    sys.stdin.readline()
    for query, number in work:
        act(cache, query, number, f"{name} {query} {number}")


def die_everywhere(root: Path) -> None:
    """Store a picture in a child that kills itself at the 1st, 2nd, … line of the code that writes, until one
    survives; each time the picture that was there before or the new one is there."""
    new = jpeg("new")
    died = {"old": 0, "new": 0, "nothing": 0}
    for start in ("nothing", "legacy", "old"):
        step = 0
        while True:
            step += 1
            cache = PictureCache(root / f"{start} {step}")
            old = None
            if start != "nothing":
                act(cache, "红 裙", 1, "old")
                old = jpeg("old")
            if start == "legacy":
                (cache.directory("红 裙") / "meta.json").unlink()
            child = os.fork()
            if child == 0:
                die_at(step)
                act(cache, "红 裙", 1, "new")
                os._exit(0)
            _, status = os.waitpid(child, 0)
            found = content(PictureCache(cache.root), "红 裙")
            assert found in (old, new), f"step {step} of {start}: {found and len(found)} bytes"
            if step % 5 == 0:  # no lock is left, and nobody's name is lost
                act(PictureCache(cache.root), "红裙", 1, "other")
                assert content(cache, "红裙") == jpeg("other")
            if start != "legacy":  # there it may have claimed the old picture's folder
                assert content(cache, "红 裙") == found
            if status == 0:
                assert found == new
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
            died["nothing" if found is None else "old" if found == old else "new"] += 1
    sys.stdout.write(f"{died['nothing']} {died['old']} {died['new']}\n")


def die_at(step: int) -> None:
    """Kill this process at the `step`-th line it runs of WRITING_CODE."""
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        path = Path(frame.f_code.co_filename)
        if path.parent.name != "cache" or path.name not in WRITING_CODE:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


if __name__ == "__main__":
    route, folder, *rest = sys.argv[1:]
    if route == "die":
        os.fsync = lambda _descriptor: None  # a killed process loses nothing that it wrote
        die_everywhere(Path(folder))
    else:
        ROUTES[route](Path(folder), *rest)
