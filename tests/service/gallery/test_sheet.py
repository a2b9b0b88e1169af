"""Contact sheets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import service.gallery.sheet as sheet
from service.gallery.sheet import Tile, contact_sheet
from tests.service.gallery.helpers import picture


@pytest.fixture(autouse=True)
def _forget_fonts() -> Iterator[None]:
    def forget() -> None:
        sheet.find_cjk_font.cache_clear()
        sheet._font.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_draws_every_tile(n: int) -> None:
    tiles = [
        Tile(picture(i, "JPEG", side=60), [f"{i} 红色连衣裙", "a very long line " * 9]) for i in range(n)
    ]
    image = contact_sheet(tiles, "红色连衣裙 " * 60, columns=5)
    rows = -(-n // 5)
    assert image.mode == "RGB" and image.height > max(1, rows) * 200
    for i in range(n):
        x, y = sheet._MARGIN + i % 5 * (200 + sheet._MARGIN), 3 * sheet._MARGIN + sheet._LINE
        y += i // 5 * (200 + 2 * sheet._LINE + 2 * sheet._MARGIN)
        inside = np.asarray(image.crop((x, y, x + 200, y + 200)))
        assert inside.std() > 20, "random pixels, not a flat tile"


def test_no_picture_and_broken_picture() -> None:
    image = contact_sheet([Tile(None, ["a"]), Tile(b"broken", ["b"])], "q")
    assert image.width >= 2 * 200


def test_without_a_chinese_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "_FONT_FOLDERS", (str(tmp_path),))
    monkeypatch.delenv(sheet.FONT_VARIABLE, raising=False)
    assert sheet.find_cjk_font() is None
    assert sheet._drawable("红裙 é 1") == "?? é 1"
    contact_sheet([Tile(picture(1), ["红裙" * 80])], "红裙" * 80)
    (tmp_path / "simhei.ttf").write_bytes(b"not a font")
    monkeypatch.setenv(sheet.FONT_VARIABLE, str(tmp_path / "nope.ttf"))
    sheet.find_cjk_font.cache_clear()
    assert sheet.find_cjk_font() is None, "a broken font is passed over"
