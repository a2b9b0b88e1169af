"""Contact sheets: results as one picture, for people to look at."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from cnclip.errors import ImageError
from cnclip.image import decode_image

FONT_VARIABLE = "CNCLIP_FONT"
_CJK_FONTS = (
    # (file name, face of simplified Chinese within the collection), best first
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansSC-Regular.otf", 0),
    ("SourceHanSansSC-Regular.otf", 0),
    ("wqy-microhei.ttc", 0),
    ("wqy-zenhei.ttc", 0),
    ("DroidSansFallbackFull.ttf", 0),
    ("DroidSansFallback.ttf", 0),
    ("PingFang.ttc", 0),
    ("STHeiti Medium.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
    ("msyh.ttc", 0),
    ("simhei.ttf", 0),
    ("simsun.ttc", 0),
)
_FONT_FOLDERS = (
    "~/.local/share/fonts",
    "~/.fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
_TILE, _MARGIN, _LINE = 200, 12, 20
_WHITE, _BLACK, _GREY, _PALE = (255, 255, 255), (20, 20, 20), (110, 110, 110), (228, 228, 228)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One result: encoded picture (None: none) and the lines below it."""

    image: bytes | None
    lines: Sequence[str]


def contact_sheet(tiles: Sequence[Tile], heading: str, *, columns: int = 5) -> Image.Image:
    """Draw `tiles` in rows under `heading`. Returns an RGB picture.

    A picture that cannot be read becomes a grey tile that says so. Without a font for Chinese (looked for in
    the system's folders; CNCLIP_FONT names one), characters that cannot be drawn become "?".
    """
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    lines = max((len(tile.lines) for tile in tiles), default=0)
    top = 3 * _MARGIN + _LINE
    cell_width, cell_height = _TILE + _MARGIN, _TILE + lines * _LINE + 2 * _MARGIN
    width = max(columns * cell_width + _MARGIN, 3 * cell_width)
    sheet = Image.new("RGB", (width, top + max(1, rows) * cell_height), _WHITE)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN), heading, 20, _BLACK, width - 2 * _MARGIN)
    if not tiles:
        _write(draw, (_MARGIN, top), "(0)", 16, _GREY, width)
    for place, tile in enumerate(tiles):
        x = _MARGIN + place % columns * cell_width
        y = top + place // columns * cell_height
        _paste(sheet, draw, tile.image, (x, y))
        for number, line in enumerate(tile.lines):
            colour = _BLACK if number == 0 else _GREY
            _write(draw, (x, y + _TILE + 4 + number * _LINE), line, 14, colour, _TILE)
    return sheet


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, data: bytes | None, place: tuple[int, int]) -> None:
    x, y = place
    draw.rectangle((x, y, x + _TILE - 1, y + _TILE - 1), fill=_PALE)
    try:
        picture = None if data is None else decode_image(data, min_side=_TILE)
    except ImageError:
        picture = None
    if picture is None:
        _write(draw, (x + _MARGIN, y + _TILE // 2 - 8), "no picture", 14, _GREY, _TILE)
        return
    picture = ImageOps.contain(picture, (_TILE, _TILE))
    sheet.paste(picture, (x + (_TILE - picture.width) // 2, y + (_TILE - picture.height) // 2))


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """One line, cut with "…" where it is too long."""
    font, text = _font(size), _drawable(text.replace("\n", " "))
    if draw.textlength(text, font=font) > width:
        end = "…" if find_cjk_font() else "..."
        while text and draw.textlength(text + end, font=font) > width:
            text = text[:-1]
        text += end
    draw.text(place, text, fill=colour, font=font)


def _drawable(text: str) -> str:
    return text if find_cjk_font() else text.encode("latin-1", "replace").decode("latin-1")


@functools.cache
def _font(size: int) -> Font:
    found = find_cjk_font()
    if found is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(found[0]), size, index=found[1])


@functools.cache
def find_cjk_font() -> tuple[Path, int] | None:
    """A font file that has Chinese, and the face in it; None if none is found."""
    candidates: list[tuple[Path, int]] = []
    if os.environ.get(FONT_VARIABLE):
        candidates.append((Path(os.environ[FONT_VARIABLE]).expanduser(), 0))
    files = {path.name: path for folder in reversed(_FONT_FOLDERS) for path in _files(folder)}
    candidates += [(files[name], face) for name, face in _CJK_FONTS if name in files]
    for path, face in candidates:
        try:
            ImageFont.truetype(str(path), 16, index=face)
        except (OSError, ValueError):
            continue
        return path, face
    return None


def _files(folder: str) -> list[Path]:
    return sorted(Path(folder).expanduser().rglob("*.[to]t[cf]"))
