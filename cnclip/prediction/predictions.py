"""Prediction files: one JSON line for each query with its best items, best first.

Two schemas: `query_id` is Online-CNCLIP's, `{"query_id": 7, "item_ids": [3, 5]}`; `text_id` is that of
Chinese-CLIP, `{"text_id": 7, "image_ids": [3, 5]}`, or from picture to text (`image_id`)
`{"image_id": 3, "text_ids": [7]}`.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.evaluation.ranks import best_columns
from cnclip.model.atomic import replacing
from cnclip.prediction.ids import Id, written_id

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Schema = Literal["query_id", "text_id", "image_id"]
FIELDS: dict[Schema, tuple[str, str]] = {
    "query_id": ("query_id", "item_ids"),
    "text_id": ("text_id", "image_ids"),
    "image_id": ("image_id", "text_ids"),
}


def prediction_line(schema: Schema, query: Id, items: Iterable[Id]) -> str:
    """One line of a prediction file, without its end."""
    one, many = FIELDS[schema]
    return json.dumps({one: query, many: [written_id(item) for item in items]})


def best_rows(scores: FloatArray, k: int, where: object) -> IntArray:
    """The k best columns of each row (fewer where there are fewer columns), int64 (n, min(k, columns)).

    Equal scores rank in the order of the columns.

    Raises:
        InputError: a score that is not finite.
    """
    if not np.isfinite(scores).all():
        raise InputError(f"{where}: holds scores that are not finite")
    return best_columns(scores, min(k, scores.shape[1]))[1]


def write_predictions(
    path: Path, schema: Schema, queries: Sequence[Id], items: Sequence[Id], blocks: Iterable[IntArray]
) -> None:
    """Write a prediction file, whole or not at all.

    Args:
        queries: their ids, one line each. items: ids of the gallery.
        blocks: rows of `items` for the first queries, for the next ones, … int64 (n, k).

    Raises:
        InputError: it cannot be written.
    """
    number = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for block in blocks:
            for row in block:
                file.write(prediction_line(schema, queries[number], (items[i] for i in row)) + "\n")
                number += 1


def write_resumable(
    path: Path,
    schema: Schema,
    queries: Sequence[Id],
    items: Sequence[Id],
    made_from: str,
    blocks: Callable[[int], Iterable[IntArray]],
) -> int:
    """Write a prediction file that takes long; what a kill leaves behind is where the next call goes on.

    Args:
        made_from: a hash of everything that the lines depend on, fit for a file name.
        blocks: called with the number of queries that are done; gives the rows of `items` for the others.

    Returns:
        queries that were done already.

    Raises:
        InputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{made_from}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        done = number = _complete_lines(part)
        with part.open("ab") as file:
            for block in blocks(done):
                for row in block:
                    line = prediction_line(schema, queries[number], (items[i] for i in row))
                    file.write(line.encode() + b"\n")
                    number += 1
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with replacing(path) as temporary:
        part.replace(temporary)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # of other features or another k
        stale.unlink(missing_ok=True)
    return done


def _complete_lines(part: Path) -> int:
    """Cut off what has no end of line; the number of lines left. 0 where there is no such file."""
    if not part.exists():
        return 0
    lines, end = 0, 0
    with part.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
        file.truncate(end)
    return lines
