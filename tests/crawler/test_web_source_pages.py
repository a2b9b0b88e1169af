"""The source of a shop's pages in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crawler.types import PageState
from tests.crawler.pages_driver import QUERY, PagesBrowser, local_profile, pages  # noqa: F401 - a fixture
from tests.crawler.test_web_source import items, make

pytestmark = [pytest.mark.browser, pytest.mark.slow]
S = PageState


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("layout_2022", 8, ["2201", "2202"]),
        ("slow", 8, ["3301", "3302"]),
        ("lazy", 18, [str(3400 + number) for number in range(18)]),
        ("tricky_titles", 2, ["2901", "2902"]),
    ],
)
def test_real_pages(pages: PagesBrowser, name: str, limit: int, expected: list[str]) -> None:  # noqa: F811
    result = make(pages, local_profile(pages.origin, name)).search(QUERY, limit)
    assert result.state is S.RESULTS and items(result) == expected
    assert all(url.startswith("http") for candidate in result.candidates for url in candidate.image_urls)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("empty_recommendations", S.EMPTY),
        ("captcha_overlay", S.CAPTCHA),
        ("throttle", S.THROTTLED),
        ("redirect", S.LOGIN_WALL),
        ("503", S.SERVER_ERROR),
    ],
)
def test_real_pages_without_results(pages: PagesBrowser, name: str, expected: PageState) -> None:  # noqa: F811
    assert make(pages, local_profile(pages.origin, name)).search(QUERY, 4).state is expected


def test_a_refused_connection(pages: PagesBrowser) -> None:  # noqa: F811
    result = make(pages, local_profile("http://127.0.0.1:1")).search(QUERY, 4)
    assert result.state is S.SERVER_ERROR and result.detail == "ERR_UNSAFE_PORT"


def test_a_dump_of_the_page(pages: PagesBrowser, tmp_path: Path) -> None:  # noqa: F811
    source = make(pages, local_profile(pages.origin, "skeleton"))
    pages.open("skeleton")
    source.dump(tmp_path / "dumps", "20260101-loading")
    found = json.loads((tmp_path / "dumps" / "20260101-loading.json").read_text(encoding="utf-8"))
    assert found["state"] == "loading" and found["busy"] == 2
