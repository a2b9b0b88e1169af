"""A stand-in for Taobao's Open Platform that checks signatures by its own means."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl

KEY, SECRET, ZONE = "12345678", "5ecre7-0f-the-app", "987654321"
OK_NAME = "tbk_dg_material_optional_upgrade_response"


def md5_of(form: dict[str, str]) -> str:
    """The documented rule, letter by letter."""
    digest = hashlib.md5(SECRET.encode())
    for name in sorted(set(form) - {"sign"}):
        digest.update(name.encode() + form[name].encode())
    digest.update(SECRET.encode())
    return "".join(f"{byte:02X}" for byte in digest.digest())


def hmac_of(form: dict[str, str]) -> str:
    """RFC 2104 by hand."""
    text = b"".join(name.encode() + form[name].encode() for name in sorted(set(form) - {"sign"}))
    key = SECRET.encode().ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest().upper()


def error(code: int, message: str, sub_code: str = "", sub_message: str = "") -> dict[str, Any]:
    content = {"code": code, "msg": message, "sub_code": sub_code, "sub_msg": sub_message, "request_id": "x"}
    return {"error_response": content}


class Endpoint:
    """Answers `answer` (bytes or JSON) with `status`; wrong signatures get the platform's error."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.requests: list[tuple[str, str]] = []  # request line, Cookie header
        self.status = 200
        self.answer: Any = {OK_NAME: {}}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                form = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
                endpoint.forms.append(form)
                endpoint.requests.append((self.requestline, self.headers.get("Cookie", "")))
                right = {"md5": md5_of, "hmac-sha256": hmac_of}[form["sign_method"]](form)
                answer = endpoint.answer if form["sign"] == right else error(25, "Invalid signature")
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(endpoint.status)
                self.send_header("Set-Cookie", "session=1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/router/rest"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
