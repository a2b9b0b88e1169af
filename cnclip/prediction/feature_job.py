"""Prediction without score matrices: each model's features are kept, and the best pictures found in them.

For galleries where a matrix, texts times pictures, would not fit the disk. Features are float32 here, so the
predictions are those that matrices would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnclip.prediction.embedding import Model
from cnclip.prediction.extract import Extraction
from cnclip.prediction.feature_ensemble import UnitRows, blend
from cnclip.prediction.features import Features, read_npy
from cnclip.prediction.job import Job
from cnclip.prediction.normalise import Normalize
from cnclip.prediction.topk_job import write_top_k


def model_features(job: Job, model: Model, number: int) -> tuple[Features, Features]:
    """Features of texts and pictures, made unless they are there already.

    Raises:
        InputError: no readable picture, or a folder that cannot be written.
    """
    texts, pictures = (job.matrices / f"features-{number}.{what}.npy" for what in ("texts", "pictures"))
    extraction = Extraction(
        model=model,
        dtype="float32",
        batch_size=job.batch_size,
        text_batch_size=job.text_batch_size,
        force=job.force,
        progress=job.progress,
    )
    extraction.texts(job.split.texts, texts)
    extraction.pictures(job.split.images, pictures)
    return read_npy(texts, "text"), read_npy(pictures, "image")


def predict_from_features(job: Job, features: tuple[Features, Features], number: int) -> Path:
    """Write the predictions of one model; returns their file. Raises InputError where that cannot be."""
    texts, images = features
    path = job.predictions_path(number)
    queries, gallery = (texts.ids, UnitRows(texts)), (images.ids, UnitRows(images))
    write_top_k(path, job.schema, queries, gallery, job.top_k, progress=job.progress)
    return path


def predict_blend(
    job: Job, members: Sequence[tuple[Features, Features]], weights: Sequence[float], how: Normalize
) -> Path:
    """Write the predictions of an ensemble; returns their file.

    Raises:
        InputError: as `cnclip.prediction.feature_ensemble.blend`, or the file cannot be written.
    """
    ensemble = blend(members, weights, how)
    path = job.predictions_path("ensemble")
    queries, gallery = (ensemble.text_ids, ensemble.texts), (ensemble.image_ids, ensemble.images)
    write_top_k(path, job.schema, queries, gallery, job.top_k, progress=job.progress)
    return path
