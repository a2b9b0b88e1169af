"""Does the browser part work? Starts headless Chromium through its driver and reads a page's title.

The crawler, the QR login and the browser tests need it; search and training do not. Command, as users of
Online-CNCLIP know it: `python preprocess/chrome.py`. Prints 安装成功! and exits 0 when it works, else one
line that says what is missing and how to get it, and exits 1.

The binaries are looked up on PATH; `CNCLIP_CHROMIUM` and `SE_CHROMEDRIVER` name others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMEDRIVER_NAMES = ("chromedriver",)
INSTALL_HINT = "apt-get install chromium chromium-driver fonts-noto-cjk"
SAME_VERSION_HINT = "install browser and driver of one version, e.g. " + INSTALL_HINT
LIBRARY_HINT = "pip install selenium"
FLAGS = (
    "--headless",
    "--no-sandbox",  # root has no sandbox; the only page opened here is our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers give /dev/shm 64 MB
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TITLE = "安装成功"
PAGE = f"data:text/html;charset=utf-8,<title>{TITLE}</title>"
VERSION_TIMEOUT_S, PAGE_TIMEOUT_S = 20, 30


@dataclass(frozen=True)
class BrowserCheck:
    """What was found and whether it works; `problem` and `hint` are empty when it does."""

    chromium: str | None = None
    chromedriver: str | None = None
    chromium_version: str | None = None
    chromedriver_version: str | None = None
    problem: str = ""
    hint: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the browser started, opened a page, and the versions match."""
        return not self.problem

    def summary(self) -> str:
        """One line: versions and start-up time, or the problem."""
        if self.problem:
            return self.problem
        return (
            f"Chromium {self.chromium_version}, driver {self.chromedriver_version}, "
            f"page opened in {self.seconds:.1f} s"
        )


def _find(names: tuple[str, ...], variable: str) -> str | None:
    chosen = os.environ.get(variable)
    if chosen:
        return shutil.which(chosen)
    return next((path for path in map(shutil.which, names) if path), None)


def find_chromium() -> str | None:
    """Path of the browser: `CNCLIP_CHROMIUM`, else the first known name on PATH, else None."""
    return _find(CHROMIUM_NAMES, "CNCLIP_CHROMIUM")


def find_chromedriver() -> str | None:
    """Path of the driver: `SE_CHROMEDRIVER`, else chromedriver on PATH, else None."""
    return _find(CHROMEDRIVER_NAMES, "SE_CHROMEDRIVER")


def _version(program: str) -> str | None:
    """The first word of `program --version` that looks like 156.0.8078.79, or None."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = answer.stdout.split()
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def _open_page(chromium: str, chromedriver: str) -> str:
    """Start the browser with a profile of its own, open PAGE, return its title."""
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")  # Selenium Manager would go online
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(prefix="cnclip-chrome-", ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(chromedriver))
        try:
            driver.set_page_load_timeout(PAGE_TIMEOUT_S)
            driver.get(PAGE)
            return str(driver.title)
        finally:
            driver.quit()


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "msg", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def check_browser() -> BrowserCheck:
    """Find browser and driver, compare their versions, really open a page. Never raises."""
    chromium, chromedriver = find_chromium(), find_chromedriver()
    if chromium is None or chromedriver is None:
        missing = [
            label for label, path in (("Chromium", chromium), ("chromedriver", chromedriver)) if path is None
        ]
        return BrowserCheck(
            chromium, chromedriver, problem=f"{' and '.join(missing)} not found", hint=INSTALL_HINT
        )
    versions = (_version(chromium), _version(chromedriver))
    found = (chromium, chromedriver, *versions)
    for path, version in zip((chromium, chromedriver), versions, strict=True):
        if version is None:
            return BrowserCheck(*found, problem=f"{path} --version gives no version", hint=INSTALL_HINT)
    majors = [str(version).partition(".")[0] for version in versions]
    if majors[0] != majors[1]:
        problem = f"versions differ: Chromium {versions[0]}, chromedriver {versions[1]}"
        return BrowserCheck(*found, problem=problem, hint=SAME_VERSION_HINT)
    started = time.monotonic()
    try:
        title = _open_page(chromium, chromedriver)
    except ImportError as error:
        return BrowserCheck(*found, problem=str(error), hint=LIBRARY_HINT)
    except Exception as error:  # whatever the driver throws is the finding, not a failure of the check
        problem = f"Chromium does not start: {_first_line(error)}"
        return BrowserCheck(*found, problem=problem, hint=INSTALL_HINT)
    seconds = time.monotonic() - started
    if title != TITLE:
        return BrowserCheck(*found, problem=f"page title is {title!r}, not {TITLE!r}", hint=INSTALL_HINT)
    return BrowserCheck(*found, seconds=seconds)


def has_chinese_font() -> bool | None:
    """Whether fontconfig knows a font for Chinese; None when fontconfig is not there to ask."""
    program = shutil.which("fc-list")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, ":lang=zh", "file"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return any(Path(line.strip().rstrip(":")).suffix for line in answer.stdout.splitlines())


def main() -> int:
    """Print the finding; 0 when the browser works."""
    found = check_browser()
    if found.ok:
        sys.stdout.write(f"{found.summary()}\n安装成功!\n")
        return 0
    sys.stdout.write(f"安装失败: {found.problem}\n  hint: {found.hint}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
