"""Which processes belong to a profile, and how they end; with stand-ins for driver and browser."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from crawler import reaper
from tests.crawler.browser_site import wait_until

SLEEPER = "import signal, sys, time; {} sys.stdout.write('x'); sys.stdout.flush(); time.sleep(60)"
STUBBORN = "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)];"
WITH_CHILD = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that sleeps and has these arguments on its command line."""
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str, code: str = "signal.signal(signal.SIGINT, signal.SIG_DFL);") -> object:
            command = [sys.executable, "-c", SLEEPER.format(code), *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.read(1) == b"x"
            return process

        yield begin  # type: ignore[misc]


def browser_arguments(folder: Path) -> tuple[str, str]:
    return "--enable-automation", f"--user-data-dir={folder}"


def test_what_belongs_to_a_profile(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "profile"
    ours = [
        start(*browser_arguments(folder)),
        start("--type=renderer", f"--user-data-dir={folder}"),
        start(f"--cnclip-driver={folder}"),
    ]
    human = start(f"--user-data-dir={folder}", "--no-first-run")
    start(*browser_arguments(tmp_path / "profile2"))
    start("--enable-automation", str(folder))
    assert {each.pid for each in reaper.find_processes(folder)} == {each.pid for each in ours}
    assert reaper.find_human_browser(folder) == human.pid
    assert reaper.find_human_browser(tmp_path / "profile2") is None


def test_they_end_and_no_other_does(tmp_path: Path, start: Start) -> None:
    ours = [
        start(*browser_arguments(tmp_path)),
        start(f"--cnclip-driver={tmp_path}", code=WITH_CHILD),
    ]
    child = psutil.Process(ours[1].pid).children()[0]
    others = [start(f"--user-data-dir={tmp_path}"), start(*browser_arguments(tmp_path / "other"))]
    assert reaper.end_processes(tmp_path) == []
    endings = [each.wait() for each in ours]
    assert endings[0] == -signal.SIGINT, "asked first, so that it can write its cookies"
    assert not reaper._is_alive(child)
    assert [each.poll() for each in others] == [None, None]


def test_what_does_not_want_to_end_is_killed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_EXIT_S", 0.1)
    stubborn = start(*browser_arguments(tmp_path), code=STUBBORN)
    stopped = start(*browser_arguments(tmp_path))
    os.kill(stopped.pid, signal.SIGSTOP)
    assert reaper.end_processes(tmp_path) == []
    assert stubborn.wait() == -signal.SIGKILL
    assert stopped.wait() in (-signal.SIGKILL, -signal.SIGINT)


def test_a_zombie_has_ended(start: Start) -> None:
    process = start()
    process.kill()
    assert reaper.wait_until_gone([psutil.Process(process.pid)], 5), "nobody has waited for it yet"


def test_the_watchdog_acts_when_the_pipe_ends(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / f"{reaper.TEMPORARY_PREFIX}x"
    folder.mkdir()
    (folder / "Cookies").touch()
    browser = start(*browser_arguments(folder))
    watchdog = reaper.start_watchdog(folder)
    assert watchdog is not None
    assert [each.pid for each in reaper.find_watchdogs(folder)] == [watchdog.pid]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        watchdog.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        watchdog.wait(0.1)
    assert browser.poll() is None
    assert folder.is_dir()
    reaper.stop_watchdog(watchdog)
    assert watchdog.returncode == 0
    assert browser.wait() == -signal.SIGINT
    assert not folder.exists()


def test_the_watchdog_removes_no_other_folder(tmp_path: Path) -> None:
    watchdog = reaper.start_watchdog(tmp_path)
    assert watchdog is not None
    reaper.stop_watchdog(watchdog)
    assert tmp_path.is_dir()


def test_the_watchdog_needs_no_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crawler").mkdir()
    (tmp_path / "crawler" / "__init__.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)  # a folder of that name where the user happens to be
    watchdog = reaper.start_watchdog(tmp_path)
    assert watchdog is not None
    watchdog.kill()
    reaper.stop_watchdog(watchdog)


def test_a_watchdog_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert reaper.start_watchdog(tmp_path) is None


def test_the_watchdog_is_small(tmp_path: Path) -> None:
    watchdog = reaper.start_watchdog(tmp_path)
    assert watchdog is not None
    try:
        heavy = ("selenium", "numpy", "urllib3", "pydantic", "PIL")
        files = [file.path for file in psutil.Process(watchdog.pid).memory_maps()]
        assert not [path for path in files if any(f"/{name}/" in path for name in heavy)]
        assert wait_until(lambda: psutil.Process(watchdog.pid).memory_info().rss) < 60e6
    finally:
        reaper.stop_watchdog(watchdog)
