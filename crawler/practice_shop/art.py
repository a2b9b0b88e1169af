"""The pictures the shop draws: a colour per query, shapes per number, the query in readable letters, and a
label that proves which picture it is (`label`)."""

from __future__ import annotations

import colorsys
import functools
import hashlib
import random
import threading
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from crawler.practice_shop.label import BAND, label_of, paint_label, read_label

__all__ = ["draw", "read_label"]

SIZE = 800  # pixels, as the main pictures of real shops
SMALL_SIZE = 120
_FONTS = (
    # (file name, face of simplified Chinese within the collection), best first
    ("NotoSansCJK-Bold.ttc", 2),
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansSC-Regular.otf", 0),
    ("wqy-microhei.ttc", 0),
    ("PingFang.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
    ("msyh.ttc", 0),
)
_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/System/Library/Fonts", "C:/Windows/Fonts")
_LINES, _PER_LINE = 3, 9  # of the query's letters
_drawing = threading.Lock()  # a font must not be used by two threads at once


def draw(query: str, number: int, kind: str = "ok") -> Image.Image:
    """Picture `number` of a query, RGB. kind: "flat" is one grey, "one_pixel" and "small_2kb" are small."""
    if kind == "flat":
        return Image.new("RGB", (SIZE, SIZE), (200, 200, 200))
    with _drawing:
        image = _draw(query, number)
    if kind == "one_pixel":
        return image.resize((1, 1))
    if kind == "small_2kb":
        return image.resize((SMALL_SIZE, SMALL_SIZE), Image.Resampling.BOX)
    return image


def _draw(query: str, number: int) -> Image.Image:
    chance = random.Random(f"{label_of(query)} {number}")
    hue = int(label_of(query)[:4], 16) / 65536
    image = Image.new("RGB", (SIZE, SIZE), _colour(hue, 0.30, 0.97))
    canvas = ImageDraw.Draw(image)
    _tiles(canvas, hue, chance)
    _circles(canvas, hue, chance)
    _caption(canvas, query, number, hue)
    paint_label(image, query, number)
    return image


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _tiles(canvas: ImageDraw.ImageDraw, hue: float, chance: random.Random) -> None:
    """A mosaic of light and dark: what tells two pictures of one query apart when they are shrunk."""
    columns, rows = 8, 7
    width, height = SIZE / columns, SIZE * (1 - BAND) / rows
    for row in range(rows):
        for column in range(columns):
            shade = chance.choice((0.45, 0.62, 0.78, 0.93))
            fill = _colour(hue + chance.uniform(-0.04, 0.04), 0.55 - shade * 0.35, shade)
            left, top = column * width, row * height
            canvas.rectangle((left, top, left + width, top + height), fill=fill)


def _circles(canvas: ImageDraw.ImageDraw, hue: float, chance: random.Random) -> None:
    for _ in range(5):
        radius = chance.uniform(40, 120)
        x, y = chance.uniform(0, SIZE), chance.uniform(0, SIZE * (1 - BAND))
        fill = _colour(hue + chance.choice((0, 0.08, 0.5)), 0.5, chance.uniform(0.6, 1))
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _caption(canvas: ImageDraw.ImageDraw, query: str, number: int, hue: float) -> None:
    """The query and the number on a white plate above the label."""
    letters = "".join(letter if letter.isprintable() else " " for letter in query)[: _LINES * _PER_LINE]
    lines = [letters[start : start + _PER_LINE] for start in range(0, len(letters), _PER_LINE)] or [" "]
    size = 72 if len(lines) < _LINES else 56
    height = len(lines) * (size + 14) + 22
    bottom = SIZE * (1 - BAND) - 20
    box = (24, bottom - height, SIZE - 24, bottom)
    canvas.rounded_rectangle(box, radius=24, fill=(255, 255, 255))
    ink = _colour(hue, 0.8, 0.35)
    for index, line in enumerate(lines):
        _write(canvas, (48, box[1] + 10 + index * (size + 14)), line, size, ink)
    canvas.rounded_rectangle((SIZE - 150, 24, SIZE - 24, 104), radius=20, fill=(255, 255, 255))
    _write(canvas, (SIZE - 134, 28), f"{number:03d}", 52, ink)


def _write(
    canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, ink: tuple[int, int, int]
) -> None:
    font = _font(size)
    if font is not None:
        canvas.text(place, text, font=font, fill=ink)
        return
    for index, letter in enumerate(text):  # no font for Chinese: a block per letter, different for each
        pattern = hashlib.sha256(letter.encode("utf-8", "surrogatepass")).digest()
        for cell in range(16):
            x = place[0] + index * size + cell % 4 * size * 0.2
            y = place[1] + size * 0.2 + cell // 4 * size * 0.2
            if pattern[cell] % 2:
                canvas.rectangle((x, y, x + size * 0.2, y + size * 0.2), fill=ink)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | None:
    for name, face in _FONTS:
        for folder in _FOLDERS:
            for path in sorted(Path(folder).rglob(name)):
                try:
                    return ImageFont.truetype(str(path), size, index=face)
                except OSError:
                    continue
    return None
