"""A model without torch, and small pictures, for the tests of the gallery."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnclip.image import PreprocessConfig, decode_image, resize_pixels
from service.gallery import Gallery, Item
from service.gallery.ingest import IngestReport, ingest
from service.gallery.sources import open_source

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


def normalized(raw: npt.NDArray[np.floating[Any]]) -> Vectors:
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


def contents(gallery: Gallery) -> dict[str, Any]:
    rows = [gallery.get(item_id) for item_id in gallery.ids()]
    return {row.id: (row.title, row.attributes, row.image_sha256) for row in rows if row is not None}


def best(gallery: Gallery, vector: Any, k: int = 3) -> list[tuple[str, float]]:
    return [(hit.row.id, round(hit.score, 5)) for hit in gallery.search(vector, k)]


def add_source(
    gallery: Gallery, source: Path, encoder: DummyEncoder | None = None, **how: Any
) -> IngestReport:
    report = ingest(gallery, encoder or DummyEncoder(), open_source(source), **{"batch_size": 4, **how})
    assert report.seen == report.added + report.updated + report.unchanged + sum(report.dropped.values())
    return report


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    """Added, updated, unchanged, dropped."""
    return report.added, report.updated, report.unchanged, sum(report.dropped.values())


def write_tsv(path: Path, rows: list[tuple[str, bytes]]) -> None:
    lines = [f"{item_id}\t{base64.urlsafe_b64encode(data).decode()}\n" for item_id, data in rows]
    path.write_text("".join(lines))


def files_of(gallery: Gallery) -> dict[str, list[str]]:
    """Names by title."""
    rows = [gallery.get(item_id) for item_id in gallery.ids()]
    return {row.title: row.attributes["files"] for row in rows if row is not None}
