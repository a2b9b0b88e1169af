"""Whatever is killed, no process stays, and the profile can be used again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.browser import Browser, BrowserDied, BrowserOptions
from crawler.reaper import TEMPORARY_PREFIX
from tests.crawler.browser_site import (
    MARK,
    Site,
    alive,
    nothing_left,
    one_of,
    serving,
    started_with,
    wait_until,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CRAWLER = """
import signal, sys
from pathlib import Path
from crawler.browser import Browser, BrowserOptions
profile, url = sys.argv[1:]
browser = Browser(BrowserOptions(Path(profile) if profile else None, page_load_timeout_s=10))
browser.start()
sys.stdout.write(f"{browser.goto(url)}\\n")
sys.stdout.flush()
signal.pause()
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whatever a test starts carries it; nothing of it may be left at the end."""
    name = uuid.uuid4().hex
    monkeypatch.setenv(MARK, name)
    with nothing_left(name):
        yield name


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture
def options(tmp_path: Path) -> BrowserOptions:
    return BrowserOptions(tmp_path / "profile", page_load_timeout_s=10)


@contextlib.contextmanager
def crawler(profile: Path | None, url: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has a browser at `url`."""
    command = [sys.executable, "-c", CRAWLER, str(profile or ""), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_nothing_is_left_after_close(mark: str, options: BrowserOptions, site: Site) -> None:
    with Browser(options) as browser:
        assert browser.goto(site.url)
        kinds = [one_of(started_with(mark), kind) for kind in ("driver", "browser", "watchdog")]
        started = started_with(mark)
        assert [each for each in started if "--type=renderer" in each.cmdline()]
        assert len(started) > len(kinds)
    assert not alive(started)
    assert not started_with(mark)
    browser.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_crawler_is_killed(mark: str, site: Site, options: BrowserOptions, number: int) -> None:
    with crawler(options.profile_dir, site.url + "/cookie") as process:
        started = started_with(mark)
        process.send_signal(number)
        wait_until(lambda: not alive(started) and not started_with(mark))
    assert len(started) > 8
    with Browser(options) as browser:
        assert browser.goto(site.url)
        assert browser.cookies() == {"keep": "yes"}


def test_ctrl_c_in_the_terminal_reaches_only_the_crawler(
    mark: str, site: Site, options: BrowserOptions
) -> None:
    with crawler(options.profile_dir, site.url) as process:
        driver_and_others = [each for each in started_with(mark) if each.pid != process.pid]
        groups = {os.getpgid(each.pid) for each in driver_and_others}
        assert os.getpgid(process.pid) not in groups
        one_of(driver_and_others, "watchdog").send_signal(signal.SIGINT)
        one_of(driver_and_others, "watchdog").terminate()
        process.kill()
        wait_until(lambda: not started_with(mark))


def test_a_temporary_profile_goes_with_a_killed_crawler(
    mark: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with crawler(None, site.url) as process:
        assert [path.name for path in tmp_path.glob(f"{TEMPORARY_PREFIX}*")]
        process.kill()
        wait_until(lambda: not started_with(mark))
    assert not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))


def test_crawler_and_watchdog_are_killed(mark: str, site: Site, options: BrowserOptions) -> None:
    with crawler(options.profile_dir, site.url + "/cookie") as process:
        one_of(started_with(mark), "watchdog").kill()
        process.kill()
        process.wait()
        left = started_with(mark)
        assert one_of(left, "browser").is_running(), "nobody was there to end it"
    with Browser(options) as browser:
        assert not alive(left)
        assert browser.goto(site.url)
        assert browser.cookies() == {"keep": "yes"}


@pytest.mark.parametrize("victim", ["driver", "watchdog"])
def test_driver_or_watchdog_is_killed(mark: str, site: Site, options: BrowserOptions, victim: str) -> None:
    with Browser(options) as browser:
        assert browser.goto(site.url + "/cookie")
        one_of(started_with(mark), victim).kill()
        if victim == "driver":
            with pytest.raises(BrowserDied, match=r"^the browser is gone: its driver does not answer"):
                browser.url()
        browser.restart()
        assert one_of(started_with(mark), "watchdog").is_running()
        assert browser.goto(site.url)
        assert browser.cookies() == {"keep": "yes"}
        started = started_with(mark)
        one_of(started, victim).kill()
    assert not alive(started)
    assert not started_with(mark)


def test_the_browser_is_killed(mark: str, site: Site, options: BrowserOptions) -> None:
    with Browser(options) as browser:
        assert browser.goto(site.url + "/cookie")
        browser.restart()  # a clean exit: the cookie is on disk
        for _ in range(2):
            one_of(started_with(mark), "browser").kill()
            with pytest.raises(BrowserDied, match=r"^the browser is gone: "):
                browser.goto(site.url)
            browser.restart()
            assert browser.goto(site.url)
            assert browser.cookies() == {"keep": "yes"}
        started = started_with(mark)
        one_of(started, "browser").kill()
    assert not alive(started)
    assert not started_with(mark)


def test_a_browser_that_hangs(mark: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.browser.ANSWER_MARGIN_S", 5.0)
    options = BrowserOptions(tmp_path / "profile", page_load_timeout_s=1, script_timeout_s=1)
    with Browser(options) as browser:
        started = started_with(mark)
        one_of(started, "browser").suspend()
        with pytest.raises(BrowserDied, match="ReadTimeoutError"):
            browser.goto(site.url)
    wait_until(lambda: not alive(started))  # crashpad ends a moment after what it watches
    assert not started_with(mark)
