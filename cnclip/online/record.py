"""What a round leaves behind: a line in `online/rounds.jsonl`, and small pictures for the report."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnclip.errors import ImageError, InputError
from cnclip.evaluation.evaluator import Embedded, LabelledSplit
from cnclip.evaluation.ranks import query_metrics, relevant_ranks, top_k
from cnclip.image import decode_image
from cnclip.model.atomic import replacing
from cnclip.online.gate import Judged
from cnclip.text import normalize

FOLDER, ROUNDS, THUMBS = "online", "rounds.jsonl", "thumbs"
THUMB_SIDE = 96  # pixels
_MOVERS, _TOP = 12, 5


class RoundBook:
    """The records of a run, one process's. Rounds that come again after a resume replace their record."""

    def __init__(self, run: Path) -> None:
        self._path = run / FOLDER / ROUNDS
        self._thumbs = run / FOLDER / THUMBS

    def rows(self) -> list[dict[str, Any]]:
        """What is there, torn lines left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("round"), int):
                rows.append(row)
        return rows

    def before(self, number: int) -> list[dict[str, Any]]:
        """The records of the rounds before round `number`."""
        return [row for row in self.rows() if row["round"] < number]

    def used_before(self, number: int) -> dict[int, str]:
        """Hash of each picture that taught in a round before round `number` → its query."""
        pictures = (picture for row in self.before(number) for picture in row.get("pictures", ()))
        return {int(p["hash"], 16): str(p["query"]) for p in pictures if p["outcome"] == "used"}

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record, in place of those of the same or a later round."""
        kept = self.before(record["round"])
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, record]]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")

    def keep_fresh(self, judged: Iterable[Judged]) -> None:
        """Small versions of the pictures that were offered."""
        for one in judged:
            self._keep(self._thumbs / f"{one.candidate.sha256}.jpg", one.candidate.picture.data)

    def keep_gallery(self, split: LabelledSplit, movers: Iterable[Mapping[str, Any]]) -> None:
        """Small versions of the gallery pictures that `movers` show."""
        shown = {hit["image_id"] for row in movers for hit in [*row["top_before"], *row["top_after"]]}
        for image_id in shown:
            try:
                self._keep(self._thumbs / gallery_thumb(image_id), split.image_bytes(image_id))
            except InputError:  # it left the gallery meanwhile
                continue

    def _keep(self, path: Path, data: bytes) -> None:
        if path.exists():
            return
        try:
            image = decode_image(data, name=path.name, min_side=THUMB_SIDE)
        except ImageError:
            return
        image.thumbnail((THUMB_SIDE, THUMB_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())


def gallery_thumb(image_id: str) -> str:
    """File name of a gallery picture's small version."""
    return f"gallery-{hashlib.sha256(image_id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.jpg"


def picture_rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Every picture that was offered, what became of it, and where it is from."""
    return [
        {
            "query": one.candidate.picture.query,
            "number": one.candidate.picture.number,
            "outcome": one.reason or "used",
            "similarity": None if np.isnan(one.similarity) else round(one.similarity, 4),
            "sha256": one.candidate.sha256,
            "hash": f"{one.candidate.hash:016x}",
            "origin": dict(one.candidate.picture.origin),
        }
        for one in judged
    ]


def query_counts(asked: int, judged: Sequence[Judged], missed: Mapping[str, str]) -> dict[str, Any]:
    """How many queries were asked for, how many had pictures, and why the others had none."""
    found = {one.candidate.picture.query for one in judged}
    return {"asked": asked, "with pictures": len(found), "missed": dict(Counter(missed.values()))}


def movers(before: Embedded, after: Embedded, taught: frozenset[str]) -> list[dict[str, Any]]:
    """The queries whose average precision rose and fell most, with their first pictures. taught:
    normalised texts."""
    values = [query_metrics(_ranks(embedded)) for embedded in (before, after)]
    change = values[1]["AP"] - values[0]["AP"]
    order = np.argsort(change, kind="stable")
    rows = [i for i in order[::-1][:_MOVERS] if change[i] > 0] + [i for i in order[:_MOVERS] if change[i] < 0]
    queries = _ranks(before).queries[rows]
    tops = [_tops(embedded, queries) for embedded in (before, after)]
    return [
        {
            "text_id": str(before.texts[query].text_id),
            "text": before.texts[query].text,
            "taught": normalize(before.texts[query].text) in taught,
            "n_relevant": len(before.relevant[query]),
            "AP": [float(v["AP"][row]) for v in values],
            "P@10": [float(v["P@10"][row]) for v in values],
            "top_before": tops[0][n],
            "top_after": tops[1][n],
        }
        for n, (row, query) in enumerate(zip(rows, queries.tolist(), strict=True))
    ]


def _ranks(embedded: Embedded) -> Any:
    return relevant_ranks(embedded.text_vectors, embedded.image_vectors, embedded.relevant)


def _tops(embedded: Embedded, queries: Any) -> list[list[dict[str, Any]]]:
    _, found = top_k(embedded.text_vectors[queries], embedded.image_vectors, _TOP)
    return [
        [
            {"image_id": embedded.image_ids[i], "relevant": bool(np.isin(i, embedded.relevant[query]))}
            for i in row
        ]
        for query, row in zip(queries.tolist(), found.tolist(), strict=True)
    ]


__all__ = ["RoundBook", "gallery_thumb", "movers", "picture_rows", "query_counts"]
