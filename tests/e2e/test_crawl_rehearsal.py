"""`cnclip crawl` as a newcomer types it: the rehearsal in one command, the doctor, a browser on a grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cache.picture_cache import PictureCache
from crawler.practice_shop import PracticeShop, ShopSettings
from tests.crawler.browser_remote_end import remote_end
from tests.e2e.crawl_run import wrong_pictures
from tests.e2e.test_crawl_kill import phone

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent.parent
ASKED = ["红色连衣裙", "番茄", "帆布鞋"]


def cnclip(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "run_scripts.cli", "crawl", "--source", "practice-shop", "--headless"]
    command += ["--barcode-dir", str(folder), "--no-page", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def write_queries(folder: Path) -> str:
    path = folder / "queries.txt"
    path.write_text("\n".join(ASKED), encoding="utf-8")
    return str(path)


def test_the_rehearsal_needs_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "valid"
    run = cnclip(tmp_path, "--queries", write_queries(tmp_path), "--out", str(out), "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["queries"] == {"ok": 3}
    assert wrong_pictures(PictureCache(out), ASKED) == [] and len(list(out.glob("*/1.jpg"))) == 3
    assert "logged in" in run.stderr and not (tmp_path / "barcode_0.jpg").exists()


@pytest.mark.parametrize(
    ("layout", "code", "words"),
    [("2025", 0, "layout   2025\nproducts 8"), ("none", 5, "the page is kept in")],
)
def test_the_doctor_says_what_was_seen(tmp_path: Path, layout: str, code: int, words: str) -> None:
    with PracticeShop(ShopSettings(layout=layout)) as shop, phone(shop, tmp_path):  # type: ignore[arg-type]
        flags = ["--shop-url", shop.search_origin, "--state-dir", str(tmp_path / "state")]
        run = cnclip(tmp_path, "--doctor", "连衣裙", "--mark-log", str(tmp_path / "mark_log"), *flags)
        assert len(shop.log("search")) == 1
    assert run.returncode == code and words in run.stdout, run.stderr
    assert not (tmp_path / "valid").exists()


def test_a_block_that_the_doctor_meets_counts(tmp_path: Path) -> None:
    with PracticeShop(ShopSettings(risk_after=0, risk_kind="captcha_page")) as shop, phone(shop, tmp_path):
        flags = ["--shop-url", shop.search_origin, "--state-dir", str(tmp_path / "state")]
        flags += ["--mark-log", str(tmp_path / "mark_log")]
        assert cnclip(tmp_path, "--doctor", "连衣裙", *flags).returncode == 3
        before = len(shop.log())
        run = cnclip(tmp_path, "--queries", write_queries(tmp_path), "--out", str(tmp_path / "valid"), *flags)
        assert run.returncode == 3 and "no requests before" in run.stderr
        assert len(shop.log()) == before


def test_the_same_crawl_on_a_browser_elsewhere(tmp_path: Path) -> None:
    """A remote end that knows the standard's commands only, as a grid may."""
    out = tmp_path / "valid"
    with (
        remote_end() as grid,
        PracticeShop(ShopSettings(login="required")) as shop,
        phone(shop, tmp_path),
    ):
        flags = [
            "--shop-url",
            shop.search_origin,
            "--state-dir",
            str(tmp_path / "state"),
            "--remote-url",
            grid.url,
        ]
        run = cnclip(tmp_path, "--queries", write_queries(tmp_path), "--out", str(out), *flags)
        assert run.returncode == 0, run.stderr
        assert grid.refused == []
    assert wrong_pictures(PictureCache(out), ASKED) == [] and len(list(out.glob("*/1.jpg"))) == 3
    assert not (tmp_path / "state" / "browser").exists()
