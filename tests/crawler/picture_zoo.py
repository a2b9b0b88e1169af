"""An image host that does everything an image host should not."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from PIL import Image, ImageDraw

UNTIL_GONE_S = 10.0  # how long the slow ones go on if nobody hangs up


Image.init()
KINDS = [kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP") if kind in Image.SAVE]


def product(size: tuple[int, int] = (320, 240), colour: str = "crimson", number: int = 0) -> Image.Image:
    """A coloured thing on white, a different one for each number."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    for part in range(5):
        left, top = (
            (number * 53 + part * 71) % (width * 2 // 3),
            (number * 31 + part * 47) % (height * 2 // 3),
        )
        box = (left, top, left + width // 4, top + height // 4)
        draw.ellipse(box, fill=colour) if (number >> part) & 1 else draw.rectangle(box, fill=colour)
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file of this kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@dataclass(frozen=True)
class Reply:
    """What a path answers. length: the Content-Length that is told, by default the true one; None: none.
    ending: what happens after the body: "" | "reset" | "drip" | "stream" | "silence"."""

    status: int = 200
    body: bytes = b""
    mime: str = "image/jpeg"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = -1
    ending: str = ""
    needs_referer: bool = False


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it; header names in lower case."""

    path: str
    headers: dict[str, str]


class Zoo:
    """Serves `replies` on 127.0.0.1, notes every request in `seen`, and counts bytes of bodies in `sent`."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.seen: list[Seen] = []
        self.sent = 0
        zoo = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                zoo.seen.append(Seen(self.path, {k.lower(): v for k, v in self.headers.items()}))
                with contextlib.suppress(OSError):  # the client may hang up at any time
                    zoo._answer(self)
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.host = f"127.0.0.1:{self._server.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def add(self, path: str, reply: Reply) -> str:
        """Serve `reply` there; gives its address."""
        self.replies[path] = reply
        return self.url(path)

    def __enter__(self) -> Zoo:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        reply = self.replies.get(handler.path.partition("?")[0], Reply(404))
        if reply.needs_referer and not handler.headers.get("Referer"):
            reply = Reply(403)
        handler.send_response(reply.status)
        if reply.mime:
            handler.send_header("Content-Type", reply.mime)
        if reply.length is not None:
            handler.send_header("Content-Length", str(len(reply.body) if reply.length < 0 else reply.length))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body)
        self._end(handler, reply.ending)

    def _end(self, handler: BaseHTTPRequestHandler, ending: str) -> None:
        until = time.monotonic() + UNTIL_GONE_S
        if ending == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        while ending in ("drip", "stream") and time.monotonic() < until:
            self.sent += handler.wfile.write(b"x" if ending == "drip" else bytes(65536))
            time.sleep(0.02 if ending == "drip" else 0)
        if ending == "silence":
            handler.connection.settimeout(UNTIL_GONE_S)
            handler.connection.recv(1)  # returns when the client hangs up


class RawServer:
    """Accepts connections on 127.0.0.1 and hands each to `serve`, one after the other."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._serve = serve
        self._thread = threading.Thread(target=self._run)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # of accept, once the listener is shut down
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(UNTIL_GONE_S)
                    self._serve(connection)
