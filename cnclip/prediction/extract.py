"""Feature files of texts and pictures; hours of work outlive a kill, and what is finished is kept."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnclip.data.dataset import ImageSource
from cnclip.data.muge import TextRow
from cnclip.errors import InputError
from cnclip.prediction.arrays import open_array, read_description
from cnclip.prediction.embedding import (
    Model,
    OnProgress,
    embed_pictures,
    embed_texts,
    identity,
    picture_rows,
    text_rows,
)
from cnclip.prediction.feature_lines import model_path, write_jsonl
from cnclip.prediction.features import KIND, Features, write_npy
from cnclip.prediction.ids import Id, written_id
from cnclip.prediction.split import pictures_digest, texts_digest

logger = logging.getLogger(__name__)
_SHOWN = 20


def tell(problems: list[str]) -> None:
    """Warn of pictures that are not in the gallery."""
    for problem in problems[:_SHOWN]:
        logger.warning("left out of the gallery: %s", problem)
    if len(problems) > _SHOWN:
        logger.warning("… and %d more", len(problems) - _SHOWN)


def left_out_before(path: Path, kind: str, made_from: dict[str, Any]) -> list[str] | None:
    """What was left out of a file when it was made, if it is whole and made from the same; else None.

    kind: of the array; a `.jsonl` needs none.
    """
    try:
        if path.suffix == ".jsonl":
            content = json.loads(model_path(path).read_text(encoding="utf-8"))
            whole = content.get("bytes") == path.stat().st_size
        else:
            content = read_description(path, kind)
            open_array(path)
            whole = content is not None
    except (InputError, OSError, ValueError, AttributeError):  # not there, or broken: made again
        return None
    if not whole or content is None or any(content.get(key) != value for key, value in made_from.items()):
        return None
    return [str(problem) for problem in content.get("left_out", [])]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are extracted.

    dtype: of the binary form, "float16" or "float32"; JSON lines hold float32. force: make everything anew.
    """

    model: Model
    dtype: str = "float16"
    batch_size: int = 64
    text_batch_size: int = 256
    force: bool = False
    progress: OnProgress | None = None

    def texts(self, texts: list[TextRow], output: Path) -> None:
        """Write the features of texts to `output`: JSON lines, or the binary form where it ends in `.npy`.

        Raises:
            InputError: it cannot be written.
        """
        made_from = {**identity(self.model), "texts": texts_digest(texts)}
        if self._kept(output, made_from):
            return
        with text_rows(_stem(output), self.model, texts) as rows:
            vectors = embed_texts(
                self.model, texts, rows, batch_size=self.text_batch_size, progress=self.progress
            )
            ids: list[Id] = [row.text_id for row in texts]
            features = Features("text", ids, vectors, self.model.name, self.model.fingerprint)
            self._write(output, features, made_from, [])
            rows.remove()

    def pictures(self, images: ImageSource, output: Path) -> None:
        """Write the features of pictures to `output`, as `texts` does; unreadable ones are left out.

        Raises:
            InputError: it cannot be written, or no picture can be read.
        """
        made_from = {**identity(self.model), "pictures": pictures_digest(images)}
        if self._kept(output, made_from):
            return
        with picture_rows(_stem(output), self.model, images) as rows:
            found = embed_pictures(
                self.model, images, rows, batch_size=self.batch_size, progress=self.progress
            )
            tell(found.problems)
            ids = [written_id(value) for value in found.ids]
            features = Features("image", ids, found.vectors, self.model.name, self.model.fingerprint)
            self._write(output, features, made_from, found.problems)
            rows.remove()

    def _kept(self, output: Path, made_from: dict[str, Any]) -> bool:
        if output.suffix == ".npy":
            made_from = {**made_from, "stored": self.dtype}
        problems = None if self.force else left_out_before(output, KIND, made_from)
        if problems is None:
            return False
        logger.info("%s: kept, it is of the same model and the same input", output)
        tell(problems)
        return True

    def _write(
        self, output: Path, features: Features, made_from: dict[str, Any], problems: list[str]
    ) -> None:
        extra = {**made_from, "left_out": problems}
        if output.suffix == ".npy":
            extra["stored"] = self.dtype
            write_npy(output, features, dtype=np.dtype(self.dtype), extra=extra)
        else:
            write_jsonl(output, features, extra)


def _stem(output: Path) -> Path:
    return output.with_name(f".{output.name}")
