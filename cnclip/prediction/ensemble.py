"""Score matrices of several models into one, a block of queries at a time.

Members stay on disk; what is in memory is one block of rows of each in turn, so that number and size of the
matrices do not matter. Rows and columns are matched by id: the order in which a member lists them is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnclip.errors import InputError
from cnclip.prediction.ids import IntArray, align
from cnclip.prediction.matrix import ScoreMatrix, row_blocks
from cnclip.prediction.normalise import Normalize, normalise, spread

FloatArray = npt.NDArray[np.float32]


@dataclass
class Member:
    """A matrix seen in the order of its ensemble.

    rows, columns: where the ensemble's are in this matrix; None: in the same places. spread: of its scores,
    where they are normalised with it.
    """

    matrix: ScoreMatrix
    rows: IntArray | None
    columns: IntArray | None
    how: Normalize
    spread: float = 1.0

    def block(self, rows: slice) -> FloatArray:
        """Normalised scores of these rows of the ensemble, float32 (n, pictures).

        Raises:
            InputError: a score that is not finite.
        """
        taken = self.matrix.scores[rows if self.rows is None else self.rows[rows]]
        if not np.isfinite(taken).all():
            raise InputError(f"{self.matrix.path}: holds scores that are not finite")
        if self.columns is not None:
            taken = taken[:, self.columns]
        return normalise(taken, self.how, self.spread)


def align_members(matrices: Sequence[ScoreMatrix], how: Normalize) -> list[Member]:
    """The matrices in the order of texts and pictures that the first one has.

    Raises:
        InputError: ids that one has and another lacks, or has twice, by name.
    """
    first = matrices[0]
    members = []
    for matrix in matrices:
        rows = align(first.text_ids, matrix.text_ids, "text_id", matrix.path, first.path)
        columns = align(first.image_ids, matrix.image_ids, "image_id", matrix.path, first.path)
        members.append(Member(matrix, rows, columns, how))
    if how == "zscore":
        for member in members:
            n_texts, n_images = member.matrix.scores.shape
            # In the ensemble's order, so that a member that lists its ids otherwise gets the same number.
            member.spread = spread(
                member.matrix.scores[block if member.rows is None else member.rows[block]]
                for block in row_blocks(n_texts, n_images)
            )
    return members


def ensemble_blocks(members: Sequence[Member], weights: Sequence[float]) -> Iterator[FloatArray]:
    """The weighted sum of the members' normalised scores, float32 (n, pictures), block of texts by block.

    Raises:
        InputError: weights that do not fit, or a score that is not finite.
    """
    check_weights(weights, len(members))
    n_texts, n_images = members[0].matrix.scores.shape
    for rows in row_blocks(n_texts, n_images):
        total = np.zeros((rows.stop - rows.start, n_images), np.float32)
        for member, weight in zip(members, weights, strict=True):
            if weight:
                total += np.float32(weight) * member.block(rows)
        yield total


def check_weights(weights: Sequence[float], n_members: int) -> None:
    """Raises InputError unless there is a weight for each member, none below 0 and one above."""
    if len(weights) != n_members:
        raise InputError(f"weights: {len(weights)} for {n_members} members")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise InputError(f"weights: {', '.join(f'{weight:g}' for weight in weights)}: must be 0 or above")
    if not any(weights):
        raise InputError("weights: all are 0")
