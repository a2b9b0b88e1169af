"""A web page on this machine that shows a login: the code, and what to do next, in Chinese and English.

It listens on 127.0.0.1 only, below a random path that the terminal tells, and answers no request made out for
another host (a foreign site could otherwise read it by DNS rebinding). The page asks for news by itself.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from crawler.errors import SettingsError
from crawler.login_events import SEPARATOR, LoginEvent, LoginStep, to_stderr
from crawler.login_page_html import HTML

logger = logging.getLogger(__name__)

ADDRESS, MAX_PORT = "127.0.0.1", 65535
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_REQUEST_TIMEOUT_S = 10
_WATCHED_S, _FAREWELL_S = 3.0, 2.0  # a page that asked so lately gets so long to hear how it ended


class PageUI:
    """Serves the page from when there is something to do until `close`.

    It may be used again after that, under another address.

    Args:
        port: 0 takes a free one.
        say: told the address.

    Raises:
        SettingsError: there is no such port.
    """

    def __init__(self, port: int = 0, say: Callable[[str], None] = to_stderr) -> None:
        if not 0 <= port <= MAX_PORT:
            raise SettingsError(f"port of the login page: must be 0 to {MAX_PORT}, not {port}")
        self._port, self._say = port, say
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Address with its secret path; "" while nothing is served."""
        return self._server.url if self._server else ""

    def show(self, event: LoginEvent) -> None:
        """Put it on the page. Raises OSError if the port is taken."""
        if self._server is None:
            if event.step is LoginStep.PROBE or event.step.final:
                return  # nothing anyone would open a page for
            self._server = _Server(self._port)
            self._say(f"the code as a page: {self.url}{SEPARATOR}也可以在浏览器中打开以上网址扫码")
        self._server.publish(event)

    def close(self) -> None:
        """Stop; whoever is looking at the page still hears how the login ended."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class _Server(ThreadingHTTPServer):
    """The listening socket, its thread, and the state the page asks for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.token = secrets.token_urlsafe(16)
        self.url = f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"
        self._state: dict[str, Any] = {"step": "", "chinese": "", "english": "", "image": "", "final": False}
        self._asked = -_WATCHED_S
        self._told_the_end = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of our own name, which can hang on a broken DNS."""
        TCPServer.server_bind(self)

    def handle_error(self, *_: Any) -> None:
        """A page that was closed while we answered is no news; and a traceback might hold the path."""
        logger.debug("login page: a request failed")

    def publish(self, event: LoginEvent) -> None:
        english, _, chinese = event.message.partition(SEPARATOR)
        image = base64.b64encode(event.png).decode() if event.png is not None else ""
        self._state = {  # replaced as a whole: handlers read it from other threads
            "step": event.step.value,
            "chinese": chinese,
            "english": english,
            "image": f"data:image/png;base64,{image}" if image else "",
            "final": event.step.final,
        }

    def tell(self, send: Callable[[bytes], None]) -> None:
        """`send` the state as JSON to a page that asks."""
        self._asked = time.monotonic()
        state = self._state  # may be replaced while it is sent
        send(json.dumps(state).encode())
        if state["final"]:
            self._told_the_end.set()

    def stop(self) -> None:
        if self._state["final"] and time.monotonic() - self._asked < _WATCHED_S:
            self._told_the_end.wait(_FAREWELL_S)
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT_S
    server_version, sys_version = "cnclip", ""

    def do_GET(self) -> None:
        """The page, its state, or 404 for all else."""
        if not _is_loopback(self.headers.get("Host", "")):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"not for this host\n")
            return
        token, _, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        if known and name == "state.json":
            self.server.tell(partial(self._answer, HTTPStatus.OK, "application/json"))
        elif known and name == "" and self.path.endswith("/"):
            nonce = secrets.token_urlsafe(16)
            self._answer(
                HTTPStatus.OK, "text/html; charset=utf-8", HTML.replace("{nonce}", nonce).encode(), nonce
            )
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not found\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, nonce: str = "") -> None:
        own = f"'nonce-{nonce}'" if nonce else "'none'"
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; script-src {own}; style-src {own}; "
            "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests contain the secret path."""


def _is_loopback(host_header: str) -> bool:
    try:
        return urlsplit(f"//{host_header}").hostname in _LOOPBACK
    except ValueError:
        return False
