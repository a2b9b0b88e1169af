"""Prediction with one model: features, score matrix, prediction file. What is finished is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnclip.prediction.embedding import (
    Model,
    OnProgress,
    embed_pictures,
    embed_texts,
    identity,
    picture_rows,
    text_rows,
)
from cnclip.prediction.extract import left_out_before, tell
from cnclip.prediction.ids import Id
from cnclip.prediction.matrix import KIND, ScoreMatrix, open_matrix, products, row_blocks, write_matrix
from cnclip.prediction.predictions import IntArray, Schema, best_rows, write_predictions
from cnclip.prediction.split import PredictionSplit, pictures_digest, texts_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where predictions go and what they look like.

    results: folder of `{name}_predictions_….jsonl`. matrices: folder of `matrix-….npy`. name: of the split.
    top_k: items of a line, fewer where the gallery is smaller.
    """

    results: Path
    matrices: Path
    name: str = "test"
    schema: Schema = "query_id"
    top_k: int = 10
    progress: OnProgress | None = None

    def predictions_path(self, which: int | str) -> Path:
        """`test_predictions_1.jsonl`, `test_predictions_ensemble.jsonl`, …"""
        return self.results / f"{self.name}_predictions_{which}.jsonl"

    def matrix_path(self, which: int | str) -> Path:
        """`matrix-1.npy`, `matrix-ensemble.npy`, …"""
        return self.matrices / f"matrix-{which}.npy"

    def advance(self, what: str, done: int, total: int) -> None:
        """Tell whoever watches."""
        if self.progress is not None:
            self.progress(what, done, total)


@dataclass(frozen=True, kw_only=True)
class Job(Output):
    """What is predicted, too. force: make everything anew."""

    split: PredictionSplit
    batch_size: int = 64
    text_batch_size: int = 256
    force: bool = False

    def made_from(self, model: Model) -> dict[str, Any]:
        """What everything made by this model for this split depends on, as plain values."""
        return {
            **identity(model),
            "texts": texts_digest(self.split.texts),
            "pictures": pictures_digest(self.split.images),
        }


def predict_single(job: Job, model: Model, number: int = 1) -> Path:
    """Score all pictures for all texts, save the matrix, write the predictions; returns their file.

    A matrix that is there already is used again if the model, its precision, the texts and the pictures are
    the same.

    Raises:
        InputError: no readable picture, or a folder that cannot be written.
    """
    return write_best(job, model_matrix(job, model, number), job.predictions_path(number))


def model_matrix(job: Job, model: Model, number: int) -> ScoreMatrix:
    """The score matrix of one model, made unless it is there already. Raises InputError as predict_single."""
    path, made_from = job.matrix_path(number), job.made_from(model)
    if not job.force and (problems := left_out_before(path, KIND, made_from)) is not None:
        logger.info("%s: kept, it is of the same model, texts and pictures", path.name)
        tell(problems)
        return open_matrix(path)
    texts = job.split.texts
    with (
        text_rows(path.with_suffix(".texts"), model, texts) as text_part,
        picture_rows(path.with_suffix(".pictures"), model, job.split.images) as picture_part,
    ):
        queries = embed_texts(model, texts, text_part, batch_size=job.text_batch_size, progress=job.progress)
        gallery = embed_pictures(
            model, job.split.images, picture_part, batch_size=job.batch_size, progress=job.progress
        )
        tell(gallery.problems)
        ids: tuple[list[Id], list[Id]] = ([row.text_id for row in texts], list(gallery.ids))
        description = {"model": model.name, **made_from, "left_out": gallery.problems}
        write_matrix(path, *ids, products(queries, gallery.vectors), description)
        text_part.remove()
        picture_part.remove()
    return open_matrix(path)


def write_best(output: Output, matrix: ScoreMatrix, path: Path) -> Path:
    """Write the predictions of a matrix to `path` and return it. Raises InputError where that cannot be."""

    def blocks() -> Iterator[IntArray]:
        n = len(matrix.text_ids)
        for block in row_blocks(n, len(matrix.image_ids)):
            yield best_rows(matrix.scores[block], output.top_k, matrix.path)
            output.advance("top-k", block.stop, n)

    write_predictions(path, output.schema, matrix.text_ids, matrix.image_ids, blocks())
    return path
