"""Score matrices: one row for each text, one column for each picture.

matrix-1.npy        float32 (texts, pictures), as Online-CNCLIP writes it
matrix-1.ids.json   {"text_ids", "image_ids", "model", "fingerprint", …}: what rows and columns are
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.prediction.arrays import description_path, open_array, read_description, read_ids, write_described
from cnclip.prediction.ids import Id, positions, written_id

FloatArray = npt.NDArray[np.float32]
KIND = "scores"
_BLOCK_BYTES = 64 * 2**20
_NUMBERED = re.compile(r"matrix-(\d+)\.npy")


@dataclass(frozen=True)
class ScoreMatrix:
    """A matrix on disk. scores: float (texts, pictures), mapped. fingerprint: "" where it is not known."""

    path: Path
    scores: npt.NDArray[Any]
    text_ids: list[Id]
    image_ids: list[Id]
    model: str = ""
    fingerprint: str = ""


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows that come to about 64 MiB of float32."""
    rows = max(1, _BLOCK_BYTES // (4 * max(1, n_columns)))
    return (slice(start, min(start + rows, n_rows)) for start in range(0, n_rows, rows))


def products(texts: FloatArray, images: FloatArray) -> Iterator[FloatArray]:
    """The inner products of all texts (t, d) with all pictures (g, d), blocks of rows of float32 (t, g)."""
    gallery = np.asarray(images, np.float32).T
    for block in row_blocks(len(texts), len(images)):
        yield np.asarray(texts[block], np.float32) @ gallery


def write_matrix(
    path: Path,
    text_ids: list[Id],
    image_ids: list[Id],
    blocks: Iterable[FloatArray],
    description: Mapping[str, Any],
) -> None:
    """Write `path` from blocks of rows and its ids beside it. Raises InputError where that cannot be."""
    content = {
        "kind": KIND,
        **description,
        "text_ids": text_ids,
        "image_ids": [written_id(value) for value in image_ids],
    }
    write_described(path, (len(text_ids), len(image_ids)), np.float32, blocks, content)


def open_matrix(path: Path, ids: tuple[list[Id], list[Id]] | None = None) -> ScoreMatrix:
    """Open a matrix and its ids.

    Args:
        ids: of texts and pictures, for a matrix that has none beside it.

    Raises:
        InputError: not a matrix, no ids for it, ids that do not fit its shape or are there twice, or values
            that are not finite.
    """
    scores = open_array(path)
    content = read_description(path, KIND)
    if content is not None:
        where = description_path(path)
        text_ids = read_ids(content, "text_ids", where)
        image_ids = read_ids(content, "image_ids", where)
    elif ids is not None:
        text_ids, image_ids = ids
    else:
        raise InputError(
            f"{path}: {description_path(path).name} is not beside it; feature files of the same texts and"
            " pictures say what its rows and columns are (--text-feats, --image-feats)"
        )
    if scores.shape != (len(text_ids), len(image_ids)):
        raise InputError(f"{path}: shape {scores.shape} for {len(text_ids)} texts, {len(image_ids)} pictures")
    positions(text_ids, "text_id", path)
    positions(image_ids, "image_id", path)
    model, fingerprint = ((content or {}).get(name) or "" for name in ("model", "fingerprint"))
    return ScoreMatrix(path, scores, text_ids, image_ids, str(model), str(fingerprint))


def numbered_matrices(folder: Path) -> list[Path]:
    """`matrix-1.npy`, `matrix-2.npy`, … of a folder, in the order of their numbers.

    Raises:
        InputError: there is none.
    """
    found = {int(m[1]): p for p in folder.glob("matrix-*.npy") if (m := _NUMBERED.fullmatch(p.name))}
    if not found:
        raise InputError(f"{folder}: no matrix-1.npy, matrix-2.npy, … there")
    return [found[number] for number in sorted(found)]
