"""A visitor without a browser: does over HTTP what the shop's pages do in one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx

from crawler.practice_shop import PracticeShop
from crawler.practice_shop.phone import Phone

# Connecting may take its time on a busy machine; an answer that does not come is noticed soon.
SOON = httpx.Timeout(10, read=0.5)
LOGIN_PAGE = "/havanaone/login/login.htm?bizName=taobao"


class Page(HTMLParser):
    """Elements of a piece of HTML as (tag, attributes), and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Visitor:
    """Keeps cookies as a browser does and follows redirects."""

    def __init__(self, shop: PracticeShop) -> None:
        self.shop = shop
        self.client = httpx.Client(follow_redirects=True, trust_env=False, timeout=5)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(urljoin(self.shop.search_origin, path), **options)

    def open(self, query: str, page: int = 1) -> httpx.Response:
        return self.get("/search", params={"q": query, "page": page})

    def data(self, shell: str) -> dict[str, Any]:
        """What the shell's script would ask for."""
        config = re.search(r'id="page-config">(.*?)</script>', shell)
        assert config, shell
        answer: dict[str, Any] = self.get(json.loads(config[1])["data"]).json()
        return answer

    def cards(self, query: str, page: int = 1) -> Page:
        """The cards of a result page."""
        answer = self.data(self.open(query, page).text)
        assert answer["ret"][0].startswith("SUCCESS"), answer
        return Page(answer["data"]["html"])

    def new_code(self) -> tuple[str, str]:
        """(token, payload) of a new QR code; opens the login page first, as a visitor must."""
        self.client.get(self.shop.login_origin + LOGIN_PAGE)
        content = self.client.post(f"{self.shop.login_origin}/newlogin/qrcode/generate.do").json()
        data = content["content"]["data"]
        return data["t"], data["codeContent"]

    def poll(self, token: str) -> dict[str, Any]:
        answer = self.client.post(f"{self.shop.login_origin}/newlogin/qrcode/query.do", params={"t": token})
        data: dict[str, Any] = answer.json()["content"]["data"]
        return data

    def finish(self, token: str) -> httpx.Response:
        """Go where the page goes once its code was confirmed."""
        return self.client.get(self.shop.login_origin + self.poll(token)["redirect"])

    def log_in(self) -> httpx.Response:
        token, payload = self.new_code()
        with Phone(self.shop.search_origin) as phone:
            assert phone.scan(payload) == "SCANED"
            assert phone.confirm(payload) == "CONFIRMED"
        return self.finish(token)

    def cookies(self, origin: str) -> set[str]:
        """Names of the cookies that a request to `origin` would carry."""
        request = self.client.build_request("GET", origin)
        return set(re.findall(r"([^=; ]+)=", request.headers.get("cookie", "")))


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
