"""kill -9 at random moments, of crawler, browser and driver: nothing half, nothing lost, nobody left.

$CNCLIP_CRAWL_KILLS sets how often (the full measure is 50).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from cache.picture_cache import PictureCache
from crawler.practice_shop import PracticeShop, ShopSettings
from crawler.practice_shop.phone import Phone
from crawler.qr import decode_qr
from tests.e2e.crawl_run import queries, wrong_pictures

pytestmark = [pytest.mark.browser, pytest.mark.slow]
KILLS = int(os.environ.get("CNCLIP_CRAWL_KILLS", "3"))
ROOT = Path(__file__).resolve().parent.parent.parent
GONE_S = 20.0
VICTIMS = ("crawler", "driver", "browser")


def start(shop: PracticeShop, folder: Path, asked: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "run_scripts.cli",
        "crawl",
        "--source",
        "practice-shop",
        "--headless",
        "--no-page",
    ]
    command += [
        "--shop-url",
        shop.search_origin,
        "--queries",
        str(asked),
        "--out",
        str(folder / "valid"),
        "-n",
        "2",
    ]
    command += ["--state-dir", str(folder / "state"), "--barcode-dir", str(folder), "--max-queries", "1000"]
    log = (folder / "crawl.log").open("ab")
    with log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def phone(shop: PracticeShop, folder: Path) -> Iterator[None]:
    """Scans every code that is saved below `folder`, as a person beside the machine would."""
    done = threading.Event()
    client = Phone(shop.search_origin)

    def watch() -> None:
        seen = set()
        while not done.wait(0.1):
            payload = None
            with contextlib.suppress(OSError):
                payload = decode_qr((folder / "barcode_0.jpg").read_bytes())
            if payload and payload not in seen:
                seen.add(payload)
                client.scan(payload)
                client.confirm(payload)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def ours(folder: Path) -> dict[str, list[psutil.Process]]:
    """Processes of the crawl below `folder`, by what they are."""
    found: dict[str, list[psutil.Process]] = {"crawler": [], "driver": [], "browser": [], "other": []}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if str(folder) not in line or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if "run_scripts.cli" in line:
                found["crawler"].append(process)
            elif "chromedriver" in line:
                found["driver"].append(process)
            elif "--type=" not in line and "chromium" in line:
                found["browser"].append(process)
            else:
                found["other"].append(process)
    return found


def wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + GONE_S
    while any(ours(folder).values()):
        assert time.monotonic() < deadline, f"still there: {ours(folder)}"
        time.sleep(0.1)


def check_files(folder: Path) -> dict[str, bytes]:
    """Every picture of the cache, by path; each must be whole."""
    pictures = {}
    for path in sorted((folder / "valid").glob("*/[0-9]*.jpg")):
        with Image.open(path) as image:
            image.load()
            assert image.size == (224, 224)
        pictures[str(path)] = path.read_bytes()
    for path in (folder / "valid").glob("*/meta.json"):
        json.loads(path.read_text(encoding="utf-8"))
    return pictures


def test_killed_again_and_again(tmp_path: Path) -> None:
    rng = random.Random(2026)
    asked = queries(8 * KILLS)
    (tmp_path / "queries.txt").write_text("\n".join(asked), encoding="utf-8")
    kept: dict[str, bytes] = {}
    with PracticeShop(ShopSettings(login="required")) as shop, phone(shop, tmp_path):
        for number in range(KILLS):
            crawler = start(shop, tmp_path, tmp_path / "queries.txt")
            seen = len(shop.log("search"))
            wish = time.monotonic() + rng.uniform(0.5, 8.0)
            while crawler.poll() is None and time.monotonic() < wish:
                time.sleep(0.02)
            victim = VICTIMS[number % 3]
            hit = 0
            while not hit and crawler.poll() is None:
                for process in ours(tmp_path)[victim]:
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(signal.SIGKILL)
                        hit += 1
            assert hit, "the crawl ended before it could be killed: more queries are needed"
            if victim != "crawler":  # it lives on: let it work a little, then end it as a user would
                deadline = time.monotonic() + 20
                while (
                    crawler.poll() is None
                    and len(shop.log("search")) < seen + 3
                    and time.monotonic() < deadline
                ):
                    time.sleep(0.05)
                crawler.terminate()
            crawler.wait(60)
            wait_until_gone(tmp_path)
            now = check_files(tmp_path)
            assert {path: now.get(path) for path in kept} == kept, "an entry was lost or changed"
            kept = now
        code = start(shop, tmp_path, tmp_path / "queries.txt").wait(600)
        assert code == 0, (tmp_path / "crawl.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        wait_until_gone(tmp_path)
        cache = PictureCache(tmp_path / "valid")
        assert all(set(cache.pictures(query)) == {1, 2} for query in asked)
        assert wrong_pictures(cache, asked) == []
