"""A model whose vectors follow from the content alone, and small splits for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnclip.data.muge import TextRow
from cnclip.errors import ImageError
from cnclip.prediction.split import PredictionSplit, open_prediction_split
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines


class FakeModel:
    """Texts and pictures to unit vectors that depend on their bytes and on `seed`. b"broken" is unreadable.

    dies_after: the call for pictures with this number (from 1) raises KeyboardInterrupt.
    """

    context_length, dtype = 52, "torch.float32"

    def __init__(self, seed: int = 0, dim: int = 8, dies_after: int | None = None) -> None:
        self.name, self.dim, self.fingerprint = f"fake-{seed}", dim, f"{seed:02x}" * 32
        self._seed, self._dies_after = seed, dies_after
        self.picture_calls: list[int] = []
        self.text_calls: list[int] = []

    def vector(self, content: bytes) -> np.ndarray:
        digest = hashlib.sha256(content + self._seed.to_bytes(4, "big")).digest()
        values = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(self.dim)
        return (values / np.linalg.norm(values)).astype(np.float32)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        assert batch_size > 0
        self.text_calls.append(len(texts))
        return self._rows([text.encode() for text in texts])

    def encode_images(
        self,
        images: Sequence[Any],
        *,
        batch_size: int = 32,
        on_error: str = "raise",
        skipped: list[tuple[int, ImageError]] | None = None,
    ) -> np.ndarray:
        assert batch_size > 0 and on_error == "skip" and skipped is not None
        if self._dies_after is not None and len(self.picture_calls) + 1 >= self._dies_after:
            raise KeyboardInterrupt
        self.picture_calls.append(len(images))
        skipped += [(i, ImageError("cannot be read")) for i, data in enumerate(images) if data == b"broken"]
        return self._rows([data for data in images if data != b"broken"])

    def _rows(self, contents: list[bytes]) -> np.ndarray:
        return np.array([self.vector(content) for content in contents], np.float32).reshape(-1, self.dim)


def write_test_split(
    folder: Path, n_images: int = 10, n_texts: int = 4, *, broken: Sequence[int] = ()
) -> Path:
    """MUGE files of an unlabelled split `test`: pictures 100, 101, …, texts 1, 2, …"""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [image_line(100 + i, b"broken" if i in broken else picture(i)) for i in range(n_images)]
    write_lines(folder / "test_imgs.tsv", lines)
    write_lines(folder / "test_texts.jsonl", (text_line(1 + i, f"第{i}条") for i in range(n_texts)))
    return folder


def small_split(folder: Path, **sizes: Any) -> PredictionSplit:
    return open_prediction_split(write_test_split(folder, **sizes), "test")


def expected_scores(model: FakeModel, split: PredictionSplit) -> tuple[list[str], np.ndarray]:
    """Ids of the readable pictures, and all inner products, texts x pictures."""
    data = {image_id: split.image_bytes(image_id) for image_id in split.image_ids}
    readable = [image_id for image_id in split.image_ids if data[image_id] != b"broken"]
    texts = np.array([model.vector(row.text.encode()) for row in split.texts])
    return readable, texts @ np.array([model.vector(data[image_id]) for image_id in readable]).T


def expected_top(ids: Sequence[Any], scores: np.ndarray, k: int) -> list[list[int]]:
    return [[int(ids[i]) for i in np.argsort(-row, kind="stable")[:k]] for row in scores]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(texts: Sequence[tuple[int | str, str]]) -> list[TextRow]:
    return [TextRow(text_id, text, []) for text_id, text in texts]
