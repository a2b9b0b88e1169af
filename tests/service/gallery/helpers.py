"""A model without torch, and small pictures, for the tests of the gallery."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnclip.image import PreprocessConfig, decode_image, resize_pixels
from service.gallery import Gallery, Item

Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

ROOT = Path(__file__).parents[3]  # of the repository
SIZE, DIM = 16, 12
FINGERPRINT = "f" * 64


class DummyEncoder:
    """A fixed random projection of the pixels; texts by their characters. Counts the pictures it encoded."""

    name = "dummy"
    context_length = 52
    logit_scale = 100.0

    def __init__(self, fingerprint: str = FINGERPRINT) -> None:
        self.fingerprint = fingerprint
        self.dim = DIM
        self.preprocess = PreprocessConfig(size=SIZE)
        self.encoded = 0
        self._matrix = np.random.default_rng(7).standard_normal((SIZE * SIZE * 3, DIM)).astype(np.float32)

    def prepare_image(self, image: Any, *, name: str | None = None) -> Pixels:
        return resize_pixels(decode_image(image, name=name, min_side=SIZE), self.preprocess)

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        self.encoded += len(pixels)
        raw = (pixels.reshape(len(pixels), -1).astype(np.float32) - 127.5) @ self._matrix
        return normalized(raw)

    def encode_images(self, images: Sequence[Any]) -> Vectors:
        return self.encode_pixels(np.stack([self.prepare_image(image) for image in images]))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        rows = [np.random.default_rng([ord(c) for c in text] or [0]).standard_normal(DIM) for text in texts]
        return normalized(np.array(rows, dtype=np.float32))


def normalized(raw: Vectors) -> Vectors:
    result: Vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return result


def unit_vectors(n: int, seed: int = 0, dim: int = DIM) -> Vectors:
    return normalized(np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32))


def picture(seed: int, format: str = "PNG", side: int = SIZE) -> bytes:
    """An encoded picture of random pixels, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


def make_gallery(path: Path, **changes: Any) -> Gallery:
    return Gallery.create(path, **{"model_name": "dummy", "fingerprint": FINGERPRINT, "dim": DIM, **changes})


def make_items(n: int, *, first: int = 0, images: bool = False) -> list[Item]:
    """Items i0, i1, …, each with a vector of its own."""
    vectors = unit_vectors(first + n)
    return [
        Item(f"i{i}", vectors[i], f"标题{i}", {"n": i}, picture(i) if images else None)
        for i in range(first, first + n)
    ]


def blobs(path: Path) -> set[str]:
    """Names of everything below a gallery's images/."""
    return {file.name for file in (path / "images").rglob("*") if file.is_file()}
