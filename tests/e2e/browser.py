"""A headless Chromium for the tests of the page, and what they do with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from preprocess.chrome import FLAGS, find_chromedriver, find_chromium

WAIT_S = 20


@contextmanager
def chromium(profile: Path, language: str = "zh-CN") -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own that speaks `language`."""
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")  # Selenium Manager would go online
    options = Options()
    options.binary_location = find_chromium() or "chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--lang={language}", "--window-size=1280,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(find_chromedriver() or "chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page of one server in one browser."""

    def __init__(self, driver: webdriver.Chrome, url: str, shots: Path) -> None:
        self.driver = driver
        self.url = url
        self._shots = shots

    def open(self, path: str = "/") -> None:
        self.driver.get(self.url + path)
        self.wait(lambda: self.one("#search .go").text)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until `condition()` is true; while elements come and go it counts as false."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

        ignored = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.driver, WAIT_S, 0.02, ignored).until(lambda _: condition())

    @property
    def state(self) -> str:
        return str(self.script("return document.body.dataset.state"))

    def wait_for(self, state: str) -> None:
        self.wait(lambda: self.state == state)

    def wait_for_results(self) -> None:
        """Until results are shown with all their pictures that are in view."""
        self.wait_for("results")
        loaded = (
            "return [...document.querySelectorAll('#results img')].every((img) => "
            "img.getBoundingClientRect().top > innerHeight || (img.complete && img.naturalWidth > 0))"
        )
        self.wait(lambda: self.script(loaded))

    def search(self, text: str) -> None:
        box = self.one("#q")
        box.clear()
        box.send_keys(text)
        self.one("#search .go").click()

    def titles(self) -> list[str]:
        return [name.text for name in self.all("#results .name")]

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """Id, or else title, of the element that has the focus."""
        return str(self.script("const e = document.activeElement; return e.id || e.title || e.tagName"))

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})

    def dark(self, on: bool) -> None:
        value = "dark" if on else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def shoot(self, name: str) -> None:
        """A screenshot, kept in $CNCLIP_SCREENSHOTS too if that is set."""
        path = self._shots / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        if folder := os.environ.get("CNCLIP_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)

    def complaints(self) -> list[str]:
        """Errors the browser logged since the last call: scripts, policy violations, failed loads."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
