"""What the browser is started with, and what never."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from crawler import chromium
from crawler.chromium import browser_options, find_chromedriver, find_chromium
from crawler.errors import BrowserError

NEVER = (
    "AutomationControlled",
    "excludeSwitches",
    "useAutomationExtension",
    "user-agent",
    "proxy",
    "disable-web-security",
    "ignore-certificate-errors",
)


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the only programs there are."""
    for name in ("chromium", "chromedriver"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    for variable in ("CNCLIP_CHROMIUM", "SE_CHROMEDRIVER", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def asked(*, headless: bool = True, local: bool = True) -> dict[str, object]:
    folder = Path("/profile") if local else None
    capabilities = browser_options(headless=headless, scale=2.0, user_data_dir=folder).to_capabilities()
    assert isinstance(capabilities, dict)
    return capabilities


def arguments(*, headless: bool = True, local: bool = True) -> list[str]:
    chromes = asked(headless=headless, local=local)["goog:chromeOptions"]
    assert isinstance(chromes, dict)
    return list(chromes["args"])


@pytest.mark.parametrize("headless", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_nothing_hides_that_it_is_driven(headless: bool, local: bool) -> None:
    text = json.dumps(asked(headless=headless, local=local)).lower()
    assert not [word for word in NEVER if word.lower() in text]


def test_no_file_of_the_crawler_has_such_a_flag_or_a_command_of_chromium_alone() -> None:
    words = (*NEVER[:4], "execute_cdp", "Page.addScript", "navigator.webdriver")
    folder = Path(chromium.__file__).parent
    for file in (*folder.glob("browser*.py"), folder / "chromium.py", folder / "reaper.py"):
        text = file.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], file


def test_a_window_only_if_asked_for() -> None:
    assert "--headless" in arguments(headless=True)
    assert "--headless" not in arguments(headless=False)


@pytest.mark.parametrize(("user", "expected"), [(0, True), (1000, False)])
def test_the_sandbox_stays_on_unless_root(monkeypatch: pytest.MonkeyPatch, user: int, expected: bool) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert ("--no-sandbox" in arguments()) is expected
    assert "--no-sandbox" not in arguments(local=False)


def test_a_remote_end_is_told_nothing_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    monkeypatch.delenv("DISPLAY")
    (programs / "chromium").unlink()
    text = json.dumps(asked(headless=False, local=False))
    assert "user-data-dir" not in text
    assert "binary" not in text
    assert "--force-device-scale-factor=2" in text


def test_the_standard_part() -> None:
    wanted = asked()
    assert wanted["pageLoadStrategy"] == "eager"
    assert wanted["unhandledPromptBehavior"] == "dismiss"
    assert wanted["browserName"] == "chrome"


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY")
    assert arguments(headless=True)
    with pytest.raises(BrowserError, match=r"^no display for a visible browser"):
        arguments(headless=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert arguments(headless=False)


def test_where_the_programs_are(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    assert find_chromium() == str(programs / "chromium")
    assert find_chromedriver() == str(programs / "chromedriver")
    for name in ("other", "google-chrome"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setenv("CNCLIP_CHROMIUM", "other")
    monkeypatch.setenv("SE_CHROMEDRIVER", str(programs / "other"))
    assert find_chromium() == find_chromedriver() == str(programs / "other")
    monkeypatch.delenv("CNCLIP_CHROMIUM")
    (programs / "chromium").unlink()
    assert find_chromium() == str(programs / "google-chrome")


def test_programs_that_are_missing(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    monkeypatch.setenv("CNCLIP_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(BrowserError, match=r"^CNCLIP_CHROMIUM=/nowhere/chromium: no such program$"):
        find_chromium()
    (programs / "chromedriver").unlink()
    with pytest.raises(BrowserError, match=r"^chromedriver not found: apt-get install .* SE_CHROMEDRIVER$"):
        find_chromedriver()


def test_importing_the_browser_is_cheap() -> None:
    code = "import sys, crawler.browser; sys.exit('selenium' in sys.modules or 'urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
