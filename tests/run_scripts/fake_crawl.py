"""A stand-in for `cnclip crawl --queries -` that behaves as it is told: `fake_crawl.py CACHE HOW N MAX`.

HOW: "works" puts N pictures of each query into the cache; "dies" does so for one query and is killed; "hangs"
reads nothing and cannot be asked to end; "blocked" stops as for a captcha; "crashes" ends before anything.
Each start is a line of CACHE.starts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cache.picture_cache import PictureCache
from crawler.clock import SystemClock
from crawler.marks import Marks
from crawler.presence import Presence
from crawler.types import Outcome, PageState, QueryReport
from tests.cache.picture_kit import jpeg, origin


def starts(cache: Path) -> list[str]:
    """The MAX of each start so far."""
    path = cache.with_suffix(".starts")
    return path.read_text().split() if path.exists() else []


def commands(cache: Path, how: Sequence[str], pictures: int = 5) -> Callable[[int], list[str]]:
    """Command lines of crawls that behave as `how` says, one after the other, the last one for ever."""

    def command(left: int) -> list[str]:
        mode = how[min(len(starts(cache)), len(how) - 1)]
        module = "tests.run_scripts.fake_crawl"
        return [sys.executable, "-m", module, str(cache), mode, str(pictures), str(left)]

    return command


def main(root: Path, how: str, pictures: int, most: int) -> int:
    with root.with_suffix(".starts").open("a") as file:
        file.write(f"{most}\n")
    if how == "crashes":
        return 1
    if how == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    cache, marks = PictureCache(root), Marks(root.parent / "mark_log", root.name, SystemClock())
    with Presence(root) as presence:
        if how == "blocked":
            presence.stopped("stopped by captcha")
            return 3
        for line in sys.stdin:
            query = json.loads(line)["query"]
            if cache.pictures(query) or cache.miss(query):
                continue
            if query.startswith("没有"):
                cache.put_miss(query, "empty", "", now=time.time())
            else:
                for number in range(1, pictures + 1):
                    cache.put(query, number, jpeg(f"{query} {number}"), origin(query))
            report = QueryReport(query, Outcome.OK, pictures, PageState.RESULTS)
            marks.query(report, query, [])
            most -= 1
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if not most:
                presence.stopped("the cap of queries a run")
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
