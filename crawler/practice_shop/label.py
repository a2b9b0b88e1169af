"""A machine-readable label in the lower fifth of a drawn picture: which query it is for, and its number.

80 bits in 4 rows of 20 black or white cells: 48 of the query's hash, 16 of the number, 16 of a checksum over
both. At 224 x 224 pixels a cell is 11 pixels wide, so squashing and JPEG leave it readable.
"""

from __future__ import annotations

import binascii
import hashlib

from PIL import Image, ImageDraw

BAND = 0.2  # share of the height
_ROWS, _COLUMNS = 4, 20
_HASH_BYTES, _NUMBER_BYTES = 6, 2
_DARK, _BRIGHT = 90, 165  # grey values that a cell must be below or above to count


def label_of(query: str) -> str:
    """Hash of a query, 12 hexadecimal digits."""
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()[:_HASH_BYTES].hex()


def paint_label(image: Image.Image, query: str, number: int) -> None:
    """Draw the label of (query, number mod 65536) over the lower fifth of an RGB picture."""
    payload = bytes.fromhex(label_of(query)) + (number % 65536).to_bytes(_NUMBER_BYTES, "big")
    code = payload + binascii.crc_hqx(payload, 0xFFFF).to_bytes(2, "big")
    bits = "".join(f"{byte:08b}" for byte in code)
    draw = ImageDraw.Draw(image)
    for index, bit in enumerate(bits):
        left, top, right, bottom = _cell(index, image.width, image.height)
        colour = (0, 0, 0) if bit == "1" else (255, 255, 255)
        draw.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=colour)


def read_label(image: Image.Image) -> tuple[str, int] | None:
    """(hash of the query, number) that a drawn picture carries, whatever its size and shape by now.

    None: the picture has no label, or none that can be read beyond doubt.
    """
    grey = image.convert("L")
    bits = ""
    for index in range(_ROWS * _COLUMNS):
        left, top, right, bottom = _cell(index, grey.width, grey.height)
        inset_x, inset_y = (right - left) / 4, (bottom - top) / 4
        box = (left + inset_x, top + inset_y, right - inset_x, bottom - inset_y)
        value = grey.resize((1, 1), Image.Resampling.BOX, box=box).getpixel((0, 0))
        if not isinstance(value, int) or _DARK < value < _BRIGHT:
            return None
        bits += "1" if value <= _DARK else "0"
    code = int(bits, 2).to_bytes(_ROWS * _COLUMNS // 8, "big")
    payload, checksum = code[:-2], int.from_bytes(code[-2:], "big")
    if binascii.crc_hqx(payload, 0xFFFF) != checksum:
        return None
    return payload[:_HASH_BYTES].hex(), int.from_bytes(payload[_HASH_BYTES:], "big")


def _cell(index: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a cell in pixels."""
    row, column = divmod(index, _COLUMNS)
    top = height * (1 - BAND)
    cell_width, cell_height = width / _COLUMNS, height * BAND / _ROWS
    return (
        column * cell_width,
        top + row * cell_height,
        (column + 1) * cell_width,
        top + (row + 1) * cell_height,
    )
