"""A small site with a QR login, on this machine: its pages are real, its phone is a method call.

Nothing here is shared with the crawler. Codes are drawn by segno (an img) or by the page's own script (a
canvas), and only the newest one of a visitor is worth anything.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import threading
from dataclasses import dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import segno

BOX = Path(__file__).with_name("login_box.html")


@dataclass
class Manners:
    """kind: canvas, tainted (a canvas the page may not read), or img. framed: the box is in an iframe.
    expiry: overlay, or silent (the code just stops working). keep: ask "stay logged in?"."""

    kind: str = "canvas"
    framed: bool = False
    expiry: str = "overlay"
    identity: bool = False
    keep: bool = False
    captcha: bool = False


class LoginSite:
    """A context manager. `visits` are the paths that were asked for, in order."""

    def __init__(self) -> None:
        self.manners = Manners()
        self.codes: dict[str, str] = {}  # token → NEW, SCANNED, CONFIRMED, CANCELLED, EXPIRED
        self.sessions: set[str] = set()
        self.proven = False
        self.kept: str | None = None
        self.visits: list[str] = []
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> LoginSite:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def start_over(self, **manners: Any) -> None:
        """Forget everybody; cookies that browsers still have are refused."""
        self.manners, self.proven, self.kept = Manners(**manners), False, None
        self.codes.clear()
        self.sessions.clear()
        self.visits.clear()

    def profile(self, **login: Any) -> dict[str, Any]:
        """Content of its profile file; `login` replaces fields of that section."""
        section = {
            "url": f"{self.url}/member/login",
            "wall_url": [rf"^{re.escape(self.url)}/member/login"],
            "probe_url": f"{self.url}/my",
            "cookies": ["uid", "nick"],
            "nick_cookies": ["nick"],
            "frame": ["iframe.login"],
            "switch": [".icon-qrcode"],
            "code": ["#qr canvas.code", "#qr img.code"],
            "refresh": [".refresh"],
            "expired_texts": ["二维码已失效"],
            "scanned_texts": ["扫码成功"],
            "cancelled_texts": ["您已取消"],
            "keep_dialog": ["#keep"],
            "keep_yes": ["#keep .yes"],
            "keep_no": ["#keep .no"],
            "poll_s": 0.2,
            "timeout_s": 90,
            **login,
        }
        return {
            "name": "site",
            "search": {"url": f"{self.url}/search?q={{query}}"},
            "hosts": {"page": [self.host], "image": [], "qr": [self.host]},
            "products": {"link": ["/item/(?P<id>[0-9]+)"]},
            "challenge": {"captcha_selectors": [".slider"], "identity_url": ["/iv/"]},
            "login": section,
        }

    # --- the phone

    def phone(self, payload: str, state: str) -> str:
        """Scan, confirm or cancel (the new `state`); what the phone then shows."""
        assert payload.startswith(f"{self.url}/qr?lgToken="), payload
        token = payload.rpartition("=")[2]
        before = {"SCANNED": "NEW", "CONFIRMED": "SCANNED", "CANCELLED": "SCANNED"}[state]
        if self.codes.get(token) == before:
            self.codes[token] = state
        return self.codes.get(token, "UNKNOWN")

    def expire(self) -> None:
        """The newest code has had its time."""
        self.codes[list(self.codes)[-1]] = "EXPIRED"

    # --- what the pages ask

    def new_code(self) -> dict[str, Any]:
        for token in self.codes:
            self.codes[token] = "EXPIRED"
        token = secrets.token_hex(16)
        self.codes[token] = "NEW"
        code = segno.make_qr(self.payload(token))
        return {"token": token, "modules": ["".join(map(str, row)) for row in code.matrix]}

    def payload(self, token: str) -> str:
        return f"{self.url}/qr?lgToken={token}"

    def poll(self, token: str) -> dict[str, Any]:
        state = self.codes.get(token, "EXPIRED")
        if state == "EXPIRED" and self.manners.expiry == "silent":
            state = "NEW"
        step = "/iv/check" if self.manners.identity else "/finish"
        return {"state": state, "keep": self.manners.keep, "next": f"{step}?t={token}"}


class _Handler(BaseHTTPRequestHandler):
    site: LoginSite
    timeout = 10

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        words = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.site.visits.append(parts.path)
        page = getattr(self, "page_" + parts.path.strip("/").replace("/", "_").replace(".", "_"), None)
        if page is None:
            self._send(404, "text/plain", b"no such page")
        else:
            page(words)

    def page_my(self, _: dict[str, str]) -> None:
        if not self._logged_in():
            self._redirect("/member/login")
        else:
            self._html('<h1>我的</h1><a href="/member/login">亲，请登录</a>')

    def page_home(self, _: dict[str, str]) -> None:
        self._html('<h1>首页</h1><a href="/member/login">亲，请登录</a><i class="icon-qrcode">▦</i>')

    def page_member_login(self, _: dict[str, str]) -> None:
        if self.site.manners.captcha:
            self._html('<div class="slider" style="position:fixed;inset:100px">slide</div>')
        elif self.site.manners.framed:
            hidden = '<iframe class="login" src="/box" style="position:absolute;left:-5000px"></iframe>'
            self._html(hidden + '<iframe class="login" src="/box" width="400" height="420"></iframe>')
        else:
            self.page_box({})

    def page_box(self, _: dict[str, str]) -> None:
        self._html(BOX.read_text(encoding="utf-8").replace("$kind", self.site.manners.kind))

    def page_new(self, _: dict[str, str]) -> None:
        self._json(self.site.new_code())

    def page_poll(self, words: dict[str, str]) -> None:
        self._json(self.site.poll(words["t"]))

    def page_code_png(self, words: dict[str, str]) -> None:
        file = io.BytesIO()
        segno.make_qr(self.site.payload(words["t"])).save(file, kind="png", scale=4)
        self._send(200, "image/png", file.getvalue())

    def page_dot_png(self, _: dict[str, str]) -> None:
        file = io.BytesIO()
        segno.make_micro("1").save(file, kind="png", border=0)
        self._send(200, "image/png", file.getvalue())

    def page_iv_check(self, words: dict[str, str]) -> None:
        self._html(
            f"<h1>身份验证</h1><script>setInterval(async () => {{ if (await (await fetch('/proven'))"
            f".json()) location.replace('/finish?t={words['t']}') }}, 200)</script>"
        )

    def page_proven(self, _: dict[str, str]) -> None:
        self._json(self.site.proven)

    def page_finish(self, words: dict[str, str]) -> None:
        proven = self.site.proven or not self.site.manners.identity
        if self.site.codes.get(words["t"]) != "CONFIRMED" or not proven:
            self._redirect("/member/login")
            return
        session = secrets.token_hex(8)
        self.site.sessions.add(session)
        self.site.kept = words.get("keep")
        self._redirect("/hop", f"uid={session}", "nick=%5Cu5c0f%5Cu660e123")

    def page_hop(self, _: dict[str, str]) -> None:
        self._html("<script>setTimeout(() => location.replace('/home'), 600)</script>")

    def _logged_in(self) -> bool:
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        return "uid" in cookies and cookies["uid"].value in self.site.sessions

    def _redirect(self, path: str, *cookies: str) -> None:
        self._send(302, "text/plain", b"", *cookies, location=path)

    def _html(self, body: str) -> None:
        page = f"<!doctype html><meta charset=utf-8><title>site</title><body>{body}"
        self._send(200, "text/html; charset=utf-8", page.encode(), "cookie2=anonymous")

    def _json(self, content: Any) -> None:
        self._send(200, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, body: bytes, *cookies: str, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for cookie in cookies:
            self.send_header("Set-Cookie", f"{cookie}; Path=/; Max-Age=86400")
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
