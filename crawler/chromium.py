"""Where Chromium and its driver are, and how they are started.

The browser says what it is: nothing here hides that it is driven, changes its user agent, or goes through a
proxy.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crawler.errors import BrowserError
from crawler.reaper import BROWSER_MARK, DRIVER_MARK

if TYPE_CHECKING:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRIVER_NAMES = ("chromedriver",)
INSTALL_HINT = "apt-get install chromium chromium-driver fonts-noto-cjk"
_FLAGS = (
    "--lang=zh-CN",
    "--window-size=1366,900",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_HEADLESS_FLAGS = ("--headless", "--disable-gpu")
_NO_DOWNLOADS = 3  # chromium's DownloadRestriction::ALL_FILES


def find_chromium() -> str:
    """Path of the browser: `CNCLIP_CHROMIUM`, else the first known name on PATH. Raises BrowserError."""
    return _find("Chromium", CHROMIUM_NAMES, "CNCLIP_CHROMIUM")


def find_chromedriver() -> str:
    """Path of the driver: `SE_CHROMEDRIVER`, else chromedriver on PATH. Raises BrowserError."""
    return _find("chromedriver", DRIVER_NAMES, "SE_CHROMEDRIVER")


def _find(what: str, names: tuple[str, ...], variable: str) -> str:
    if chosen := os.environ.get(variable):
        if path := shutil.which(chosen):
            return path
        raise BrowserError(f"{variable}={chosen}: no such program")
    if path := next(filter(None, map(shutil.which, names)), None):
        return path
    raise BrowserError(f"{what} not found: {INSTALL_HINT}, or name it with {variable}")


def browser_options(*, headless: bool, scale: float, user_data_dir: Path | None) -> Options:
    """What a new session asks for. Without `user_data_dir` the browser is on another machine, which knows
    itself where its browser is and whether that can have a sandbox. Raises BrowserError.
    """
    from selenium.webdriver.chrome.options import Options

    options = Options()
    options.page_load_strategy = "eager"  # pictures and frames may come later
    options.unhandled_prompt_behavior = "dismiss"
    flags = [*_FLAGS, f"--force-device-scale-factor={scale:g}", *(_HEADLESS_FLAGS if headless else ())]
    if user_data_dir is not None:
        _check_display(headless)
        options.binary_location = find_chromium()
        flags.append(f"{BROWSER_MARK}{user_data_dir}")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # root has none, and the browser would refuse to start
    for flag in flags:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download_restrictions": _NO_DOWNLOADS})
    return options


def _check_display(headless: bool) -> None:
    if sys.platform == "linux" and not headless and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise BrowserError("no display for a visible browser: run it on a desktop, or headless")


def driver_service(user_data_dir: Path) -> Service:
    """The driver on this machine, not started yet. Raises BrowserError if there is none."""
    from selenium.webdriver.chrome.service import Service

    return Service(
        find_chromedriver(),
        service_args=[f"{DRIVER_MARK}{user_data_dir}"],  # unknown to it, and ignored
        popen_kw={"start_new_session": True},  # Ctrl-C in the terminal is the crawler's to handle
    )
