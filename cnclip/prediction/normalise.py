"""Making the scores of different models comparable before they are added up.

Models differ in how far apart their cosines are; added as they are, the one with the widest spread decides.
The ways, each applied to the row of scores of one query against the whole gallery:

- `zscore`, the default: minus the row's mean, over the model's spread, which is the root of the mean variance
  of its rows. One number for a model, so a query that a model is unsure of keeps its small differences, and
  an ensemble is one vector space (`cnclip.prediction.feature_ensemble`).
- `zscore-query`: minus the row's mean, over the row's own standard deviation.
- `minmax`: the row's lowest becomes 0, its highest 1; one outlier moves all others.
- `none`: as they are, Online-CNCLIP's way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Scores = npt.NDArray[Any]
Normalize = Literal["zscore", "zscore-query", "minmax", "none"]
NORMALIZATIONS: tuple[Normalize, ...] = get_args(Normalize)
_NO_SPREAD = 1e-9  # below it a row says nothing and becomes 0


def spread(blocks: Iterable[Scores]) -> float:
    """The root of the mean variance of all rows, given in blocks (n, g); 0.0 where there is none."""
    total, rows = 0.0, 0
    for block in blocks:
        total += float(np.var(block, axis=1, dtype=np.float64).sum())
        rows += len(block)
    return float(np.sqrt(total / max(1, rows)))


def normalise(scores: Scores, how: Normalize, model_spread: float = 1.0) -> FloatArray:
    """Rows of scores (n, g) on a common scale, float32 (n, g).

    model_spread: of the matrix they are from; of use to `zscore` only. Rows without any spread become 0.
    """
    values = np.asarray(scores, np.float32)
    if how == "none":
        return values
    if how == "minmax":
        low = values.min(axis=1).astype(np.float64)
        span = values.max(axis=1) - low
    else:
        low = values.mean(axis=1, dtype=np.float64)
        own = how == "zscore-query"
        span = values.std(axis=1, dtype=np.float64) if own else np.full(len(values), model_spread)
    factor = np.divide(1.0, span, out=np.zeros_like(span), where=span > _NO_SPREAD)
    centred: FloatArray = (values - low[:, None].astype(np.float32)) * factor[:, None].astype(np.float32)
    return centred
