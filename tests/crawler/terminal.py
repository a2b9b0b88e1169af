"""What a terminal would show, as a picture: an oracle for codes drawn with ANSI colours and half blocks."""

from __future__ import annotations

import re

from PIL import Image

COLOURS = {16: 0, 231: 255}  # of the 256: 6x6x6 cube corners, black and white
HALVES = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}


def terminal_pixels(text: str) -> list[list[int]]:
    """Rows of grey values, one per half character; lines without any colour are left out."""
    rows: list[list[int]] = []
    for line in text.splitlines():
        if "\x1b[" not in line:
            continue
        top, bottom = [], []
        ink, paper = 200, 55  # a terminal of its own theme
        for code, character in re.findall(r"\x1b\[([0-9;]*)m|(.)", line):
            if not character:
                numbers = [int(number) for number in code.split(";") if number]
                ink, paper = (200, 55) if numbers in ([], [0]) else _colours(numbers, ink, paper)
                continue
            upper, lower = HALVES[character]
            top.append(ink if upper else paper)
            bottom.append(ink if lower else paper)
        assert (ink, paper) == (200, 55), "the line does not reset its colours"
        rows += [top, bottom]
    return rows


def _colours(numbers: list[int], ink: int, paper: int) -> tuple[int, int]:
    while numbers:
        kind, five, colour, *numbers = numbers
        assert five == 5
        if kind == 38:
            ink = COLOURS[colour]
        elif kind == 48:
            paper = COLOURS[colour]
    return ink, paper


def terminal_picture(text: str, scale: int = 6) -> Image.Image:
    """The rows as a grey picture, with the terminal's dark background around."""
    rows = terminal_pixels(text)
    width = max(len(row) for row in rows)
    picture = Image.new("L", (width + 8, len(rows) + 8), 30)
    for y, row in enumerate(rows):
        for x, grey in enumerate(row):
            picture.putpixel((x + 4, y + 4), grey)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
