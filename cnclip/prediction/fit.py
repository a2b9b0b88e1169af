"""Learning the weights of an ensemble on a labelled split.

The weights are those of a conditional logit: for each query, a softmax over the blend of its items' scores,
and the mean log-probability of its relevant items is to be as high as it can be, no weight below 0. That is a
convex problem in as many unknowns as there are members, and members that do not help come out as 0.

Source: McFadden, Conditional logit analysis of qualitative choice behavior, 1974; the restriction to weights
of at least 0 as in Breiman, Stacked regressions, 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.prediction.fit_pool import Pool, pool_metric

FloatVector = npt.NDArray[np.float64]
Method = Callable[[Pool, str], FloatVector]
METRICS = ("mean_recall", "mAP", "R@1", "R@5", "R@10")
_SMALL = 0.01  # a share of the whole that cannot be told from nothing


def best_single(pool: Pool, metric: str) -> FloatVector:
    """All weight on the member with the best metric, the first of equals."""
    eye = np.eye(len(pool.scores))
    best = int(np.argmax([pool_metric(pool, one, metric).mean() for one in eye]))
    return np.asarray(eye[best], np.float64)


def equal_weights(pool: Pool, _metric: str) -> FloatVector:
    """The same weight for each member."""
    return np.full(len(pool.scores), 1.0 / len(pool.scores))


def learned_weights(pool: Pool, _metric: str) -> FloatVector:
    """The weights of the logit, of sum 1, by projected gradients with backtracking; deterministic."""
    weights, rate = np.ones(len(pool.scores)), 0.5
    loss, gradient = _loss(pool, weights)
    for _ in range(500):
        while True:
            trial = np.maximum(weights - rate * gradient, 0.0)
            trial_loss, trial_gradient = _loss(pool, trial)
            enough = 1e-4 * float(((trial - weights) ** 2).sum()) / rate
            if trial_loss <= loss - enough or rate < 1e-8:
                break
            rate /= 2
        gain = loss - trial_loss
        weights, loss, gradient = trial, trial_loss, trial_gradient
        rate *= 1.5
        if gain < 1e-7:
            break
    total = float(weights.sum())
    if total <= 0:  # nothing here orders anything
        return equal_weights(pool, "")
    shares = np.where(weights / total < _SMALL, 0.0, weights)
    return np.asarray(shares / shares.sum(), np.float64)


def _loss(pool: Pool, weights: FloatVector) -> tuple[float, FloatVector]:
    """Minus the mean log-probability of relevant items, and its gradient."""
    scores = pool.blended(weights).astype(np.float64)
    present = pool.scores[0] > -1e8
    scores = np.where(present, scores, -np.inf)
    scores -= scores.max(axis=1, keepdims=True)
    exp = np.exp(scores)
    probability = exp / exp.sum(axis=1, keepdims=True)
    log_probability = np.where(present, scores - np.log(exp.sum(axis=1, keepdims=True)), 0.0)
    share = pool.relevant / pool.relevant.sum(axis=1, keepdims=True)
    loss = -float((log_probability * share).sum(axis=1).mean())
    difference = np.where(present, probability - share, 0.0).astype(np.float32)
    gradient = np.einsum("np,mnp->m", difference, pool.scores) / len(scores)
    return loss, gradient.astype(np.float64)


METHODS: dict[str, Method] = {"single": best_single, "equal": equal_weights, "learned": learned_weights}


@dataclass(frozen=True)
class Fit:
    """chosen: the method, by cross-validation. weights: of sum 1. held_out: for each method the metric of
    each query under weights that were learnt without it, float64 (n,)."""

    chosen: str
    weights: FloatVector
    held_out: dict[str, FloatVector]


def fit_weights(pool: Pool, metric: str, *, folds: int = 5, seed: int = 0) -> Fit:
    """Choose between the best member alone, equal and learned weights by what they score on queries that
    had no say in them, then settle the weights on all queries.

    The result is at least as good as the best member on these queries; where it would not be, the best member
    it is.

    Raises:
        InputError: an unknown metric, or fewer queries than folds.
    """
    if metric not in METRICS:
        raise InputError(f"--metric: {metric!r} is not one of {', '.join(METRICS)}")
    n = len(pool.queries)
    if not 2 <= folds <= n:
        raise InputError(f"--folds: {folds} for {n} labelled queries; must be between 2 and their number")
    groups = np.array_split(np.random.default_rng(seed).permutation(n), folds)
    held_out = {name: np.zeros(n) for name in METHODS}
    for group in groups:
        others = pool.part(np.setdiff1d(np.arange(n), group))
        for name, method in METHODS.items():
            held_out[name][group] = pool_metric(pool.part(group), method(others, metric), metric)
    chosen = max(METHODS, key=lambda name: float(held_out[name].mean()))  # the first, simplest, of equals
    weights = METHODS[chosen](pool, metric)
    if chosen == "learned":
        weights = _without_idle(pool, weights, metric)
    single = best_single(pool, metric)
    if pool_metric(pool, weights, metric).mean() < pool_metric(pool, single, metric).mean():
        chosen, weights = "single", single
    return Fit(chosen, weights, held_out)


def _without_idle(pool: Pool, weights: FloatVector, metric: str) -> FloatVector:
    """Take out, lightest first, each member whose going changes nothing for the worse."""
    best = pool_metric(pool, weights, metric).mean()
    for i in np.argsort(weights, kind="stable"):
        trial = np.where(np.arange(len(weights)) == i, 0.0, weights)
        if 0 < weights[i] < weights.sum():
            score = pool_metric(pool, trial / trial.sum(), metric).mean()
            if score >= best:
                best, weights = score, trial / trial.sum()
    return weights
