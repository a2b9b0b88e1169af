"""Ranks from scores agree with ranks from vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.errors import InputError
from cnclip.evaluation.ranks import relevant_ranks
from cnclip.evaluation.score_ranks import score_ranks


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 20), g=st.integers(1, 30), block=st.integers(1, 25), seed=st.integers(0, 2**20))
def test_against_vectors_with_many_ties(n: int, g: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = (rng.integers(-1, 2, (size, 3)).astype(np.float32) for size in (n, g))
    relevant = [np.flatnonzero(rng.random(g) < 0.3) for _ in range(n)]
    relevant[0] = np.array([0])
    scores = queries @ gallery.T
    found = score_ranks((scores[i : i + block] for i in range(0, n, block)), relevant)
    expected = relevant_ranks(queries, gallery, relevant)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_what_cannot_be_ranked_is_refused() -> None:
    scores = np.zeros((2, 3), np.float32)
    with pytest.raises(InputError, match="relevant: no query has a relevant item"):
        score_ranks([scores], [[], []])
    for relevant in ([[0]], [[0], [1], [2]]):
        with pytest.raises(InputError, match=f"relevant: {len(relevant)} rows for 2 queries"):
            score_ranks([scores], relevant)
