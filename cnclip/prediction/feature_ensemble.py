"""An ensemble without score matrices, for galleries of millions.

With scores normalised by `zscore`, the ensemble's score of text t and picture g is, up to a constant of t
that ranks nothing, the sum over members m of w_m / s_m · <t_m, g_m>, s_m being the member's spread. That is
one inner product of the members' vectors laid end to end, those of the text scaled by w_m / s_m. And the
spread needs no scores either: the variance of a text's scores is tᵀCt, C being the gallery's covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.prediction.ensemble import check_weights
from cnclip.prediction.features import Features, check_one_model
from cnclip.prediction.ids import Id, IntArray, align
from cnclip.prediction.normalise import Normalize
from cnclip.prediction.topk import Rows

FloatArray = npt.NDArray[np.float32]
_PIECE = 16_384


class UnitRows:
    """Rows of features as float32 of unit length, in any order, slice by slice.

    order: which row of the features is first, second, …; None: as they are.
    """

    def __init__(self, features: Features, order: IntArray | None = None) -> None:
        self._vectors, self._order = features.vectors, order

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: slice, /) -> FloatArray:
        taken = self._vectors[rows if self._order is None else self._order[rows]]
        values = np.ascontiguousarray(taken, np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        # What extract wrote is of unit length and stays as it is, bit for bit; float16 is off by 1e-3.
        if len(norms) and np.abs(norms - 1).max() > 2e-3:
            values = values / np.maximum(norms, 1e-12)[:, None]
        return values


@dataclass(frozen=True)
class Blend:
    """Members' vectors laid end to end, made slice by slice. factors: what each is multiplied with."""

    parts: list[UnitRows]
    factors: list[float]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: slice, /) -> FloatArray:
        pieces = [np.float32(f) * part[rows] for part, f in zip(self.parts, self.factors, strict=True)]
        return np.concatenate(pieces, axis=1)


@dataclass(frozen=True)
class FeatureEnsemble:
    """Texts and pictures in one space; ids as the first member lists them."""

    text_ids: list[Id]
    image_ids: list[Id]
    texts: Blend
    images: Blend


def blend(
    members: Sequence[tuple[Features, Features]], weights: Sequence[float], how: Normalize
) -> FeatureEnsemble:
    """Put the features of several models, (texts, pictures) of each, into one space.

    Raises:
        InputError: a normalisation that needs matrices, ids that one has and another lacks, or weights that
            do not fit.
        ModelMismatchError: texts and pictures of a member are not of one model.
    """
    if how not in ("zscore", "none"):
        raise InputError(f"--normalize {how}: needs score matrices; zscore and none work without")
    check_weights(weights, len(members))
    first_texts, first_images = members[0]
    texts, images, factors = [], [], []
    for (of_texts, of_images), weight in zip(members, weights, strict=True):
        check_one_model(of_texts, of_images)
        rows = align(first_texts.ids, of_texts.ids, "text_id", of_texts.name, first_texts.name)
        columns = align(first_images.ids, of_images.ids, "image_id", of_images.name, first_images.name)
        if weight:
            texts.append(UnitRows(of_texts, rows))
            images.append(UnitRows(of_images, columns))
            spread = feature_spread(texts[-1], images[-1]) if how == "zscore" else 1.0
            factors.append(weight / spread if spread > 0 else 0.0)
    return FeatureEnsemble(
        first_texts.ids, first_images.ids, Blend(texts, factors), Blend(images, [1.0] * len(images))
    )


def feature_spread(texts: Rows, images: Rows) -> float:
    """The root of the mean variance of the rows of texts · picturesᵀ, from second moments alone."""
    queries, _ = _moments(texts, 0.0)
    shift = np.asarray(images[:_PIECE], np.float64).mean(axis=0)
    about, mean = _moments(images, shift)
    covariance = about - np.outer(mean, mean)
    return float(np.sqrt(max(0.0, float((covariance * queries).sum()))))


def _moments(
    rows: Rows, shift: npt.NDArray[np.float64] | float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The mean of (x - shift)(x - shift)ᵀ and of x - shift, float64 (d, d) and (d,)."""
    width = rows[:1].shape[1]
    second, first = np.zeros((width, width)), np.zeros(width)
    for start in range(0, len(rows), _PIECE):
        piece = np.asarray(rows[start : start + _PIECE], np.float64) - shift
        second += piece.T @ piece
        first += piece.sum(axis=0)
    return second / len(rows), first / len(rows)
