"""How a browser starts, what stands in its way, and that a failed start leaves nothing behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from crawler.browser import Browser, BrowserOptions
from crawler.browser_profile import LOCK_FILE, OWNER_FILE, BrowserProfile
from crawler.errors import BrowserError, SettingsError
from tests.crawler.browser_site import MARK, closed_port, nothing_left, one_of, serving, started_with

HOLDER = """
import sys
from pathlib import Path
from crawler.browser_profile import BrowserProfile
profile = BrowserProfile(Path(sys.argv[1]))
profile.open()
sys.stdout.write("x")
sys.stdout.flush()
sys.stdin.read()
"""
SLEEPER = "import sys, time; sys.stdout.write('x'); sys.stdout.flush(); time.sleep(60)"


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Whatever a test starts carries it; no process and no temporary folder may be left at the end."""
    name = uuid.uuid4().hex
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv(MARK, name)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with nothing_left(name):
        yield name
    assert not list(temporary.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a b" / "profile"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def spawn(*command: str) -> subprocess.Popen[bytes]:
    """A process that has said x."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    return process


def opened(folder: Path | None) -> BrowserProfile:
    profile = BrowserProfile(folder)
    profile.open()
    return profile


def test_a_kept_profile_is_private(folder: Path) -> None:
    profile = opened(folder)
    assert mode(folder) == 0o700
    assert (folder / OWNER_FILE).read_text() == str(os.getpid())
    profile.close()
    profile.close()
    assert folder.is_dir()
    folder.chmod(0o755)
    opened(folder).close()
    assert mode(folder) == 0o700


def test_a_folder_that_is_something_else_is_left_alone(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    opened(folder).close()  # empty
    other = folder.parent
    other.chmod(0o755)
    with pytest.raises(BrowserError, match=r"a b is no browser profile: name a new or empty folder$"):
        opened(other)
    assert mode(other) == 0o755
    (folder.parent / "file").touch()
    with pytest.raises(BrowserError, match=r"^browser profile .*file: (File exists|Not a directory)$"):
        opened(folder.parent / "file")


def test_a_temporary_profile_is_private_and_goes(tmp_path: Path) -> None:
    profile = BrowserProfile(None)
    path = profile.open()
    assert path.parent == tmp_path / "tmp"
    assert mode(path) == 0o700
    assert profile.open() == path
    profile.close()
    assert not path.exists()


def test_a_profile_in_use(folder: Path) -> None:
    with spawn(sys.executable, "-c", HOLDER, str(folder)) as holder:
        with pytest.raises(BrowserError) as caught:
            Browser(BrowserOptions(folder)).start()
        assert str(caught.value) == f"browser profile {folder} is in use by process {holder.pid}"
        assert holder.poll() is None
        alias = folder.parent / "alias"
        alias.symlink_to(folder)
        with pytest.raises(BrowserError, match=f"in use by process {holder.pid}$"):
            opened(alias)
        holder.kill()
        holder.wait()
        opened(folder).close()


def test_a_profile_in_use_by_nobody_knows_whom(folder: Path) -> None:
    opened(folder).close()
    (folder / OWNER_FILE).unlink()
    with FileLock(folder / LOCK_FILE), pytest.raises(BrowserError, match=r"is in use by a process$"):
        opened(folder)


def test_the_browser_of_a_human_is_left_alone(folder: Path) -> None:
    with spawn(sys.executable, "-c", SLEEPER, f"--user-data-dir={folder}") as human:
        for _ in range(2):  # the lock is free again after the first
            profile = BrowserProfile(folder)
            with pytest.raises(BrowserError, match=f"is in use by process {human.pid}$"):
                profile.open()
            profile.close()
        assert human.poll() is None
        human.kill()
    opened(folder).close()


def test_what_a_killed_run_left_is_ended(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ("--enable-automation", f"--user-data-dir={folder}")
    with spawn(sys.executable, "-c", SLEEPER, *arguments) as left:
        opened(folder).close()
        assert left.wait() != 0
    assert f"ending 1 processes that a former run left on {folder}" in caplog.text


def test_a_former_watchdog_may_finish_its_work(folder: Path) -> None:
    """Else it would end the browser of this run: both have the same profile."""
    with spawn(sys.executable, "-c", HOLDER, str(folder)) as holder:
        former = psutil.Process(holder.pid).children()[0]
        former.suspend()
        holder.kill()
        holder.wait()
        later = threading.Timer(0.5, former.resume)
        later.start()
        profile = opened(folder)
        later.join()
        assert not former.is_running() or former.status() == psutil.STATUS_ZOMBIE
        profile.close()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """What looks like a program."""
    path = tmp_path / "broken"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("driver", ["/bin/false", "broken"])
def test_a_driver_that_is_none(monkeypatch: pytest.MonkeyPatch, broken: Path, driver: str) -> None:
    monkeypatch.setenv("CNCLIP_CHROMIUM", "/bin/true")
    monkeypatch.setenv("SE_CHROMEDRIVER", driver.replace("broken", str(broken)))
    with pytest.raises(BrowserError, match=r"^cannot start the browser: [^\n]+$"):
        Browser(BrowserOptions(None)).start()


def test_a_remote_end_that_is_not_there() -> None:
    browser = Browser(BrowserOptions(None, remote_url=f"http://127.0.0.1:{closed_port()}"))
    with pytest.raises(
        BrowserError, match=r"^cannot start the browser at 127.0.0.1: its driver does not answer"
    ):
        browser.start()


def test_a_remote_browser_has_no_profile_here(folder: Path) -> None:
    with pytest.raises(SettingsError, match="give remote_url or profile_dir"):
        Browser(BrowserOptions(folder, remote_url="http://127.0.0.1:4444"))


@pytest.mark.browser
@pytest.mark.parametrize("program", ["/bin/true", "broken"])
def test_a_browser_that_is_none(
    monkeypatch: pytest.MonkeyPatch, folder: Path, broken: Path, program: str
) -> None:
    monkeypatch.setenv("CNCLIP_CHROMIUM", program.replace("broken", str(broken)))
    browser = Browser(BrowserOptions(folder))
    with pytest.raises(BrowserError, match=r"^cannot start the browser: session not created: [^\n]+$"):
        browser.start()
    monkeypatch.delenv("CNCLIP_CHROMIUM")
    with browser:
        assert browser.goto("about:blank")


@pytest.mark.browser
def test_a_proxy_for_the_web_is_not_for_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Browser(BrowserOptions(None)) as browser:
        browser.start()
        assert browser.goto("about:blank")


@pytest.mark.browser
def test_a_download_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with serving() as site, Browser(BrowserOptions(None)) as browser:
        assert not browser.goto(site.url + "/download")
        assert browser.goto(site.url)
    assert not list(home.rglob("*cnclip-test*"))


@pytest.mark.browser
def test_a_profile_last_used_on_another_machine(folder: Path, mark: str) -> None:
    """As after the end of a container: nobody there could tidy up."""
    opened(folder).close()
    (folder / "SingletonLock").symlink_to("another-machine-12345")
    with Browser(BrowserOptions(folder)) as browser:
        assert browser.goto("about:blank")
        assert one_of(started_with(mark), "browser").is_running()
