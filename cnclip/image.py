"""Decoding and preprocessing of pictures; preprocessing is data (`PreprocessConfig`)."""

from __future__ import annotations

import functools
import io
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from cnclip.errors import ImageError, InputError

ImageInput = str | Path | bytes | Image.Image
ResizeMode = Literal["squash", "crop", "pad"]
Interpolation = Literal["bicubic", "bilinear"]

MAX_PIXELS = 40_000_000  # a 50-megapixel picture is refused before it is decoded
# Broken metadata in a readable picture is no news, and our own limit decides about size.
warnings.filterwarnings("ignore", module=r"PIL\.")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Opened by content, never by extension; formats that run code or external programs stay out.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "PPM")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PreprocessConfig:
    """How a picture becomes a tensor.

    size: side of the square input in pixels. mean, std: per RGB channel, for values in 0..1.
    resize_mode: "squash" (ignore the aspect ratio, as Chinese-CLIP), "crop" (short side + centre crop)
    or "pad" (long side + white border). crop_ratio: share of each side that is kept of the middle, for
    towers that resize to a larger picture and cut its border off (224 of 256 pixels: 0.875); not with "pad".
    """

    size: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize_mode: ResizeMode = "squash"
    interpolation: Interpolation = "bicubic"
    crop_ratio: float = 1.0

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 16 <= self.size <= 2048:
            raise InputError(f"preprocess: size must be 16..2048, not {self.size!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            numbers = len(values) == 3 and all(type(v) in (int, float) and abs(v) < 1e3 for v in values)
            if not numbers or (name == "std" and min(values) <= 0):
                raise InputError(f"preprocess: {name} must be three numbers (std above 0), not {values!r}")
        if self.resize_mode not in get_args(ResizeMode):
            raise InputError(f"preprocess: unknown resize_mode {self.resize_mode!r}")
        if self.interpolation not in get_args(Interpolation):
            raise InputError(f"preprocess: unknown interpolation {self.interpolation!r}")
        if type(self.crop_ratio) not in (int, float) or not 0.5 <= self.crop_ratio <= 1.0:
            raise InputError(f"preprocess: crop_ratio must be 0.5..1, not {self.crop_ratio!r}")
        if self.resize_mode == "pad" and self.crop_ratio != 1.0:
            raise InputError("preprocess: crop_ratio does not go with resize_mode 'pad'")

    @property
    def min_side(self) -> int:
        """Sides in pixels below which a picture would have to be enlarged."""
        return math.ceil(self.size / self.crop_ratio)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if self.crop_ratio == 1.0:
            del values["crop_ratio"]  # as files, and fingerprints, were before there was one
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PreprocessConfig:
        """Raises InputError on an unknown or misshapen field."""
        try:
            known = {**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])}
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise InputError(f"preprocess: {error}") from error


def decode_image(
    source: ImageInput,
    *,
    name: str | None = None,
    min_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode a picture to RGB: EXIF orientation applied, transparency on white, first frame of animations.

    Args:
        source: path, encoded bytes, or an already open PIL image.
        name: what error messages call the picture; the path by default.
        min_side: if given, a large JPEG is decoded at the smallest scale (1/2, 1/4, 1/8) whose sides
            stay at or above it, which is several times faster.
        max_pixels: larger pictures are refused from their header, before memory is spent.

    Raises:
        ImageError: missing, empty, not a picture, truncated or too large; one line naming it.
    """
    label = name or (str(source) if isinstance(source, str | Path) else "picture")
    try:
        image = _open(source, label)
        try:
            _check_size(image, max_pixels, label)
            if min_side is not None and image is not source and image.format == "JPEG":
                image.draft(None, (min_side, min_side))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))  # a copy, so that ours can be closed
        finally:
            if image is not source:
                image.close()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{label}: no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{label}: not a picture (or a format that is not supported)") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{label}: too many pixels") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
    ) as error:
        # Pillow's decoders report damage through any of these.
        raise ImageError(f"{label}: cannot be decoded ({_first_line(error)})") from error
    except MemoryError as error:
        raise ImageError(f"{label}: not enough memory to decode it") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()  # Pillow registers all but the commonest formats on demand
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _open(source: ImageInput, label: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{label}: empty (0 bytes)")
        return Image.open(io.BytesIO(source), formats=_formats())
    path = Path(source)
    if path.is_dir():
        raise ImageError(f"{label}: is a folder, not a picture")
    if path.exists() and path.stat().st_size == 0:
        raise ImageError(f"{label}: empty (0 bytes)")
    return Image.open(path, formats=_formats())


def _check_size(image: Image.Image, max_pixels: int, label: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{label}: no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise ImageError(f"{label}: {width}x{height} is over the limit of {max_pixels:,} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return _scale_to_8_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit and float greyscale: PIL's convert() clips at 255, which turns photos white."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") else 1.0
    if not np.isfinite(values).all() or values.max(initial=0.0) > top or values.min(initial=0.0) < 0:
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        values -= values.min()
        top = max(float(values.max()), 1e-12)
    return Image.fromarray((values * (255.0 / top) + 0.5).astype(np.uint8))


def resize_pixels(image: Image.Image, config: PreprocessConfig) -> npt.NDArray[np.uint8]:
    """Resize an RGB picture as `config` says. Returns uint8 (size, size, 3)."""
    size, resample = config.size, _FILTERS[config.interpolation]
    width, height = image.size
    if config.resize_mode != "pad" or width == height:
        sides = (width, height) if config.resize_mode == "squash" else (min(width, height),) * 2
        kept_width, kept_height = (side * config.crop_ratio for side in sides)
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        box = (left, top, left + kept_width, top + kept_height)
        resized = image.resize((size, size), resample, box=box)
    else:
        scale = size / max(width, height)
        inner = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), resample)
        resized = Image.new("RGB", (size, size), (255, 255, 255))
        resized.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.asarray(resized, dtype=np.uint8)
