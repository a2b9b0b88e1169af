"""Whether bytes from anywhere are a good product picture, and how it is stored."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from collections.abc import Collection

from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError

from crawler.types import Picture, Refusal, Refused

MIN_BYTES = 500  # as the reference: a smaller file is no picture
MIN_SIDE = 100  # pixels
MAX_PIXELS = 40_000_000
STORED_SIDE = 224  # pixels
STORED_QUALITY = 90
# Standard deviation (of 255) over 32 x 32 cells, so that noise does not count. The plainest of 6,345 product
# photos has 11.7, a cup five levels darker than its white background 2, flat grey with some noise 0.6.
FLAT_STD = 1.0
# Bits of 64. Of 867,000 pairs of different photos for one query 0.03 % are this near, of recompressed or
# scaled copies 99.4 %. Small things on pure white look alike to the hash; the price is one more candidate.
MAX_DHASH_DISTANCE = 4
# Opened by content, never by name; formats that run code or external programs stay out.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")


class _Unfit(Exception):
    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def check_picture(data: bytes, url: str, mime: str, placeholders: Collection[str] = ()) -> Picture | Refused:
    """Decode and judge a picture. Never raises for bad data.

    What is stored is the upright first frame on white, squashed to 224 x 224 pixels as the reference does it.

    Args:
        data: the file. url: where it came from. mime: what it was declared as, for the message; the
            Picture has what it is.
        placeholders: sha256 (lower-case hex) of files that stand for a missing picture.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in placeholders:
        return Refused(Refusal.PLACEHOLDER, url)
    if len(data) < MIN_BYTES:
        return Refused(Refusal.TOO_FEW_BYTES, url, f"{len(data)} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken metadata in a readable picture is no news
        try:
            image, found_mime = _decode(data)
        except _Unfit as unfit:
            return Refused(unfit.reason, url, unfit.detail)
        except Image.DecompressionBombError:
            return Refused(Refusal.TOO_MANY_PIXELS, url)
        except UnidentifiedImageError:
            return Refused(Refusal.NOT_IMAGE, url, f"declared as {mime or 'nothing'}")
        except Exception as error:  # Pillow's parsers meet damage with almost any exception
            return Refused(Refusal.TRUNCATED, url, f"{type(error).__name__}: {error}"[:200])
    deviation = max(ImageStat.Stat(image.resize((32, 32), Image.Resampling.BOX)).stddev)
    if deviation < FLAT_STD:
        return Refused(Refusal.FLAT, url, f"standard deviation {deviation:.2f}")
    return Picture(_jpeg(image), sha256, dhash(image), url, found_mime, image.width, image.height)


def _decode(data: bytes) -> tuple[Image.Image, str]:
    """The upright RGB picture and its MIME type. Raises _Unfit and whatever Pillow raises."""
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        size = f"{image.width} x {image.height}"
        if image.width * image.height > MAX_PIXELS:  # known from the header: nothing is decoded yet
            raise _Unfit(Refusal.TOO_MANY_PIXELS, size)
        if min(image.size) < MIN_SIDE:
            raise _Unfit(Refusal.TOO_SMALL, size)
        image.load()
        return _on_white(_upright(image)), Image.MIME.get(image.format or "", "")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF orientation says; a picture with broken EXIF stays as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damage again, but the pixels are fine
        return image


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent is white."""
    if image.mode.startswith("I"):  # 16-bit grey: convert() alone would clip it at 255
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba)
    return white


def _jpeg(image: Image.Image) -> bytes:
    square = image.resize((STORED_SIDE, STORED_SIDE), Image.Resampling.LANCZOS)
    square.info = {}  # neither comments nor EXIF of the original
    stream = io.BytesIO()
    square.save(stream, "JPEG", quality=STORED_QUALITY)
    return stream.getvalue()


def dhash(image: Image.Image) -> int:
    """64-bit difference hash: whether each cell of an 8 x 8 grid is darker than its right neighbour.

    Source of the method: Neal Krawetz, "Kind of Like That", hackerfactor.com, 2013.
    """
    cells = image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes()
    bits = 0
    for start in range(0, 72, 9):
        for left, right in zip(cells[start : start + 8], cells[start + 1 : start + 9], strict=True):
            bits = bits << 1 | (left < right)
    return bits


def is_duplicate(a: tuple[str, int], b: tuple[str, int]) -> bool:
    """Whether two pictures, each given as (sha256, dhash), are the same file or look the same."""
    return a[0] == b[0] or (a[1] ^ b[1]).bit_count() <= MAX_DHASH_DISTANCE
