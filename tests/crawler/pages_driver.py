"""Hand-written pages of a shop, a server that shows them, and a headless Chromium to look at them.

`http://127.0.0.1:<port>/<page>/<any path>?q=<query>` shows pages/<page>.html; `box=` puts another query into
its search box. The browser reaches nothing but this machine.
"""

from __future__ import annotations

import html
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from crawler.profile import Profile, load_profile
from crawler.snapshot import Snapshot, take_snapshot
from preprocess.chrome import FLAGS, find_chromedriver, find_chromium

PAGES = Path(__file__).parent / "pages"
QUERY = "连衣裙"


def _png(size: str) -> bytes:
    width, _, height = size.partition("x")
    stream = io.BytesIO()
    Image.new("RGB", (int(width), int(height)), "red").save(stream, "PNG")
    return stream.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.split("/")[1]
        status, kind, body = 200, "text/html; charset=utf-8", "<!doctype html><p>frame</p>"
        if name.isdigit():
            status, body = int(name), f"<h1>{name}</h1>"
        elif name == "redirect":
            self.send_response(302)
            self.send_header("Location", "/login/member/login.jhtml")
            self.end_headers()
            return
        elif name == "picture":  # /picture/300x200/any
            self._send(200, "image/png", _png(parts.path.split("/")[2]))
            return
        elif (PAGES / f"{name}.json").is_file():
            kind, body = "application/json", (PAGES / f"{name}.json").read_text(encoding="utf-8")
        elif (PAGES / f"{name}.html").is_file():
            asked = parse_qs(parts.query)
            query = asked.get("q", [""])[0]
            body = (PAGES / f"{name}.html").read_text(encoding="utf-8")
            body = body.replace("__QUERY__", html.escape(query))
            body = body.replace("__BOX__", html.escape(asked.get("box", [query])[0]))
        self._send(status, kind, body.encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Set-Cookie", "unb=2206686532409; Path=/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pages_server() -> Iterator[str]:
    """Serves the pages; gives the origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class PagesBrowser:
    """The few things of crawler.browser.Browser that a source uses."""

    def __init__(self, driver: webdriver.Chrome, origin: str) -> None:
        self._driver, self.origin = driver, origin
        self.profile = local_profile(origin)
        self.log: list[str] = []

    def start(self) -> None:
        self.log.append("start")

    def close(self) -> None:
        self.log.append("close")

    def single_window(self) -> None:
        self.log.append("single_window")

    def goto(self, url: str) -> bool:
        self.log.append(url)
        try:
            self._driver.get("about:blank")
            self._driver.get(url)
        except TimeoutException:
            self._driver.execute_script("window.stop()")
            return False
        except WebDriverException:  # refused, reset
            return False
        return True

    def script(self, code: str, *arguments: object) -> Any:
        return self._driver.execute_script(code, *arguments)

    def html(self) -> str:
        return self._driver.page_source

    def screenshot(self) -> bytes:
        return self._driver.get_screenshot_as_png()

    def cookies(self) -> dict[str, str]:
        return {cookie["name"]: cookie["value"] for cookie in self._driver.get_cookies()}

    def open(self, page: str, query: str = QUERY, path: str = "search", **more: str) -> None:
        """Show a page for a query."""
        extra = "".join(f"&{name}={quote(value, safe='')}" for name, value in more.items())
        self.goto(f"{self.origin}/{page}/{path}?q={quote(query, safe='')}{extra}")

    def wait_until_loaded(self) -> None:
        """Until pictures and frames are there as well."""
        WebDriverWait(self._driver, 20, 0.02).until(
            lambda _: self.script("return document.readyState") == "complete"
        )

    def look(self, page: str, query: str = QUERY, path: str = "search", **more: str) -> Snapshot:
        """A snapshot of a page, once it is loaded."""
        self.open(page, query, path, **more)
        self.wait_until_loaded()
        return take_snapshot(self, self.profile)  # type: ignore[arg-type]


def local_profile(origin: str, page: str = "layout_2025") -> Profile:
    """Taobao's own profile, moved to our server; selectors, texts and patterns of products stay."""
    profile = load_profile("taobao")
    host = urlsplit(origin).netloc
    assert profile.login
    wall = (*profile.login.wall_url, f"^{origin}/login/")
    return profile.model_copy(
        update={
            "search": profile.search.model_copy(update={"url": f"{origin}/{page}/search?q={{query}}"}),
            "hosts": profile.hosts.model_copy(update={"page": (host,), "image": (host,)}),
            "login": profile.login.model_copy(update={"wall_url": wall}),
        }
    )


@contextmanager
def pages_browser() -> Iterator[PagesBrowser]:
    """A browser that resolves no host name, and the server of the pages."""
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")  # Selenium Manager would go online
    options = Options()
    options.binary_location = find_chromium() or "chromium"
    options.page_load_strategy = "eager"
    with tempfile.TemporaryDirectory() as profile, pages_server() as origin:
        here = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        for flag in (*FLAGS, here, f"--user-data-dir={profile}", "--window-size=1366,900", "--lang=zh-CN"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(find_chromedriver() or "chromedriver"))
        try:
            driver.set_page_load_timeout(20)
            yield PagesBrowser(driver, origin)
        finally:
            driver.quit()


@pytest.fixture(scope="module")
def pages() -> Iterator[PagesBrowser]:
    """One browser for a file of tests."""
    with pages_browser() as browser:
        yield browser
