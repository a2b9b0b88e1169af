"""Texts and pictures of a split as vectors, piece by piece, so that hours of work outlive a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cnclip.data.dataset import ImageSource
from cnclip.data.muge import TextRow
from cnclip.errors import ImageError, InputError
from cnclip.evaluation.evaluator import Embedder
from cnclip.prediction.partial_rows import PartialRows
from cnclip.prediction.split import pictures_digest, texts_digest

FloatArray = npt.NDArray[np.float32]
OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""
PICTURES_AT_ONCE, TEXTS_AT_ONCE = 512, 8192


class Model(Embedder, Protocol):
    """What prediction needs of an `Encoder`."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def context_length(self) -> int: ...


def identity(model: Model) -> dict[str, Any]:
    """What vectors of a model depend on beside their input, as plain values."""
    return {
        "fingerprint": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "context_length": model.context_length,
    }


@dataclass(frozen=True)
class EmbeddedPictures:
    """vectors: float32 (n, dim), row i of `ids`: the pictures that could be read. problems: the others."""

    ids: list[str]
    vectors: FloatArray
    problems: list[str]


def embed_texts(
    model: Model,
    texts: Sequence[TextRow],
    rows: PartialRows,
    *,
    batch_size: int = 256,
    progress: OnProgress | None = None,
) -> FloatArray:
    """One vector for each text, float32 (n, dim), on from where `rows` is."""
    while rows.done < len(texts):
        piece = [row.text for row in texts[rows.done : rows.done + TEXTS_AT_ONCE]]
        rows.append(model.encode_texts(piece, batch_size=batch_size))
        if progress is not None:
            progress("texts", rows.done, len(texts))
    return rows.rows()


def embed_pictures(
    model: Model,
    images: ImageSource,
    rows: PartialRows,
    *,
    batch_size: int = 64,
    progress: OnProgress | None = None,
) -> EmbeddedPictures:
    """One vector for each picture that can be read, on from where `rows` is.

    Raises:
        InputError: no picture can be read.
    """
    ids = images.ids
    while rows.done < len(ids):
        piece = ids[rows.done : rows.done + PICTURES_AT_ONCE]
        rows.append(*_embed_piece(model, images, piece, batch_size))
        if progress is not None:
            progress("pictures", rows.done, len(ids))
    vectors = rows.rows()
    unread = np.isnan(vectors[:, 0])
    if unread.all():
        first = f": {rows.problems[0]}" if rows.problems else ""
        raise InputError(f"no readable picture ({len(ids)} listed){first}")
    if unread.any():
        readable = np.flatnonzero(~unread)
        ids, vectors = [ids[i] for i in readable], vectors[readable]
    return EmbeddedPictures(ids, vectors, rows.problems)


def _embed_piece(
    model: Model, images: ImageSource, ids: list[str], batch_size: int
) -> tuple[FloatArray, list[str]]:
    """float32 (len(ids), dim) with NaN for what cannot be read, and a line for each of those."""
    problems: list[str] = []
    read: list[tuple[int, bytes]] = []
    for i, image_id in enumerate(ids):
        try:
            read.append((i, images[image_id]))
        except InputError as error:
            problems.append(str(error))
    skipped: list[tuple[int, ImageError]] = []
    vectors = model.encode_images(
        [data for _, data in read], batch_size=batch_size, on_error="skip", skipped=skipped
    )
    broken = {i for i, _ in skipped}
    problems += [f"image_id {ids[read[i][0]]}: {error}" for i, error in skipped]
    out = np.full((len(ids), model.dim), np.nan, np.float32)
    out[[place for i, (place, _) in enumerate(read) if i not in broken]] = vectors
    return out, problems


def text_rows(stem: Path, model: Model, texts: list[TextRow]) -> PartialRows:
    """Where vectors of these texts by this model gather."""
    return PartialRows(stem, model.dim, {"texts": texts_digest(texts), **identity(model)})


def picture_rows(stem: Path, model: Model, images: ImageSource) -> PartialRows:
    """Where vectors of these pictures by this model gather."""
    return PartialRows(stem, model.dim, {"pictures": pictures_digest(images), **identity(model)})
