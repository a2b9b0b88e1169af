"""What a human sees of a login: lines, codes and files. All events here are made by hand."""

from __future__ import annotations

import io
import logging
import os
import stat
from pathlib import Path

import pytest
import zxingcpp
from PIL import Image

from crawler.login_events import LoginEvent, LoginStep, failed_words, keep_words, logged_in_words, words
from crawler.login_ui import FileUI, Several, TerminalUI
from crawler.qr import draw_png
from tests.crawler.terminal import terminal_picture

PAYLOAD = "https://login.m.example.com/qrcodeCheck.htm?lgToken=5ecre7"
SCAN = words(LoginStep.QR_SHOWN, site="淘宝 Taobao", number=1, codes=6)
SHOWN = LoginEvent(LoginStep.QR_SHOWN, SCAN, PAYLOAD, draw_png(PAYLOAD), 1)
SCANNED = LoginEvent(LoginStep.SCANNED, words(LoginStep.SCANNED))


class Terminal(io.StringIO):
    """A stream that says it is a terminal, of a given encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def read(picture: Image.Image) -> str:
    (code,) = zxingcpp.read_barcodes(picture)
    return str(code.text)


def test_a_terminal_shows_the_code_and_what_to_do() -> None:
    stream = Terminal()
    TerminalUI(stream).show(SHOWN)
    assert read(terminal_picture(stream.getvalue())) == PAYLOAD
    assert stream.getvalue().splitlines()[-1] == SCAN
    assert "scan the code with the 淘宝 Taobao app (code 1 of 6)" in SCAN and "扫码登录" in SCAN


def test_a_pipe_gets_the_line_only_unless_forced() -> None:
    quiet, forced = io.StringIO(), io.StringIO()
    TerminalUI(quiet).show(SHOWN)
    assert quiet.getvalue() == f"{SCAN}\n"
    TerminalUI(forced, force=True).show(SHOWN)
    assert read(terminal_picture(forced.getvalue())) == PAYLOAD


@pytest.mark.parametrize(
    ("stream", "event"),
    [
        (Terminal("gb2312"), SHOWN),  # no half blocks
        (Terminal(), LoginEvent(LoginStep.QR_SHOWN, SCAN, None, draw_png(PAYLOAD), 1)),
        (Terminal(), LoginEvent(LoginStep.QR_SHOWN, SCAN, "x" * 4000, draw_png(PAYLOAD), 1)),
    ],
    ids=["encoding", "unreadable", "too long"],
)
def test_a_code_that_cannot_be_drawn_is_said(stream: Terminal, event: LoginEvent) -> None:
    TerminalUI(stream).show(event)
    first, last = stream.getvalue().splitlines()
    assert "scan the picture" in first and "请扫描图片" in first and last == SCAN


def test_a_narrow_terminal_does_not_get_a_wrapped_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: 1)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((40, 24)))
    TerminalUI(stream).show(SHOWN)
    first, last = stream.getvalue().splitlines()
    assert "columns wide" in first and last == SCAN


def test_every_step_has_words_in_both_languages() -> None:
    for step in LoginStep:
        if step in (LoginStep.KEEP_LOGIN, LoginStep.LOGGED_IN, LoginStep.FAILED):
            continue
        message = words(step, site="淘宝", number=2, codes=6)
        english, chinese = message.split(" · ")
        assert english.replace("淘宝", "").replace("“", "").replace("”", "").isascii()
        assert any("一" <= character <= "鿿" for character in chinese)
        assert "\n" not in message and "{" not in message
    assert "code 2 of 6" in words(LoginStep.EXPIRED, site="", number=2, codes=6)
    assert "answered: no" in keep_words(False) and "已回答：是" in keep_words(True)
    assert logged_in_words("") == "logged in · 登录成功"
    assert logged_in_words("小*明") == "logged in as 小*明 · 登录成功：小*明"
    assert failed_words("login timed out after 300 s").startswith("login timed out after 300 s · ")


def test_the_picture_file_is_there_while_there_is_something_to_scan(tmp_path: Path) -> None:
    said: list[str] = []
    ui = FileUI(tmp_path / "codes", 3, said.append)
    ui.show(LoginEvent(LoginStep.PROBE, "…"))
    assert not ui.path.exists() and ui.path.name == "barcode_3.jpg"
    ui.show(SHOWN)
    with Image.open(ui.path) as picture:
        assert picture.format == "JPEG" and read(picture) == PAYLOAD
        assert picture.width >= 8 * 33, "at least 8 pixels per module"
    if os.name == "posix":
        assert stat.S_IMODE(ui.path.stat().st_mode) == 0o600
    other = PAYLOAD + "2"
    ui.show(LoginEvent(LoginStep.QR_SHOWN, SCAN, other, draw_png(other), 2))
    with Image.open(ui.path) as picture:
        assert read(picture) == other
    ui.show(SCANNED)
    assert list(tmp_path.rglob("*.jpg")) == [], "of no use once it is scanned"
    ui.show(SHOWN)
    ui.close()
    ui.close()
    assert list((tmp_path / "codes").iterdir()) == [], "no temporary file either"
    assert len(said) == 1 and str(ui.path) in said[0]


def test_a_code_that_cannot_be_read_is_handed_on_as_it_is(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (160, 160), (10, 200, 30)).save(file, "PNG")
    ui = FileUI(tmp_path)
    ui.show(LoginEvent(LoginStep.QR_SHOWN, SCAN, None, file.getvalue(), 1))
    with Image.open(ui.path) as picture:
        red, green, blue = picture.getpixel((5, 5))  # type: ignore[misc]
    assert abs(red - 10) < 4 and abs(green - 200) < 4 and abs(blue - 30) < 4


class Broken:
    def __init__(self) -> None:
        self.closed = 0

    def show(self, *_: object) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.closed += 1
        raise OSError(5, "Input/output error")


def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    stream, broken = Terminal(), Broken()
    ui = Several([broken, TerminalUI(stream)])
    with caplog.at_level(logging.DEBUG):
        ui.show(SHOWN)
        ui.show(SCANNED)
        ui.close()
    assert read(terminal_picture(stream.getvalue())) == PAYLOAD and SCANNED.message in stream.getvalue()
    assert [record.message for record in caplog.records] == [
        "Broken cannot show the login: No space left on device",
        "Broken cannot be cleaned up: Input/output error",
    ]
    assert broken.closed == 1


def test_an_event_does_not_tell_its_secrets() -> None:
    assert "5ecre7" not in repr(SHOWN) and "PNG" not in repr(SHOWN)
