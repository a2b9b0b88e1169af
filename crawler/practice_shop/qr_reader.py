"""Reading QR codes, from pictures and from what a terminal shows: the phone's eyes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import zxingcpp
from PIL import Image, ImageDraw

_ESCAPE = re.compile(r"\x1b\[([0-9;:]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_WIDTH, _HEIGHT = 8, 16  # pixels of a character: terminals have cells twice as high as wide
# Which eighths of a cell, counted in a grid of 2 columns and 8 rows, a block character fills: left, right.
_FULL, _UPPER, _LOWER = range(8), range(4), range(4, 8)
_BLOCKS: dict[str, tuple[range, range]] = {
    "█": (_FULL, _FULL),
    "▀": (_UPPER, _UPPER),
    "▄": (_LOWER, _LOWER),
    "▌": (_FULL, range(0)),
    "▐": (range(0), _FULL),
    "▘": (_UPPER, range(0)),
    "▝": (range(0), _UPPER),
    "▖": (_LOWER, range(0)),
    "▗": (range(0), _LOWER),
    "▚": (_UPPER, _LOWER),
    "▞": (_LOWER, _UPPER),
    "▛": (_FULL, _UPPER),
    "▜": (_UPPER, _FULL),
    "▙": (_FULL, _LOWER),
    "▟": (_LOWER, _FULL),
}
_DARK, _LIGHT = 0, 230  # grey of a terminal's own colours: light letters on dark
_STANDARD = (
    0,
    60,
    90,
    120,
    50,
    80,
    140,
    200,
    100,
    130,
    170,
    220,
    110,
    160,
    210,
    255,
)  # grey of 30..37, 90..97


def read_code(image: Image.Image) -> str | None:
    """What the QR code on a picture says; None if there is none."""
    found = zxingcpp.read_barcodes(image.convert("L"))
    return next((code.text for code in found if "QR" in code.format.name), None)


def read_terminal(text: str) -> str | None:
    """What a QR code drawn with block characters or coloured spaces says; other lines do not matter."""
    return read_code(_screen(text))


@dataclass
class _Pen:
    """The colours a terminal writes with just now, as grey values."""

    ink: int = _LIGHT
    paper: int = _DARK
    inverse: bool = False

    @property
    def colours(self) -> tuple[int, int]:
        return (self.paper, self.ink) if self.inverse else (self.ink, self.paper)

    def set(self, codes: list[int]) -> None:
        """Apply the numbers of one `ESC [ … m`."""
        rest = iter(codes or [0])
        for code in rest:
            if code == 0:
                self.ink, self.paper, self.inverse = _LIGHT, _DARK, False
            elif code in (7, 27):
                self.inverse = code == 7
            elif code == 39:
                self.ink = _LIGHT
            elif code == 49:
                self.paper = _DARK
            elif code in (38, 48):
                colour = _extended(rest)
                self.ink, self.paper = (colour, self.paper) if code == 38 else (self.ink, colour)
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.ink = _STANDARD[code - 30 if code < 90 else code - 82]
            elif 40 <= code <= 47 or 100 <= code <= 107:
                self.paper = _STANDARD[code - 40 if code < 100 else code - 92]


def _extended(rest: Iterator[int]) -> int:
    """Grey of what follows 38 or 48: `5;n` or `2;r;g;b`."""
    if next(rest, 0) == 2:
        return sum(next(rest, 0) for _ in range(3)) // 3
    index = next(rest, 0)
    if index < 16:
        return _STANDARD[index]
    if index >= 232:
        return 8 + 10 * (index - 232)
    red, green, blue = (index - 16) // 36, (index - 16) // 6 % 6, (index - 16) % 6
    return (red + green + blue) * 255 // 15


def _screen(text: str) -> Image.Image:
    """The text as a terminal shows it; letters leave their cell empty."""
    pen = _Pen()
    rows = [_cells(line, pen) for line in text.splitlines()]
    width = max((len(row) for row in rows), default=1)
    image = Image.new("L", (max(width, 1) * _WIDTH, max(len(rows), 1) * _HEIGHT), _DARK)
    canvas = ImageDraw.Draw(image)
    for y, row in enumerate(rows):
        for x, (letter, ink, paper) in enumerate(row):
            left, top = x * _WIDTH, y * _HEIGHT
            canvas.rectangle((left, top, left + _WIDTH - 1, top + _HEIGHT - 1), fill=paper)
            for half, eighths in enumerate(_BLOCKS.get(letter, ())):
                for eighth in eighths:
                    corner = (left + half * _WIDTH // 2, top + eighth * _HEIGHT // 8)
                    canvas.rectangle(
                        (*corner, corner[0] + _WIDTH // 2 - 1, corner[1] + _HEIGHT // 8 - 1), fill=ink
                    )
    return image


def _cells(line: str, pen: _Pen) -> list[tuple[str, int, int]]:
    """(character, ink, paper) of each cell of a line; `pen` goes on to the next line as it is then."""
    cells: list[tuple[str, int, int]] = []
    position = 0
    for escape in _ESCAPE.finditer(line):
        cells += [(letter, *pen.colours) for letter in line[position : escape.start()]]
        position = escape.end()
        if escape[2] == "m":
            pen.set([int(code or 0) for code in re.split("[;:]", escape[1])] if escape[1] else [])
    cells += [(letter, *pen.colours) for letter in line[position:]]
    return cells
