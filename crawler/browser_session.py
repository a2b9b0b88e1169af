"""A WebDriver session: with a driver process of our own, or at a remote end."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from crawler.browser_errors import BrowserDied, PageDialog, WindowGone, start_translated, translated
from crawler.chromium import driver_service
from crawler.errors import BrowserError

if TYPE_CHECKING:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.remote.webdriver import WebDriver

START_TIMEOUT_S, QUIT_TIMEOUT_S = 60, 15
MAX_DIALOGS = 5  # in a row; a page can open them for ever
T = TypeVar("T")


class Session:
    """Given `user_data_dir`, it starts the driver on this machine, else it asks `remote_url`.

    An answer that takes longer than `answer_timeout_s` counts as the end of the session. Raises BrowserError
    if it does not come about.
    """

    def __init__(
        self, wanted: Options, user_data_dir: Path | None, remote_url: str, answer_timeout_s: float
    ) -> None:
        os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")  # selenium looks for no driver online
        logging.getLogger("selenium.webdriver.remote").setLevel(logging.INFO)  # DEBUG has cookies' values
        self._service = driver_service(user_data_dir) if user_data_dir else None
        self._alive = True
        try:
            with start_translated("" if self._service else f" at {urlsplit(remote_url).hostname}"):
                self._driver = self._connect(wanted, remote_url)
        except BaseException:
            _collect(self._service)
            raise
        self._client.timeout = math.ceil(answer_timeout_s)

    def _connect(self, wanted: Options, url: str) -> WebDriver:
        from selenium.webdriver.common.proxy import Proxy
        from selenium.webdriver.remote.client_config import ClientConfig
        from selenium.webdriver.remote.webdriver import WebDriver

        no_retries = {"init_args_for_pool_manager": {"retries": False}}
        proxy = None
        if self._service is not None:
            self._service.start()
            url, proxy = self._service.service_url, Proxy({"proxyType": "direct"})
        self._client = ClientConfig(
            url, timeout=START_TIMEOUT_S, proxy=proxy, init_args_for_pool_manager=no_retries
        )
        return WebDriver(url, options=wanted, client_config=self._client)

    def run(self, action: Callable[[WebDriver], T]) -> T:
        """The result of WebDriver commands. Raises BrowserDied, PageError, SettingsError, nothing else."""
        for _ in range(MAX_DIALOGS):
            with contextlib.suppress(PageDialog):
                return self._run_once(action)
        return self._run_once(action)

    def _run_once(self, action: Callable[[WebDriver], T]) -> T:
        try:
            with translated():
                return action(self._driver)
        except BrowserDied as error:
            self._alive = isinstance(error, WindowGone)
            raise

    def end(self) -> None:
        """Quit the browser if it still answers, and end our driver. Browser processes may be left."""
        self._client.timeout = QUIT_TIMEOUT_S
        if not self._alive:
            _collect(self._service)  # else a hanging one would keep us waiting
        with contextlib.suppress(BrowserError):
            self.run(lambda driver: driver.quit())
        _collect(self._service)


def _collect(service: Service | None) -> None:
    """End the driver's process, and close what we hold of it."""
    process = getattr(service, "process", None)  # none if it could not be started
    if service is not None and process is not None:
        process.kill()
        process.wait()
        service.stop()
