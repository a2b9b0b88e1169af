"""No browser outlives its crawler: finding and ending a profile's processes, and the watchdog that does it.

Every process of a browser carries `--user-data-dir=DIR` on its command line, the driver is started with a
mark of its own; so the folder alone tells what belongs to it, whoever is still alive. The browser is asked to
exit first (it then writes its cookies), and killed if it does not.

The watchdog, `python -m crawler.reaper`, holds the end of a pipe to the crawler. When the crawler dies in any
way, the pipe ends, and the watchdog ends what is left and removes a temporary profile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

BROWSER_MARK, DRIVER_MARK, WATCHDOG_MARK = "--user-data-dir=", "--cnclip-driver=", "--cnclip-watchdog="
TEMPORARY_PREFIX = "cnclip-browser-"
_AUTOMATED = "--enable-automation"  # every driver starts its browser with it, no human does
_HELPER = "--type="
# Chromium 156 writes its cookies upon SIGINT and SIGHUP, not upon SIGTERM (measured; Windows has only that).
_EXIT_SIGNAL = signal.SIGINT if os.name == "posix" else signal.SIGTERM
_ROOT = Path(__file__).parents[1]
_EXIT_S = 3.0  # a browser asked to exit needs a fraction of a second
_KILL_S = 10.0
_POLL_S = 0.02


def find_processes(user_data_dir: Path) -> list[psutil.Process]:
    """Driver, automated browser and their descendants; neither the watchdog nor a browser a human started."""
    found: dict[int, psutil.Process] = {}
    for process, arguments in _marked(user_data_dir, BROWSER_MARK, DRIVER_MARK):
        if _is_human(arguments):
            continue
        with contextlib.suppress(psutil.Error):
            found.update((each.pid, each) for each in (process, *process.children(recursive=True)))
    return list(found.values())


def find_human_browser(user_data_dir: Path) -> int | None:
    """Process id of a browser that somebody started on this profile without a driver."""
    return next((p.pid for p, args in _marked(user_data_dir, BROWSER_MARK) if _is_human(args)), None)


def find_watchdogs(user_data_dir: Path) -> list[psutil.Process]:
    """Watchdogs of this profile."""
    return [process for process, _ in _marked(user_data_dir, WATCHDOG_MARK)]


def _marked(user_data_dir: Path, *marks: str) -> list[tuple[psutil.Process, list[str]]]:
    wanted = {f"{mark}{user_data_dir}" for mark in marks}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone, a zombie, or somebody else's
            arguments = process.cmdline()
            if not wanted.isdisjoint(arguments):
                found.append((process, arguments))
    return found


def _is_human(arguments: list[str]) -> bool:
    driven = (_AUTOMATED, _HELPER, DRIVER_MARK)
    return not any(argument.startswith(driven) for argument in arguments)


def end_processes(user_data_dir: Path) -> list[int]:
    """End driver and browser of a profile, gently first. Returns the ids of those that would not go."""
    ending = find_processes(user_data_dir)
    for process in ending:
        with contextlib.suppress(psutil.Error):
            if not any(argument.startswith(_HELPER) for argument in process.cmdline()):
                process.send_signal(_EXIT_SIGNAL)
    wait_until_gone(ending, _EXIT_S)
    deadline = time.monotonic() + _KILL_S
    while (left := find_processes(user_data_dir)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_until_gone(left, _KILL_S / 10)
    return [process.pid for process in left]


def wait_until_gone(processes: list[psutil.Process], timeout_s: float) -> bool:
    """Whether all have ended in time. A zombie has: in a container without init nobody may collect it."""
    deadline = time.monotonic() + timeout_s
    while any(map(_is_alive, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def remove_temporary(user_data_dir: Path) -> None:
    """Remove a temporary profile; any other folder stays."""
    if user_data_dir.name.startswith(TEMPORARY_PREFIX):
        shutil.rmtree(user_data_dir, ignore_errors=True)


def start_watchdog(user_data_dir: Path) -> subprocess.Popen[bytes] | None:
    """A running watchdog of this process, or None if it did not start. `stop_watchdog` collects it."""
    path = os.pathsep.join(filter(None, (str(_ROOT), *sys.path)))
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "crawler.reaper", f"{WATCHDOG_MARK}{user_data_dir}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,  # the first place where -m looks
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )
    with watchdog.stdout or contextlib.nullcontext() as answer:
        if answer and answer.readline():
            return watchdog
    stop_watchdog(watchdog)
    return None


def stop_watchdog(watchdog: subprocess.Popen[bytes]) -> None:
    """End the pipe, upon which it looks around once more and leaves."""
    if watchdog.stdin is not None:
        with contextlib.suppress(OSError):
            watchdog.stdin.close()
    try:
        watchdog.wait(_EXIT_S + _KILL_S)
    except subprocess.TimeoutExpired:
        watchdog.kill()
        watchdog.wait()


def main(arguments: Sequence[str]) -> int:
    """Be the watchdog of the profile named by `--cnclip-watchdog=DIR`."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):  # Windows has no SIGHUP
            signal.signal(number, signal.SIG_IGN)
    user_data_dir = Path(arguments[0].removeprefix(WATCHDOG_MARK))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()  # until no crawler holds the other end
    end_processes(user_data_dir)
    remove_temporary(user_data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
