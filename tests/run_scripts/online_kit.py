"""A learner over a cache, and what it was answered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cache.picture_cache import PictureCache
from cnclip.online.source import Answer, ImageSource, Miss
from run_scripts.online_crawler import Crawler
from run_scripts.online_source import CrawledPictures
from tests.cache.picture_kit import jpeg, origin
from tests.run_scripts.fake_crawl import commands

ROOT = Path(__file__).resolve().parents[2]
PLENTY_S = 60.0  # never waited for, unless something is wrong


@contextlib.contextmanager
def learner(cache: PictureCache, *how: str, cap: int = 1000, pictures: int = 5) -> Iterator[CrawledPictures]:
    crawler = Crawler(cache, commands(cache.root, how, pictures), cap)
    try:
        yield CrawledPictures("shop", cache, crawler, pictures)
    finally:
        crawler.close()


def fetch(
    source: ImageSource, queries: Sequence[str], numbers: Sequence[int] = (1,), wait_s: float = PLENTY_S
) -> Mapping[str, Answer]:
    return source.fetch(queries, numbers, time.monotonic() + wait_s)


def numbers_of(answer: Answer) -> list[int]:
    assert not isinstance(answer, Miss), answer
    return [picture.number for picture in answer]


def reasons(answers: Mapping[str, Answer]) -> dict[str, str]:
    return {query: answer.reason for query, answer in answers.items() if isinstance(answer, Miss)}


def fill(cache: PictureCache, *queries: str, pictures: int = 5) -> None:
    for query in queries:
        for number in range(1, pictures + 1):
            cache.put(query, number, jpeg(f"{query} {number}"), origin(query))
