"""The status page: who may read it, what it says, and how it looks in a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import zxingcpp
from PIL import Image

from crawler.login_events import LoginEvent, LoginStep, logged_in_words, words
from crawler.login_page import PageUI
from crawler.qr import decode_qr, draw_png
from tests.e2e.browser import Page, chromium

PAYLOAD = "https://login.m.example.com/qrcodeCheck.htm?lgToken=0123456789abcdef5ecre7"
VALUES = {"site": "淘宝 Taobao", "number": 1, "codes": 6}
SHOWN = LoginEvent(LoginStep.QR_SHOWN, words(LoginStep.QR_SHOWN, **VALUES), PAYLOAD, draw_png(PAYLOAD), 1)
LOGGED_IN = LoginEvent(LoginStep.LOGGED_IN, logged_in_words("小**明"))


def event(step: LoginStep) -> LoginEvent:
    return LoginEvent(step, words(step, **VALUES))


@pytest.fixture
def ui() -> Iterator[PageUI]:
    page = PageUI(say=[].append)
    yield page
    page.close()


def get(
    url: str, path: str | None = None, host: str | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; `path` and the Host header replace those of `url`."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.putrequest(method, parts.path if path is None else path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or parts.netloc)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def state(ui: PageUI) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(get(ui.url + "state.json")[2])
    return answer


def test_it_serves_on_loopback_below_a_random_path() -> None:
    urls = set()
    for _ in range(2):
        said: list[str] = []
        ui = PageUI(say=said.append)
        ui.show(event(LoginStep.PROBE))
        assert ui.url == "" and said == [], "whoever is logged in needs no page"
        ui.show(event(LoginStep.OPEN_LOGIN))
        assert urlsplit(ui.url).hostname == "127.0.0.1" and said[0].count(ui.url) == 1
        assert len(urlsplit(ui.url).path) >= 22, "128 random bits"
        url = ui.url
        urls.add(urlsplit(url).path)
        ui.close()
        ui.close()
        with pytest.raises(OSError):
            get(url)
    assert len(urls) == 2


def test_the_state_tells_step_words_and_code(ui: PageUI) -> None:
    ui.show(SHOWN)
    answer = state(ui)
    assert (answer["step"], answer["final"]) == ("qr_shown", False)
    assert answer["english"] == "scan the code with the 淘宝 Taobao app (code 1 of 6)"
    assert answer["chinese"].startswith("请用手机淘宝 Taobao App 扫码登录")
    kind, _, body = answer["image"].partition(",")
    assert kind == "data:image/png;base64" and decode_qr(base64.b64decode(body)) == PAYLOAD
    ui.show(event(LoginStep.SCANNED))
    assert state(ui) == {**state(ui), "step": "scanned", "image": ""}, "the code is gone once it is scanned"


def test_only_the_token_opens_it(ui: PageUI) -> None:
    ui.show(SHOWN)
    token = urlsplit(ui.url).path
    wrong = (
        "/",
        "/state.json",
        f"{token[:-2]}/",
        f"{token[:-2]}x/state.json",
        f"/x{token}",
        f"{token}x",
        "//[",
    )
    for path in wrong:
        status, _, body = get(ui.url, path)
        assert status == 404 and b"data:" not in body, path
    assert get(ui.url, token.rstrip("/"))[0] == 404
    assert get(ui.url, method="POST")[0] == 501


@pytest.mark.parametrize("host", ["evil.example:80", "127.0.0.1.evil.example", "", "[", "a@127.0.0.1x"])
def test_foreign_host_headers_are_refused(ui: PageUI, host: str) -> None:
    ui.show(SHOWN)
    status, _, body = get(ui.url + "state.json", host=host)
    assert status == 403 and b"data:" not in body


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:9000"])
def test_loopback_names_are_fine_also_through_a_tunnel(ui: PageUI, host: str) -> None:
    ui.show(SHOWN)
    assert get(ui.url + "state.json", host=host)[0] == 200


def test_nothing_is_cached_framed_or_told_to_others(ui: PageUI) -> None:
    ui.show(SHOWN)
    for url in (ui.url, ui.url + "state.json"):
        _, headers, body = get(url)
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert PAYLOAD.encode() not in body
    assert get(ui.url)[1]["Content-Security-Policy"] != get(ui.url)[1]["Content-Security-Policy"], "nonces"


def test_a_given_port_is_used_and_a_taken_one_is_an_os_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ui = PageUI(port)
        with pytest.raises(OSError):
            ui.show(SHOWN)
        ui.close()
    ui.show(SHOWN)  # free again by now
    assert urlsplit(ui.url).port == port
    ui.close()


def test_requests_are_not_logged(
    ui: PageUI, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        ui.show(SHOWN)
        token = urlsplit(ui.url).path.strip("/")
        get(ui.url)
        get(ui.url, "/wrong")
        with socket.create_connection((urlsplit(ui.url).hostname, urlsplit(ui.url).port)) as client:
            client.sendall(b"\x00\xff nonsense\r\n\r\n")
        ui.close()
    out, err = capfd.readouterr()
    for text in (caplog.text, out, err):
        assert token not in text and "lgToken" not in text


def test_who_watches_hears_the_end_before_it_closes() -> None:
    ui = PageUI()
    ui.show(SHOWN)
    assert state(ui)["final"] is False
    url = ui.url
    ui.show(LOGGED_IN)
    closing = threading.Thread(target=ui.close)
    closing.start()
    answer = json.loads(get(url + "state.json")[2])
    closing.join(10)
    assert not closing.is_alive()
    assert answer["step"] == "logged_in" and answer["final"] and "小**明" in answer["chinese"]


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    ui = PageUI()
    ui.show(event(LoginStep.OPEN_LOGIN))
    try:
        with chromium(tmp_path / "profile") as driver:
            page = Page(driver, ui.url, tmp_path)
            driver.get(ui.url)

            def says(chinese: str) -> None:
                page.wait(lambda: chinese in page.one("#chinese").text)

            says("正在打开登录页面")
            page.shoot("login-wait-light")
            for number, (name, dark, width) in enumerate(
                [("light", False, 1280), ("dark", True, 1280), ("phone-dark", True, 360)], 1
            ):
                page.dark(dark)
                page.resize(width, 800, phone=width < 400)
                payload = f"{PAYLOAD}{number}"
                line = words(LoginStep.QR_SHOWN, site="淘宝 Taobao", number=number, codes=6)
                ui.show(LoginEvent(LoginStep.QR_SHOWN, line, payload, draw_png(payload), number))
                says(f"第 {number} 个，共 6 个")
                page.shoot(f"login-code-{name}")
                with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as shot:
                    assert [code.text for code in zxingcpp.read_barcodes(shot, try_invert=False)] == [payload]
                assert page.script("return document.documentElement.scrollWidth <= innerWidth")
            page.resize(1280, 800)
            for step in (LoginStep.EXPIRED, LoginStep.SCANNED, LoginStep.IDENTITY_CHECK, LoginStep.VERIFY):
                ui.show(event(step))
                says(event(step).message.split(" · ")[1])
                page.shoot(f"login-{step.value}-dark")
                assert not page.one("#code").is_displayed()
            page.dark(False)
            ui.show(event(LoginStep.SCANNED))
            says("请在手机上确认")
            page.shoot("login-scanned-light")
            ui.show(LOGGED_IN)
            ui.close()
            says("登录成功：小**明")
            page.shoot("login-done-light")
            assert page.complaints() == []
    finally:
        ui.close()


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_says_when_the_login_has_gone_without_a_word(tmp_path: Path) -> None:
    ui = PageUI()
    ui.show(SHOWN)
    with chromium(tmp_path / "profile") as driver:
        page = Page(driver, ui.url, tmp_path)
        driver.get(ui.url)
        page.wait(lambda: page.one("#code").is_displayed())
        ui.close()
        page.wait(lambda: "登录程序已退出" in page.one("#chinese").text)
        assert not page.one("#code").is_displayed()
        page.shoot("login-closed-light")
