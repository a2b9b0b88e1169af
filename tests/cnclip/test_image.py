"""Decoding: every kind of picture comes out upright, opaque and RGB; every broken one is named."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.errors import ImageError
from cnclip.image import PreprocessConfig, decode_image, resize_pixels

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corners(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """White, with a red square at the top left and a blue one at the bottom right."""
    image = Image.new("RGB", size, (255, 255, 255))
    image.paste(RED, (0, 0, 16, 16))
    image.paste(BLUE, (size[0] - 16, size[1] - 16, size[0], size[1]))
    return image


def near(pixel: Any, colour: tuple[int, int, int], tolerance: int = 40) -> bool:
    return bool(np.abs(np.asarray(pixel, dtype=int) - colour).max() <= tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """A camera stores the picture turned and says so; the result is the upright picture."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners().transpose(undo[orientation]) if orientation > 1 else corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(stored, "JPEG", quality=95, exif=exif), min_side=16)
    assert image.width > image.height and image.mode == "RGB"
    assert near(image.getpixel((2, 2)), RED)
    assert near(image.getpixel((image.width - 3, image.height - 3)), BLUE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((*GREEN, 255), (0, 0, 16, 32))
    decoded = decode_image(encoded(image.quantize(8) if mode == "P" else image.convert(mode)))
    assert decoded.mode == "RGB" and near(decoded.getpixel((24, 16)), (255, 255, 255), 3)
    assert not near(decoded.getpixel((4, 16)), (255, 255, 255))


def test_unusual_colour_modes() -> None:
    assert near(decode_image(encoded(corners().convert("CMYK"), "JPEG")).getpixel((4, 4)), RED, 60)
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    values = np.asarray(decode_image(encoded(Image.fromarray(ramp))))[..., 0].astype(int)
    np.testing.assert_allclose(values, ramp / 257, atol=1)  # not clipped to white
    assert decode_image(encoded(Image.new("1", (20, 20), 1))).getpixel((3, 3)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert near(decode_image(data).getpixel((5, 5)), RED)


def test_large_jpegs_are_decoded_small_but_never_below_what_is_needed() -> None:
    data = encoded(corners((1600, 1200)), "JPEG")
    small = decode_image(data, min_side=224)
    assert 224 <= small.height < 1200
    assert decode_image(data).size == (1600, 1200)
    caller = Image.open(io.BytesIO(data))
    assert decode_image(caller, min_side=224).size == caller.size == (1600, 1200)  # not ours to shrink


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png_header(width: int, height: int) -> bytes:
    """The beginning of a picture of that size; its pixels would follow."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", r"empty \(0 bytes\)"),
        ("这不是图片".encode(), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (encoded(corners(), "JPEG")[:500], "cannot be decoded"),
        (encoded(corners())[:-40], "cannot be decoded"),
        (png_header(8_000, 6_300), "8000x6300 is over the limit of 40,000,000 pixels"),
        (png_header(20_000, 20_000), "too many pixels"),
    ],
    ids=["empty", "text", "postscript", "cut jpeg", "cut png", "50 megapixels", "bomb"],
)
def test_broken_pictures_get_one_line_with_their_name(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    for source, name in ((path, None), (data, str(path))):
        with pytest.raises(ImageError, match=rf"x\.jpg: {why}") as caught:
            decode_image(source, name=name)
        assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no\.jpg: no such file"):
        decode_image(tmp_path / "no.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        decode_image(tmp_path)


def test_resize_modes() -> None:
    """squash keeps both corners, crop loses them, pad adds white above and below."""
    wide = Image.new("RGB", (120, 40), GREEN)
    wide.paste(RED, (0, 0, 20, 40))
    results = {
        mode: resize_pixels(wide, PreprocessConfig(size=40, resize_mode=mode))  # type: ignore[arg-type]
        for mode in ("squash", "crop", "pad")
    }
    assert all(r.shape == (40, 40, 3) and r.dtype == np.uint8 for r in results.values())
    assert near(results["squash"][20, 1], RED) and near(results["squash"][20, 30], GREEN)
    assert near(results["crop"][20, 1], GREEN)
    assert near(results["pad"][2, 20], (255, 255, 255), 3) and near(results["pad"][20, 1], RED)
