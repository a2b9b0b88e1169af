"""Top-k predictions straight from feature files, in both directions; a kill costs one block of queries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnclip.prediction.embedding import OnProgress
from cnclip.prediction.feature_ensemble import UnitRows
from cnclip.prediction.features import Features, check_one_model
from cnclip.prediction.ids import Id, digest
from cnclip.prediction.predictions import IntArray, Schema, write_resumable
from cnclip.prediction.topk import QUERY_BLOCK, Method, Rows, top_k_blocks

_SAMPLED = 64


def rows_digest(rows: Rows) -> str:
    """A hash of the number of rows and of some of them."""
    content = hashlib.sha256(str(len(rows)).encode())
    for start in range(0, len(rows), max(1, len(rows) // _SAMPLED)):
        content.update(np.ascontiguousarray(rows[start : start + 1]).tobytes())
    return content.hexdigest()[:16]


def write_top_k(
    output: Path,
    schema: Schema,
    queries: tuple[list[Id], Rows],
    gallery: tuple[list[Id], Rows],
    k: int,
    *,
    method: Method = "auto",
    query_block: int = QUERY_BLOCK,
    gallery_block: int | None = None,
    progress: OnProgress | None = None,
) -> int:
    """Write the best k of a gallery for each query; goes on where a killed call was.

    Args:
        queries, gallery: ids and vectors. The others as in `top_k_blocks`.

    Returns:
        queries that were done already.

    Raises:
        InputError: vectors that are not finite, or the file cannot be written.
    """
    made_from = digest(
        [
            schema,
            str(k),
            *(part for ids, rows in (queries, gallery) for part in (_ids(ids), rows_digest(rows))),
        ]
    )

    def blocks(done: int) -> Iterator[IntArray]:
        def advance(finished: int, _total: int) -> None:
            if progress is not None:
                progress("top-k", finished // len(gallery[1]), len(queries[1]))

        found = top_k_blocks(
            queries[1],
            gallery[1],
            k,
            first=done,
            method=method,
            query_block=query_block,
            gallery_block=gallery_block,
            advance=advance,
        )
        return (rows for _, rows in found)

    return write_resumable(output, schema, queries[0], gallery[0], made_from, blocks)


def _ids(ids: list[Id]) -> str:
    return digest(map(str, ids))


def predict_top_k(
    images: Features,
    texts: Features,
    output: Path,
    k: int,
    *,
    schema: Schema = "text_id",
    method: Method = "auto",
    gallery_block: int | None = None,
    progress: OnProgress | None = None,
) -> int:
    """Write the best pictures of each text or, with the schema "image_id", the best texts of each picture.

    Returns, and Raises InputError, as `write_top_k`; ModelMismatchError where the features are known to be of
    two models.
    """
    check_one_model(images, texts)
    queries, gallery = (images, texts) if schema == "image_id" else (texts, images)
    return write_top_k(
        output,
        schema,
        (queries.ids, UnitRows(queries)),
        (gallery.ids, UnitRows(gallery)),
        k,
        method=method,
        gallery_block=gallery_block,
        progress=progress,
    )
