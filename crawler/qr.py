"""QR codes: read one from a picture, draw one for a terminal or as a picture.

Reading is zxing-cpp, drawing is segno; both are libraries without system dependencies. Codes are always drawn
dark on light with the quiet zone of 4 modules that ISO/IEC 18004 asks for: some phones refuse inverted ones.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as PillowImage

MODULE_PX = 10  # of a drawn picture; phones read 4 and more
QUIET_ZONE = 4  # modules, ISO/IEC 18004 section 6.3.8
MIN_SIDE_PX = 400  # small captured pictures are enlarged to this
_MAX_PIXELS = 16_000_000
_SCALES = (1, 2, 3)  # small codes decode far better enlarged
# Colours 16 and 231 of the 256: black and white in every terminal theme, unlike the first sixteen.
_COLOURS, _RESET = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_HALF_BLOCKS = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


def decode_qr(data: bytes) -> str | None:
    """The text in the QR code of a PNG or JPEG, or None where there is none that can be read.

    Transparent parts count as white. Light-on-dark codes are read too.
    """
    import zxingcpp
    from PIL import Image

    picture = _open(data)
    if picture is None:
        return None
    grey = picture.convert("L")
    for scale in _SCALES:
        size = (grey.width * scale, grey.height * scale)
        if size[0] * size[1] > _MAX_PIXELS:
            break
        found = zxingcpp.read_barcodes(
            grey.resize(size, Image.Resampling.LANCZOS) if scale > 1 else grey,
            formats=zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode),
            text_mode=zxingcpp.TextMode.Plain,
            try_invert=True,
        )
        if found:
            return str(found[0].text)
    return None


def _open(data: bytes) -> PillowImage.Image | None:
    """An RGB picture on white, or None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                return None
            rgba = picture.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def draw_terminal(payload: str) -> str:
    """The code as lines of half blocks, two modules above each other per character, colours included.

    As small as it can be: error correction L, or more where that costs no size. 120 characters of payload
    take 49 columns and 25 lines. Raises ValueError if the payload is too long for a code.
    """
    modules = _matrix(payload)
    if len(modules) % 2:
        modules.append([0] * len(modules[0]))
    rows = zip(modules[::2], modules[1::2], strict=True)
    lines = ("".join(_HALF_BLOCKS[pair] for pair in zip(*both, strict=True)) for both in rows)
    return "".join(f"{_COLOURS}{line}{_RESET}\n" for line in lines)


def terminal_width(payload: str) -> int:
    """How many columns `draw_terminal` takes."""
    return len(_matrix(payload))


def draw_png(payload: str) -> bytes:
    """The code as a crisp black and white PNG, MODULE_PX pixels per module. Raises ValueError if too long."""
    import segno

    file = io.BytesIO()
    segno.make_qr(payload, error="L").save(file, kind="png", scale=MODULE_PX, border=QUIET_ZONE)
    return file.getvalue()


def to_jpeg(png: bytes) -> bytes | None:
    """A picture of a code as JPEG (quality 95, no colour subsampling), or None if it cannot be read.

    Small ones are enlarged by whole factors, so that their edges stay sharp.
    """
    from PIL import Image

    picture = _open(png)
    if picture is None:
        return None
    factor = -(-MIN_SIDE_PX // max(1, min(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    if factor > 1 and size[0] * size[1] <= _MAX_PIXELS:
        picture = picture.resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _matrix(payload: str) -> list[list[int]]:
    import segno

    code = segno.make_qr(payload, error="L")
    return [[int(module) for module in row] for row in code.matrix_iter(border=QUIET_ZONE)]
