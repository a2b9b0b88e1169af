"""Whether answers are of the model that they name: exact search by either model of `bench_swap`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import cnclip
from cnclip.online.versions import ModelVersions
from service.gallery import Gallery, find_model, vector_sets

DEPTH = 30  # how far down the exact results are looked for
_CHUNK = 500


class Judge:
    """Knows the vectors of both models, "base" and "bench", from the gallery after the way back.

    Args:
        text_only: both models have the same ones.
    """

    def __init__(self, gallery: Path, models: Path, text_only: bool) -> None:
        version = ModelVersions(models).get("bench", "0001")
        with Gallery.open(gallery, read_only=True) as opened:
            self._ids = opened.ids()
            base = find_model(gallery, opened.models().active)
            vectors = {"base": opened.vectors(self._ids)}
            vectors["bench"] = dict(vectors["base"])
            if not text_only:
                with opened._catalog.read() as view:
                    names = {row.num: row.id for item_id in self._ids if (row := view.row(item_id))}
                    cursor = vector_sets.read_set(view, version.image_fingerprint)
                    for nums, rows in view.chunks(cursor, vector_sets.CHUNK_ROWS):
                        vectors["bench"].update(zip((names[int(n)] for n in nums), rows, strict=True))
        self._vectors = {name: np.stack([of[i] for i in self._ids]) for name, of in vectors.items()}
        self._encoders = {"base": cnclip.load(base), "bench": cnclip.load(version.weights)}

    def foreign(self, answers: Sequence[tuple[str, tuple[str, ...]]], queries: str, vectors: str) -> int:
        """How many `answers` (text, ids of its results) cannot come from the queries of one model among the
        vectors of one: most of the results are not among the first DEPTH of an exact search."""
        encoded = self._encoders[queries].encode_texts([text for text, _ in answers])
        found = 0
        for start in range(0, len(answers), _CHUNK):
            scores = encoded[start : start + _CHUNK] @ self._vectors[vectors].T
            best = np.argpartition(-scores, DEPTH, axis=1)[:, :DEPTH]
            for (_, ids), places in zip(answers[start : start + _CHUNK], best, strict=True):
                expected = {self._ids[place] for place in places}
                found += 2 * len(expected.intersection(ids)) < len(ids)
        return found
