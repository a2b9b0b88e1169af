"""The folder a browser keeps its cookies in: private, one process at a time, watched over."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from cache.files import write_durably
from crawler import reaper
from crawler.errors import BrowserError

logger = logging.getLogger(__name__)

LOCK_FILE, OWNER_FILE = "crawler.lock", "crawler.pid"
_CHROMIUM_LOCK = ("SingletonLock", "SingletonSocket", "SingletonCookie")
_OTHERS_MAY = 0o077
_WATCHDOG_S = 20.0  # longer than a watchdog needs for its work


class BrowserProfile:
    """A browser's user data folder while it is in use: `kept` between runs, or (None) a temporary one.

    Who opened it holds the lock `crawler.lock` in it, and has a watchdog (see crawler.reaper).
    """

    def __init__(self, kept: Path | None) -> None:
        self._kept = kept
        self._lock: FileLock | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._path: Path | None = None

    def open(self) -> Path:
        """Take the folder, end what a killed run left in it, start the watchdog if none is running.

        Raises:
            BrowserError: it cannot be made or made private, is no profile, or is in use.
        """
        if self._path is None:
            self._path = self._take(self._kept) if self._kept else _temporary()
        if self._watchdog is None or self._watchdog.poll() is not None:
            self._stop_watchdog()
            self._watchdog = reaper.start_watchdog(self._path)
            if self._watchdog is None:
                raise BrowserError("the browser's watchdog does not start")
        return self._path

    def end_browser(self) -> None:
        """End driver and browser of this profile, if any are left."""
        if self._path is not None and (left := reaper.end_processes(self._path)):
            logger.warning("browser processes that do not end: %s", left)

    def close(self) -> None:
        """End the browser, remove a temporary folder, let go of a kept one. Safe to call twice."""
        self.end_browser()
        if self._path is not None:
            reaper.remove_temporary(self._path)
        self._path = None
        self._stop_watchdog()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            reaper.stop_watchdog(self._watchdog)
            self._watchdog = None

    def _take(self, kept: Path) -> Path:
        path = kept.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = path.resolve()
            _make_private(path)
            lock = FileLock(path / LOCK_FILE)
            lock.acquire(timeout=0)
        except Timeout:
            raise _in_use(path, _owner(path)) from None
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            reason = getattr(error, "strerror", None) or error
            raise BrowserError(f"browser profile {path}: {reason}") from None
        self._lock = lock
        write_durably(path / OWNER_FILE, str(os.getpid()).encode())
        _clear_leftovers(path)
        return path


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix=reaper.TEMPORARY_PREFIX)).resolve()


def _make_private(path: Path) -> None:
    """Whoever reads the cookies in it is logged in: 0700. But no folder that was made for something else."""
    if not path.stat().st_mode & _OTHERS_MAY:
        return
    names = {entry.name for entry in path.iterdir()}
    if names and not names & {LOCK_FILE, "Local State"}:
        raise BrowserError(f"{path} is no browser profile: name a new or empty folder")
    path.chmod(0o700)


def _in_use(path: Path, owner: int | None) -> BrowserError:
    return BrowserError(f"browser profile {path} is in use by {f'process {owner}' if owner else 'a process'}")


def _owner(path: Path) -> int | None:
    try:
        return int((path / OWNER_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _clear_leftovers(path: Path) -> None:
    """End what belongs to a crawler that is no more (we have its lock). Raises BrowserError if a human's
    browser uses the profile: that one is not ours to end."""
    watchdogs = reaper.find_watchdogs(path)
    if not reaper.wait_until_gone(watchdogs, _WATCHDOG_S):
        for watchdog in watchdogs:
            watchdog.kill()
    if human := reaper.find_human_browser(path):
        raise _in_use(path, human)
    if left := reaper.find_processes(path):
        logger.warning("ending %d processes that a former run left on %s", len(left), path)
        reaper.end_processes(path)
    _forget_other_machine(path)


def _forget_other_machine(path: Path) -> None:
    """Chromium refuses a profile whose lock names another machine, as after the end of a container."""
    try:
        machine = str((path / _CHROMIUM_LOCK[0]).readlink()).rpartition("-")[0]
    except OSError:
        return
    if machine != socket.gethostname():
        logger.warning("%s was last used on %s, which did not close it", path, machine)
        for name in _CHROMIUM_LOCK:
            (path / name).unlink(missing_ok=True)
