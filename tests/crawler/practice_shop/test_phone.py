"""The phone's eyes: codes on pictures and in terminals; and the phone as a command."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import segno
from PIL import Image

from crawler.errors import CrawlError
from crawler.practice_shop import Phone, PracticeShop
from crawler.practice_shop.qr_reader import read_terminal
from tests.crawler.practice_shop.visitor import Visitor, eventually

PAYLOAD = "http://127.0.0.2:40123/qrcodeCheck.htm?lgToken=0123456789abcdef0123456789abcdef&tbScanOpenType=N"
COMMAND = """
import argparse, sys
from run_scripts.commands import practice_shop
parser = argparse.ArgumentParser()
practice_shop.add_arguments(parser)
sys.exit(practice_shop.run(parser.parse_args()))
"""


def save_code(payload: str, path: Path) -> None:
    segno.make(payload).save(str(path), scale=4, kind="png")
    with Image.open(path) as image:
        image.convert("RGB").save(path, "JPEG")


def terminal_art(compact: bool) -> str:
    out = io.StringIO()
    segno.make(PAYLOAD).terminal(out, compact=compact)
    return out.getvalue()


@pytest.mark.parametrize("compact", [False, True])
def test_what_segno_prints_to_a_terminal(compact: bool) -> None:
    assert read_terminal(terminal_art(compact)) == PAYLOAD


def blocks(dark: str, light: str, upper: str, lower: str) -> str:
    """The code with half blocks: a line shows two rows of modules."""
    rows = [bytes(row) for row in segno.make(PAYLOAD).matrix_iter(border=4)]
    rows.append(bytes(len(rows[0])))
    signs = {(1, 1): dark, (0, 0): light, (1, 0): upper, (0, 1): lower}
    pairs = zip(rows[::2], rows[1::2], strict=False)
    return "\n".join("".join(signs[a, b] for a, b in zip(*pair, strict=True)) for pair in pairs)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("\x1b[30;47m", "\x1b[0m"),
        ("\x1b[38;2;0;0;0m\x1b[48;2;255;255;255m", "\x1b[0m"),
        ("\x1b[38;5;16;48;5;231m", "\x1b[m"),
        ("\x1b[38:5:0;107m", "\x1b[39;49m"),
        ("\x1b[7m", "\x1b[27m"),
        ("", ""),  # light on dark: some phones refuse it, this one does not
    ],
)
def test_half_blocks_in_all_ways_to_colour_them(before: str, after: str) -> None:
    lines = blocks("█", " ", "▀", "▄").split("\n")
    text = "\n".join(
        ["Scan this code 请扫码:", *(before + line + after for line in lines), "waiting… \x1b[2K"]
    )
    assert read_terminal(text) == PAYLOAD


def test_no_code_in_a_terminal() -> None:
    for text in ("", "hello", "\x1b[31m" * 50, "█" * 400, "\x1b[38m\x1b[48;5m\x1b[38;2;1mx"):
        assert read_terminal(text) is None


def test_codes_on_pictures(tmp_path: Path, phone: Phone) -> None:
    path = tmp_path / "barcode_0.jpg"
    assert phone.decode_file(path) is None
    path.write_bytes(b"\xff\xd8 half a picture")
    assert phone.decode_file(path) is None
    save_code(PAYLOAD, path)
    assert phone.decode_file(path) == PAYLOAD
    assert phone.decode_terminal(terminal_art(True)) == PAYLOAD


def test_the_phone_waits_for_a_code_that_is_still_good(
    tmp_path: Path, shop: PracticeShop, visitor: Visitor, phone: Phone
) -> None:
    path = tmp_path / "barcode_0.jpg"
    _, stale = visitor.new_code()
    save_code(stale, path)
    token, fresh = visitor.new_code()

    def show_later() -> None:
        eventually(lambda: shop.log("scan"))
        save_code(fresh, tmp_path / "new.jpg")
        (tmp_path / "new.jpg").replace(path)

    helper = threading.Thread(target=show_later)
    helper.start()
    assert phone.answer_file(path, timeout_s=20) == "CONFIRMED"
    helper.join()
    assert [visit.status for visit in shop.log("scan")] == [410, 200]
    visitor.finish(token)
    assert "unb" in visitor.cookies(shop.search_origin)


def test_the_phone_gives_up(tmp_path: Path, shop: PracticeShop, phone: Phone, visitor: Visitor) -> None:
    with pytest.raises(CrawlError, match=r"barcode.jpg: nothing to scan within 0.1 s \(no qr code\)"):
        phone.answer_file(tmp_path / "barcode.jpg", timeout_s=0.1)
    _, stale = visitor.new_code()
    visitor.new_code()
    save_code(stale, tmp_path / "barcode.jpg")
    with pytest.raises(CrawlError, match=r"\(expired\)"):
        phone.answer_file(tmp_path / "barcode.jpg", timeout_s=1)
    assert len(shop.log("scan")) == 1, "the same code is not scanned twice"
    with (
        pytest.raises(CrawlError, match=r"no practice shop at http://127\.0\.0\.1:1 "),
        Phone("http://127.0.0.1:1") as lost,
    ):
        lost.scan(PAYLOAD)


def test_the_commands_shop_and_phone(tmp_path: Path) -> None:
    """As two processes; Ctrl-C ends the shop with exit code 0 though a picture hangs."""
    log = tmp_path / "log.jsonl"
    arguments = ["--port", "0", "--login", "required", "--log", str(log), "--bad-pictures", "hang,404"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10)]
        address = next(line.split()[1] for line in lines if line.split()[:1] == ["search"])
        with_shop = _Address(
            address, next(line.split()[1] for line in lines if line.split()[:1] == ["login"])
        )
        visitor = Visitor(with_shop)  # type: ignore[arg-type]
        token, payload = visitor.new_code()
        save_code(payload, tmp_path / "barcode_0.jpg")
        phone = [
            sys.executable,
            "-c",
            COMMAND,
            "--scan",
            str(tmp_path / "barcode_0.jpg"),
            "--shop-url",
            address,
        ]
        answer = subprocess.run(phone, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0 and "confirmed" in answer.stdout, answer.stderr
        visitor.finish(token)
        assert visitor.cards("连衣裙").all("img")
        visitor.client.close()
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(20) == 0 and time.monotonic() - started < 5
        assert process.stdout.read().endswith("closed\n")
        assert process.stderr is not None and process.stderr.read() == ""
    assert '"kind": "confirm"' in log.read_text(encoding="utf-8")


class _Address:
    """A shop in another process."""

    def __init__(self, search: str, login: str) -> None:
        self.search_origin, self.login_origin = search, login
