"""Codes we draw are read by zxing, codes we read are drawn by segno."""

from __future__ import annotations

import io

import pytest
import segno
import zxingcpp
from PIL import Image

from crawler.qr import MODULE_PX, decode_qr, draw_png, draw_terminal, terminal_width, to_jpeg
from tests.crawler.terminal import terminal_picture, terminal_pixels

TOKEN = "https://login.m.example.com/qrcodeCheck.htm?lgToken=" + "0123456789abcdef" * 2
PAYLOADS = (TOKEN, TOKEN + "&tbScanOpenType=Notification&ttid=x", "A", "淘宝 扫码")


def read(picture: Image.Image) -> str:
    (code,) = zxingcpp.read_barcodes(picture)
    return str(code.text)


def drawn(payload: str, scale: int = 4, border: int = 4, kind: str = "PNG", **colours: str | None) -> bytes:
    file = io.BytesIO()
    segno.make_qr(payload, error="m").save(file, kind="png", scale=scale, border=border, **colours)
    if kind == "PNG":
        return file.getvalue()
    with Image.open(file) as picture:
        out = io.BytesIO()
        picture.convert("RGB").save(out, kind)
        return out.getvalue()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_terminal_shows_a_code_that_phones_read(payload: str) -> None:
    assert read(terminal_picture(draw_terminal(payload))) == payload


def test_the_terminal_code_is_dark_on_light_with_a_quiet_zone_of_four() -> None:
    rows = terminal_pixels(draw_terminal(TOKEN))
    assert {grey for row in rows for grey in row} == {0, 255}
    dark = [(x, y) for y, row in enumerate(rows) for x, grey in enumerate(row) if grey == 0]
    assert min(x for x, _ in dark) == min(y for _, y in dark) == 4
    assert max(x for x, _ in dark) == len(rows[0]) - 5
    assert rows[4][4:11] == [0] * 7, "the finder pattern, dark"


def test_the_terminal_code_is_small() -> None:
    payload = (TOKEN + "&tbScanOpenType=Notification").ljust(120, "x")
    lines = draw_terminal(payload).splitlines()
    assert len(payload) == 120
    assert terminal_width(payload) == 49 <= 80
    assert len(lines) == 25
    assert all(len(rows) == 49 for rows in terminal_pixels(draw_terminal(payload)))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_drawn_pictures_are_crisp_and_readable(payload: str) -> None:
    with Image.open(io.BytesIO(draw_png(payload))) as picture:
        assert read(picture) == payload
        counts = picture.convert("L").histogram()
        assert sum(counts[1:255]) == 0 < min(counts[0], counts[255]), "black and white only"
    assert MODULE_PX >= 8


def test_the_jpeg_keeps_the_size_and_reads_back() -> None:
    png = draw_png(TOKEN)
    jpeg = to_jpeg(png)
    assert jpeg is not None
    with Image.open(io.BytesIO(png)) as before, Image.open(io.BytesIO(jpeg)) as after:
        assert after.format == "JPEG" and after.size == before.size
        assert read(after) == TOKEN


def test_small_pictures_are_enlarged_for_the_jpeg() -> None:
    jpeg = to_jpeg(drawn(TOKEN, scale=2))
    assert jpeg is not None
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert min(picture.size) >= 400
        assert read(picture) == TOKEN


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
@pytest.mark.parametrize("border", [0, 4])
def test_small_codes_are_read(scale: int, border: int) -> None:
    assert decode_qr(drawn(TOKEN, scale, border)) == TOKEN


def test_a_blurred_code_is_read_enlarged() -> None:
    with Image.open(io.BytesIO(drawn(TOKEN, 8, 2))) as code:
        blurred, file = code.convert("L").resize((52, 52), Image.Resampling.BILINEAR), io.BytesIO()
    assert zxingcpp.read_barcodes(blurred) == [], "the reader alone cannot"
    blurred.save(file, "PNG")
    assert decode_qr(file.getvalue()) == TOKEN


def test_jpeg_inverted_and_transparent_codes_are_read() -> None:
    assert decode_qr(drawn(TOKEN, kind="JPEG")) == TOKEN
    assert decode_qr(drawn(TOKEN, dark="white", light="black")) == TOKEN
    canvas, file = Image.new("RGBA", (300, 300), (0, 0, 0, 0)), io.BytesIO()
    for y, row in enumerate(segno.make_qr(TOKEN).matrix_iter(scale=4)):
        for x in (x for x, dark in enumerate(row) if dark):
            canvas.putpixel((x + 50, y + 50), (0, 0, 0, 255))
    canvas.save(file, "PNG")
    assert decode_qr(file.getvalue()) == TOKEN, "a canvas is transparent black where nothing was drawn"


def test_a_code_with_a_logo_on_a_page_is_read() -> None:
    with Image.open(io.BytesIO(drawn(TOKEN, scale=5))) as code:
        page = Image.new("RGB", (900, 700), (255, 80, 0))
        page.paste(code.convert("RGB"), (300, 200))
        middle = (300 + code.width // 2, 200 + code.height // 2)
    page.paste((255, 80, 0), (middle[0] - 14, middle[1] - 14, middle[0] + 14, middle[1] + 14))
    file = io.BytesIO()
    page.save(file, "PNG")
    assert decode_qr(file.getvalue()) == TOKEN


def test_what_is_no_code_is_none() -> None:
    blank = io.BytesIO()
    Image.new("RGB", (200, 200), "white").save(blank, "PNG")
    gif = io.BytesIO()
    Image.new("L", (20, 20)).save(gif, "GIF")
    whole = drawn(TOKEN)
    for data in (b"", b"not a picture", blank.getvalue(), gif.getvalue(), whole[: len(whole) // 2]):
        assert decode_qr(data) is None
    for data in (b"", gif.getvalue()):
        assert to_jpeg(data) is None


def test_a_huge_picture_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    assert decode_qr(file.getvalue()) is None


def test_a_payload_too_long_for_a_code_is_a_value_error() -> None:
    for draw in (draw_terminal, draw_png):
        with pytest.raises(ValueError):
            draw("x" * 3000)
