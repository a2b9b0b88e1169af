"""Stand-ins for time and for a site."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from crawler.types import Candidate, PageState, Picture, Refusal, Refused, SearchResult


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.time = start
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.time += seconds


def jpeg(shade: int = 0) -> bytes:
    """A 224 x 224 RGB JPEG that differs with `shade` and is not flat."""
    image = Image.effect_noise((224, 224), 60).convert("RGB")
    image.paste((shade % 256, 255 - shade % 256, (shade * 7) % 256), (40, 40, 180, 180))
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


def picture(name: str, number: int = 0) -> Picture:
    """A good picture whose hash follows from `name`."""
    digest = f"{abs(hash((name, number))):064x}"[-64:]
    return Picture(jpeg(number), digest, int(digest[-16:], 16), f"http://img/{name}", "image/jpeg", 500, 500)


Answer = SearchResult | Exception


class FakeSource:
    """Plays a script: the answers to its searches in order, then results for everything."""

    name = "fake"

    def __init__(self, clock: FakeClock, answers: Sequence[Answer] = ()) -> None:
        self.clock, self.answers = clock, list(answers)
        self.searches: list[tuple[float, str]] = []
        self.fetches: list[tuple[float, str]] = []
        self.log: list[str] = []
        self.refuse_login: Exception | None = None
        self.human: SearchResult | None = None
        self.on_dump: BaseException | None = None
        self.on_fetch: Callable[[Candidate, str], Picture | Refused] | None = None

    def open(self) -> None:
        self.log.append("open")

    def ensure_session(self) -> None:
        self.log.append("login")
        if self.refuse_login is not None:
            raise self.refuse_login

    def search(self, query: str, limit: int) -> SearchResult:
        self.searches.append((self.clock.now(), query))
        self.clock.time += 1.0  # a page takes a second
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return results(query, limit)

    def fetch(self, candidate: Candidate, url: str) -> Picture | Refused:
        self.fetches.append((self.clock.now(), url))
        if self.on_fetch:
            return self.on_fetch(candidate, url)
        return picture(url)

    def wait_for_human(self, query: str, limit: int) -> SearchResult | None:  # noqa: ARG002
        return self.human

    def dump(self, folder: Path, name: str) -> None:  # noqa: ARG002
        if self.on_dump is not None:
            raise self.on_dump
        self.log.append(f"dump {name.rpartition('-')[2]}")

    def close(self) -> None:
        self.log.append("close")


def results(query: str, limit: int = 8) -> SearchResult:
    """A page with `limit` products whose pictures are named after the query."""
    found = tuple(
        Candidate(f"{query}-{n}", (f"http://img/{query}/{n}.jpg",), "http://shop/", query, n)
        for n in range(limit)
    )
    return SearchResult(PageState.RESULTS, found, "2025", "http://shop/search")


def page(state: PageState) -> SearchResult:
    return SearchResult(state, url="http://shop/search", detail=f"test {state.value}")


def refusing(*reasons: Refusal) -> Callable[[Candidate, str], Picture | Refused]:
    """Refuse the first pictures for these reasons, then give good ones."""
    left = list(reasons)

    def fetch(_candidate: Candidate, url: str) -> Picture | Refused:
        return Refused(left.pop(0), url) if left else picture(url)

    return fetch
