"""Ensembles of prediction jobs: from models, or from matrices that were saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnclip.errors import InputError
from cnclip.prediction.arrays import read_description
from cnclip.prediction.embedding import Model
from cnclip.prediction.ensemble import align_members, ensemble_blocks
from cnclip.prediction.feature_job import model_features, predict_blend, predict_from_features
from cnclip.prediction.ids import Id
from cnclip.prediction.job import Job, Output, model_matrix, write_best
from cnclip.prediction.matrix import KIND, ScoreMatrix, numbered_matrices, open_matrix, write_matrix
from cnclip.prediction.normalise import NORMALIZATIONS, Normalize
from cnclip.prediction.weights import REFERENCE, Weights, WeightsFile, numbers

logger = logging.getLogger(__name__)
Load = Callable[[str], Model]


def choose_normalization(how: Normalize | None, weights: Weights) -> Normalize:
    """What was asked for, or what the weights are made for.

    Raises:
        InputError: weights that were learnt with another one.
    """
    if isinstance(weights, WeightsFile):
        if how not in (None, weights.normalize):
            raise InputError(f"--normalize {how}: {weights.path} was learnt with {weights.normalize}")
        return weights.normalize
    if how is None:
        return "none" if weights == list(REFERENCE) else "zscore"
    return how


def predict_ensemble(
    job: Job,
    models: Sequence[str],
    load: Load,
    weights: Weights = None,
    how: Normalize | None = None,
    *,
    matrices: bool = True,
) -> Path:
    """Predict with each model, then with all of them together; returns the ensemble's file.

    Models with a weight of 0 are not asked. One model is in memory at a time.

    Args:
        weights: as `parse_weights` gives them. matrices: whether to save them; without, features are kept.

    Raises:
        InputError: weights that do not fit the models, or as `predict_single`.
    """
    how = choose_normalization(how, weights)
    shares = _shares(models, load, weights)
    members: list[Any] = []
    for number, (name, share) in enumerate(zip(models, shares, strict=True), 1):
        if not share:
            logger.info("%s: weight 0, not asked", name)
            continue
        model = load(name)
        logger.info("model %d of %d: %s", number, len(models), name)
        if matrices:
            members.append(model_matrix(job, model, number))
            write_best(job, members[-1], job.predictions_path(number))
        else:
            members.append(model_features(job, model, number))
            predict_from_features(job, members[-1], number)
        del model  # before the next one is loaded
    used = [share for share in shares if share]
    if not matrices:
        return predict_blend(job, members, used, how)
    places = job.matrix_path("ensemble"), job.predictions_path("ensemble")
    return combine(job, members, used, how, *places)


def _shares(models: Sequence[str], load: Load, weights: Weights) -> list[float]:
    """The weight of each model, known before hours of work."""
    if not isinstance(weights, WeightsFile):
        return numbers(weights, len(models))
    shares, fingerprints = [], []
    for name in models:
        fingerprints.append(load(name).fingerprint)
        shares.append(weights.weight_of(name, fingerprints[-1]))
    weights.check_complete(fingerprints)
    return shares


def combine(
    output: Output,
    matrices: Sequence[ScoreMatrix],
    weights: Sequence[float],
    how: Normalize,
    matrix: Path,
    predictions: Path,
) -> Path:
    """Write the matrix and the predictions of an ensemble; returns the latter's file.

    The matrix says which members it has, with which weights, for `predict_ensemble_last`.

    Raises:
        InputError: ids that one matrix has and another lacks, or a folder that cannot be written.
    """
    members = align_members(matrices, how)
    first = matrices[0]
    description = {
        "model": "ensemble",
        "normalize": how,
        "members": [
            {"matrix": m.path.name, "model": m.model, "fingerprint": m.fingerprint, "weight": weight}
            for m, weight in zip(matrices, weights, strict=True)
        ],
    }
    write_matrix(matrix, first.text_ids, first.image_ids, ensemble_blocks(members, weights), description)
    return write_best(output, open_matrix(matrix), predictions)


def predict_ensemble_last(
    output: Output,
    weights: Weights = None,
    how: Normalize | None = None,
    ids: tuple[list[Id], list[Id]] | None = None,
    *,
    matrix: Path | None = None,
    predictions: Path | None = None,
) -> Path:
    """The ensemble of the matrices in a folder; no model is needed. Returns the predictions' file.

    If the folder also has the `matrix-ensemble.ids.json` that `predict_ensemble` wrote, and its members are
    there, they are taken with their weights, unless others are given. Otherwise all `matrix-N.npy` are.

    Args:
        ids: of texts and pictures, for matrices that have none beside them.
        matrix, predictions: files to write; by default `matrix-ensemble-last.npy` in the folder and
            `test_predictions_ensemble_last.jsonl`.

    Raises:
        InputError: no matrices, weights that do not fit them, or as `combine`.
    """
    folder = output.matrices
    paths, recorded, recorded_how = _recorded(folder) or (numbered_matrices(folder), None, None)
    if isinstance(weights, list) and len(weights) != len(paths):
        paths = numbered_matrices(folder)
    matrices = [open_matrix(path, ids) for path in paths]
    matrix = matrix or output.matrix_path("ensemble-last")
    predictions = predictions or output.predictions_path("ensemble_last")
    logger.info("%s: %s", folder, ", ".join(path.name for path in paths))
    if weights is None and recorded is not None:
        shares, how = recorded, how or recorded_how
    elif isinstance(weights, WeightsFile):
        shares = [weights.weight_of(m.path.name, m.fingerprint) for m in matrices]
        weights.check_complete([m.fingerprint for m in matrices])
    else:
        shares = numbers(weights, len(matrices))
    how = choose_normalization(how, weights)
    used = [i for i, share in enumerate(shares) if share]
    members, shares = [matrices[i] for i in used], [shares[i] for i in used]
    return combine(output, members, shares, how, matrix, predictions)


def _recorded(folder: Path) -> tuple[list[Path], list[float], Normalize] | None:
    """Members, weights and normalisation of the ensemble that was made in this folder or copied to it, if
    its members are still those."""
    path = folder / "matrix-ensemble.npy"
    try:
        content = read_description(path, KIND)
        if content is None or content["normalize"] not in NORMALIZATIONS:
            return None
        paths = [folder / Path(member["matrix"]).name for member in content["members"]]
        weights = [float(member["weight"]) for member in content["members"]]
        for member, file in zip(content["members"], paths, strict=True):
            own = read_description(file, KIND)
            if not file.is_file() or own is None or own.get("fingerprint", "") != member["fingerprint"]:
                logger.info("%s: no longer what %s was made of, so not gone by", file.name, path.name)
                return None
        return paths, weights, content["normalize"]
    except (InputError, KeyError, TypeError, ValueError):
        return None
