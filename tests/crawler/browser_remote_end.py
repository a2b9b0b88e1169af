"""A remote end that knows the W3C standard only: chromedriver as a server, behind a filter."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from crawler.chromium import find_chromedriver

EXTENSIONS = ("/chromium", "/goog/", "/se/")


class RemoteEnd(ThreadingHTTPServer):
    """What it was asked, and what it refused for not being of the standard."""

    daemon_threads = True

    def __init__(self, driver_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Filter)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.driver_port = driver_port
        self.asked: list[str] = []
        self.refused: list[str] = []


class _Filter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RemoteEnd

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path}")
        if any(part in self.path for part in EXTENSIONS):
            self.server.refused.append(self.path)
            self._answer(404, b'{"value": {"error": "unknown command", "message": "", "stacktrace": ""}}')
            return
        if (self.command, self.path) == ("POST", "/session"):
            body = _as_a_node_would(body)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.driver_port, timeout=60)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body or None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self._answer(answer.status, answer.read())

    do_GET = do_POST = do_DELETE = _forward

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Quiet."""


def _as_a_node_would(body: bytes) -> bytes:
    """The remote machine knows that its browser runs as root."""
    request = json.loads(body)
    if os.geteuid() == 0:
        request["capabilities"]["alwaysMatch"]["goog:chromeOptions"]["args"].append("--no-sandbox")
    return json.dumps(request).encode()


@contextlib.contextmanager
def remote_end() -> Iterator[RemoteEnd]:
    """A running one on a free port. Its driver starts the browser it finds, with profiles of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        driver = subprocess.Popen(
            [find_chromedriver(), "--port=0"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        )
        with driver:
            assert driver.stdout is not None
            line = next(line for line in driver.stdout if "successfully" in line)
            found = re.search(r"on port (\d+)", line)
            assert found is not None, line
            try:
                with RemoteEnd(int(found[1])) as server:
                    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
                    thread.start()
                    try:
                        yield server
                    finally:
                        server.shutdown()
                        thread.join()
            finally:
                driver.terminate()
