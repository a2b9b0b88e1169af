"""What a stored picture is: ours to write, usable, or the card that stands for none.

Online-CNCLIP's code saves copies of its `assets/fail.jpg` where a download failed, and counts them as good
pictures later. That asset is a JPEG of 1,411 bytes, which is what plain white has at 224 x 224 pixels, so its
copies should show by being flat; `--placeholder FILE` tells of others.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from cache.errors import CacheError

SIDE = 224  # pixels
MIN_BYTES = 500  # what Online-CNCLIP's code takes for a picture
MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
# Standard deviation of a colour (of 255, over 32 x 32 cells) below which a picture shows nothing; the crawler
# has the same limit for what it takes.
FLAT_STD = 1.0
# A copy that was scaled and encoded anew: bits of the hash that may differ, and levels of the mean colour.
MAX_HASH_DISTANCE = 4
MAX_COLOUR_DISTANCE = 4
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what a shop may have sent; .jpg is only a name there


@dataclass(frozen=True)
class Look:
    """How a picture looks from afar. dhash: 64 bits. colour: mean red, green, blue, 0..255."""

    dhash: int
    colour: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.dhash:016x}-{bytes(self.colour).hex()}"

    @classmethod
    def parse(cls, text: str) -> Look:
        """The inverse of `str`. Raises CacheError."""
        dhash, _, colour = text.partition("-")
        try:
            red, green, blue = bytes.fromhex(colour)
            if len(dhash) != 16:
                raise ValueError(dhash)
            return cls(int(dhash, 16), (red, green, blue))
        except ValueError:
            raise CacheError(f"not the hash of a placeholder: {text[:80]!r}") from None

    def is_like(self, other: Look) -> bool:
        """Whether one may be a copy of the other, scaled or encoded anew."""
        apart = max(abs(a - b) for a, b in zip(self.colour, other.colour, strict=True))
        return (self.dhash ^ other.dhash).bit_count() <= MAX_HASH_DISTANCE and apart <= MAX_COLOUR_DISTANCE


def dhash(image: Image.Image) -> int:
    """64-bit difference hash: whether each cell of an 8 x 8 grid is darker than its right neighbour, row by
    row, the first bit highest (Neal Krawetz, "Kind of Like That", hackerfactor.com, 2013)."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    bits = grey[:, :-1] < grey[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look(image: Image.Image) -> Look:
    """How an RGB picture looks from afar."""
    red, green, blue = (round(mean) for mean in ImageStat.Stat(image).mean)
    return Look(dhash(image), (red, green, blue))


def placeholder_look(path: Path) -> str:
    """The hash of a placeholder file, as `PictureCache` takes it. Raises CacheError naming the file."""
    try:
        return str(look(_decode(path.read_bytes())))
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CacheError(f"{path}: {error}") from error


def legacy_problem(data: bytes, placeholders: tuple[Look, ...]) -> str:
    """Why a file without a sidecar is no picture; empty if it is one."""
    if len(data) < MIN_BYTES:
        return f"only {len(data)} bytes"
    try:
        image = _decode(data)
    except ValueError as error:
        return str(error)
    if max(ImageStat.Stat(image.resize((32, 32), Image.Resampling.BOX)).stddev) < FLAT_STD:
        return "one flat colour"
    seen = look(image)
    return "a copy of the placeholder" if any(seen.is_like(known) for known in placeholders) else ""


def own_problem(jpeg: bytes) -> str:
    """Why these bytes are not what the cache stores: a 224 x 224 RGB JPEG of 500 bytes or more."""
    if not MIN_BYTES <= len(jpeg) <= MAX_BYTES:
        return f"{len(jpeg)} bytes, not {MIN_BYTES} to {MAX_BYTES}"
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            if image.size != (SIDE, SIDE) or image.mode != "RGB":
                return f"{image.width} x {image.height} {image.mode}, not {SIDE} x {SIDE} RGB"
            image.load()
    except Exception as error:  # Pillow meets damage with almost any exception
        return f"not a JPEG ({type(error).__name__})"
    return ""


def _decode(data: bytes) -> Image.Image:
    """As RGB, SIDE x SIDE. Raises ValueError saying what is wrong."""
    if len(data) > MAX_BYTES:
        raise ValueError("too many bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            size = image.width * image.height
            if size <= MAX_PIXELS:
                small: Image.Image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
                return small
    except Exception as error:  # as above
        raise ValueError(f"cannot be decoded ({type(error).__name__})") from None
    raise ValueError(f"{size} pixels")
