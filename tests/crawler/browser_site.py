"""A small web site with bad manners, and the processes of a browser as the kernel knows them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil

MARK = "CNCLIP_TEST_BROWSER"  # set in the environment of a test, inherited by whatever it starts
WAIT_S = 20
COOKIE = "keep=yes; Max-Age=86400"
PAGES = {
    "/": "<title>home</title><h1>home</h1>",
    "/cookie": "<title>cookie</title>",
    "/alert": "<title>before</title><script>alert('!'); confirm('?'); document.title = 'after'</script>",
    "/unload": "<button id=b>b</button><script>onbeforeunload = (e) => { e.preventDefault(); }</script>",
    "/loop": "<script>location.href = '/loop?' + Math.random()</script>",
    "/busy": "<title>busy</title><script>while (true) {}</script>",
    "/link": "<a id=slow href=/hang>1</a> <a id=home href=/>2</a> <a id=tab href=/ target=_blank>3</a>",
    "/frames": "<p id=where>top</p><iframe id=outer src=/inner></iframe><div id=none></div>",
    "/inner": "<p id=where>inner</p><iframe src=/deep></iframe>",
    "/deep": "<p id=where>deep</p><button id=out onclick=\"top.document.querySelector('#outer').remove()\">",
    "/elements": """<style>.box { width: 40px; height: 30px; background: #fff }</style>
        <b class=box style='display: none'></b><b class=box style='visibility: hidden; display: block'></b>
        <p class=box id=first style='position: fixed; left: 50px; background: #f00'
           onclick='document.title = this.id'></p>
        <p class=box id=second></p><p id=empty></p>
        <p id=under class=box style='position: fixed; top: 200px; left: 0'></p>
        <p class=box style='position: fixed; top: 200px; left: 0; z-index: 2'></p>""",
    # An element that is replaced by a new one right after it was looked at, up to `times` times.
    "/redraw": """<div style='height: 3000px'></div><p id=p>x</p><script>
        const times = Number(new URLSearchParams(location.search).get('times'));
        let count = 0;
        function draw() {
          const p = document.createElement('p');
          p.id = 'p'; p.textContent = 'x';
          p.onclick = () => { document.title = 'clicked ' + count };
          document.querySelector('#p').replaceWith(p);
          let first = true;
          Object.defineProperty(p, 'getBoundingClientRect', { value() {
            if (first && count < times) { first = false; count += 1; queueMicrotask(draw); }
            return Element.prototype.getBoundingClientRect.call(p);
          }});
        }
        draw();
        </script>""",
}


class Site(ThreadingHTTPServer):
    """Serves PAGES and some paths that do not answer properly; `url` ends without a slash."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.released = threading.Event()  # hanging answers end

    def handle_error(self, *_arguments: Any) -> None:
        """A browser that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/hang":
            self.server.released.wait(WAIT_S)
        elif path == "/slow-body":
            self._answer(b"<title>slow</title><p id=part>part", length=100_000)
            self.server.released.wait(WAIT_S)
        elif path == "/reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif path == "/download":
            self._answer(b"x" * 10, {"Content-Disposition": "attachment; filename=cnclip-test.bin"})
        elif path == "/nothing":
            self._answer(b"", status=204)
        elif path == "/error-empty":
            self._answer(b"", status=500)
        elif path == "/error":
            self._answer(b"<title>sorry</title>", status=502)
        else:
            headers = {"Set-Cookie": COOKIE} if path == "/cookie" else {}
            self._answer(PAGES.get(path, "").encode(), headers, status=200 if path in PAGES else 404)
            return
        self.close_connection = True

    def _answer(
        self, body: bytes, headers: dict[str, str] | None = None, status: int = 200, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/html; charset=utf-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_arguments: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """The site on a free port."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield site
        finally:
            site.released.set()
            site.shutdown()
            thread.join()


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def started_with(mark: str) -> list[psutil.Process]:
    """Living processes that inherited MARK=mark, and their descendants (renderers hide what they inherit)."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.update((each.pid, each) for each in (process, *process.children(recursive=True)))
    return alive(list(found.values()))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def nothing_left(mark: str) -> Iterator[None]:
    """Fail if at the end something that was started with the mark lives on, and end it."""
    yield
    try:
        wait_until(lambda: not started_with(mark), 5)
    finally:
        for process in started_with(mark):
            process.kill()


def one_of(processes: list[psutil.Process], kind: str) -> psutil.Process:
    """The `driver`, the `browser` (its main process) or the `watchdog` among them."""
    for process in processes:
        with contextlib.suppress(psutil.Error):  # some end by themselves
            if _kind(process.cmdline()) == kind:
                return process
    raise AssertionError(f"no {kind}")


def _kind(arguments: list[str]) -> str:
    if "crawler.reaper" in arguments:
        return "watchdog"
    if "chromedriver" in arguments[0].rpartition("/")[2]:
        return "driver"
    is_main = "--enable-automation" in arguments and not any(each.startswith("--type=") for each in arguments)
    return "browser" if is_main else "other"


def wait_until(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value
