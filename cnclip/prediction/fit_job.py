"""Weights for an ensemble from score matrices and labels, with what they are worth in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.evaluation.bootstrap import Interval, bootstrap_interval
from cnclip.evaluation.ranks import FloatArray, metrics, query_metrics
from cnclip.evaluation.score_ranks import score_ranks
from cnclip.prediction.ensemble import Member, align_members, ensemble_blocks
from cnclip.prediction.fit import METHODS, Fit, fit_weights
from cnclip.prediction.fit_pool import build_pool
from cnclip.prediction.ids import Id, IntArray, named
from cnclip.prediction.matrix import ScoreMatrix
from cnclip.prediction.normalise import Normalize
from cnclip.prediction.weights import FileMember, WeightsFile

FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """One system on the labelled split. values: the metric, query by query. metrics: all of them."""

    name: str
    values: FloatVector
    metrics: Mapping[str, float]

    def interval(self) -> Interval:
        """95 % of the mean of the metric, by bootstrap over queries."""
        return bootstrap_interval(self.values)


@dataclass(frozen=True)
class Fitted:
    """results: each member alone, then "equal" and "chosen". best: index of the best member. gain: of the
    chosen weights over it, paired. held_out: the metric by method on queries that had no say."""

    weights: WeightsFile
    fit: Fit
    results: list[Result]
    best: int
    gain: Interval
    held_out: Mapping[str, Interval]


def fit_ensemble(
    matrices: Sequence[ScoreMatrix],
    labels: Mapping[str, Sequence[str]],
    *,
    metric: str = "mean_recall",
    how: Normalize = "zscore",
    folds: int = 5,
    seed: int = 0,
) -> Fitted:
    """Learn weights.

    Args:
        labels: for each text id the ids of its pictures; texts without any say nothing.
        metric: what has to get better, one of `cnclip.prediction.fit.METRICS`.

    Raises:
        InputError: ids that one matrix has and another lacks, labels of unknown texts, too few queries.
    """
    members = align_members(matrices, how)
    relevant = relevant_columns(matrices[0].text_ids, matrices[0].image_ids, labels)
    fit = fit_weights(build_pool(members, relevant), metric, folds=folds, seed=seed)
    fit = Fit(fit.chosen, np.round(fit.weights, 6), fit.held_out)  # as the file will have them
    eye, equal = np.eye(len(members)), np.full(len(members), 1.0 / len(members))
    results = [
        _result(members, weights, relevant, metric, name)
        for name, weights in [
            *((_name(matrix, i), eye[i]) for i, matrix in enumerate(matrices)),
            ("equal", equal),
            ("chosen", fit.weights),
        ]
    ]
    alone = [result.values.mean() for result in results[: len(members)]]
    best = int(np.argmax(alone))
    if results[-1].values.mean() < alone[best]:  # by the whole gallery, where the pool said otherwise
        fit = Fit("single", eye[best], fit.held_out)
        results[-1] = Result("chosen", results[best].values, results[best].metrics)
    gain = bootstrap_interval(results[-1].values - results[best].values)
    held_out = {name: bootstrap_interval(values) for name, values in fit.held_out.items()}
    file = _weights_file(matrices, fit, results, gain, held_out, metric, how)
    return Fitted(file, fit, results, best, gain, held_out)


def relevant_columns(
    text_ids: Sequence[Id], image_ids: Sequence[Id], labels: Mapping[str, Sequence[str]]
) -> list[IntArray]:
    """For each text the columns of its pictures, ascending, possibly none.

    Raises:
        InputError: no text has a label, or labels are of other texts.
    """
    column = {str(value): i for i, value in enumerate(image_ids)}
    texts = {str(value) for value in text_ids}
    if unknown := [key for key in labels if key not in texts]:
        raise InputError(f"labels: field text_id: {named(unknown)} not in the score matrices")
    relevant = [
        np.unique(np.array([column[i] for i in labels.get(str(value), ()) if i in column], np.int64))
        for value in text_ids
    ]
    if not any(len(columns) for columns in relevant):
        raise InputError("labels: no text of the score matrices has a picture of theirs")
    return relevant


def _name(matrix: ScoreMatrix, position: int) -> str:
    return matrix.model or f"{position + 1}"


def _result(
    members: Sequence[Member], weights: FloatVector, relevant: list[IntArray], metric: str, name: str
) -> Result:
    used = [i for i, weight in enumerate(weights) if weight]
    blocks: Iterable[FloatArray] = ensemble_blocks([members[i] for i in used], [weights[i] for i in used])
    ranks = score_ranks(blocks, relevant)
    per_query = query_metrics(ranks)
    if metric == "mAP":
        values = per_query["AP"]
    elif metric == "mean_recall":
        values = np.mean([per_query["first"] <= k for k in (1, 5, 10)], axis=0)
    else:
        values = (per_query["first"] <= int(metric.removeprefix("R@"))).astype(np.float64)
    return Result(name, values, metrics(ranks))


def _weights_file(
    matrices: Sequence[ScoreMatrix],
    fit: Fit,
    results: list[Result],
    gain: Interval,
    held_out: Mapping[str, Interval],
    metric: str,
    how: Normalize,
) -> WeightsFile:
    members = [
        FileMember(_name(matrix, i), matrix.fingerprint, float(weight))
        for i, (matrix, weight) in enumerate(zip(matrices, fit.weights, strict=True))
    ]
    details = {
        "metric": metric,
        "chosen": fit.chosen,
        "n_queries": len(results[0].values),
        "n_gallery": len(matrices[0].image_ids),
        "results": [
            {"name": result.name, "interval": list(result.interval()), **result.metrics} for result in results
        ],
        "gain_over_best_member": list(gain),
        "held_out": {name: list(held_out[name]) for name in METHODS},
        "dropped": [member.model for member in members if not member.weight],
    }
    return WeightsFile(members, how, details)
