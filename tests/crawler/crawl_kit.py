"""A crawl over a fake site."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from cache.picture_cache import PictureCache
from crawler.crawl import Crawl, CrawlOptions
from crawler.marks import Marks
from crawler.policy import Policy
from crawler.profile import Pace
from crawler.types import Outcome, QueryReport
from tests.crawler.fakes import Answer, FakeClock, FakeSource


class Run:
    """One crawl over a fake site, and everything that came of it."""

    def __init__(
        self,
        root: Path,
        answers: Sequence[Answer] = (),
        *,
        clock: FakeClock | None = None,
        resume: bool = False,
        **options: int,
    ) -> None:
        self.clock = clock or FakeClock()
        self.cache = PictureCache(root / "valid")
        self.source = FakeSource(self.clock, answers)
        self.marks = Marks(root / "mark_log", "valid", self.clock)
        policy = Policy(root / "state.json", Pace(), self.clock, random.Random(1), resume=resume)
        self.crawl = Crawl(
            self.source, self.cache, policy, self.marks, CrawlOptions(**options), clock=self.clock
        )
        self.reports: list[QueryReport] = []

    def __call__(self, *queries: str) -> dict[str, Outcome]:
        self.crawl.run(queries, self.reports.append)
        return {report.query: report.outcome for report in self.reports}

    @property
    def events(self) -> list[dict[str, object]]:
        lines = (self.marks.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
