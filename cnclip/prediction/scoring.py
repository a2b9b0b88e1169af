"""Scoring a prediction file against labels: recall at 1, 5 and 10 as Chinese-CLIP's evaluation.py counts it.

A query counts as found at k if one of its labelled items is among the first k predicted ones. Unlike there,
ids may be text, a gallery may be smaller than 10, queries without any label are left out of the score instead
of counting as missed, and every malformed line is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnclip.errors import CnclipError
from cnclip.prediction.ids import named
from cnclip.prediction.labels import FIELDS, Direction, Problem, scan_rows

CUTOFFS = (1, 5, 10)


class ScoringError(CnclipError):
    """Files that cannot be scored. problems: one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)


@dataclass(frozen=True)
class Score:
    """recall: shares in 0..1 by cutoff. n_queries: those scored. unlabelled: those without any label."""

    recall: Mapping[int, float]
    n_queries: int
    unlabelled: int

    @property
    def mean_recall(self) -> float:
        """The mean over the cutoffs."""
        return sum(self.recall.values()) / len(self.recall)

    def to_json(self) -> dict[str, Any]:
        """The shape of Chinese-CLIP's scorer, in percent."""
        mean = 100 * self.mean_recall
        by_cutoff = {f"r{k}": 100 * self.recall[k] for k in CUTOFFS}
        return {
            "success": True,
            "score": mean,
            "scoreJson": {"score": mean, "mean_recall": mean, **by_cutoff},
        }


def error_json(error: CnclipError) -> dict[str, Any]:
    """The shape of Chinese-CLIP's scorer for files that cannot be scored."""
    detail = "\n".join(error.problems) if isinstance(error, ScoringError) else str(error)
    return {"errorDetail": detail, "errorMsg": str(error), "score": 0, "scoreJson": {}, "success": False}


@dataclass
class _Reader:
    """Collects rows and what is wrong with them."""

    path: Path
    direction: Direction
    rows: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self, *, predictions: bool) -> None:
        lines: dict[str, int] = {}
        length: tuple[int, int] | None = None  # of the first line, and which it is
        for row in scan_rows(self.path, self.direction):
            if isinstance(row, Problem):
                self.problems.append(row.message)
                continue
            key, items, (one, many) = str(row.query), list(map(str, row.items)), row.fields
            where = f"{self.path}:{row.line}"
            if key in lines:
                self.problems.append(f"{where}: field {one}: {named([key])} is on line {lines[key]} already")
            elif predictions and (why := _list_problem(items, length)):
                self.problems.append(f"{where}: field {many}: {why}")
            else:
                self.rows[key] = items
            lines.setdefault(key, row.line)
            if predictions and items and length is None:
                length = len(items), row.line


def _list_problem(items: list[str], length: tuple[int, int] | None) -> str | None:
    if not items:
        return "empty"
    if len(set(items)) < len(items):
        return f"{named(dict.fromkeys(i for i in items if items.count(i) > 1))} more than once"
    if length is not None and len(items) != length[0]:
        return f"{len(items)} ids, but line {length[1]} has {length[0]}"
    return None


def score_predictions(
    gold: str | Path, predictions: str | Path, direction: Direction = "text-to-image"
) -> Score:
    """Score a file of predictions.

    Args:
        gold: labels. predictions: a line for each query, best item first, all of the same length. Either file
            in any schema of `cnclip.prediction.labels`.

    Raises:
        ScoringError: with a line for each row that is wrong or lacking.
        InputError: a file that cannot be read.
    """
    wanted, found = _Reader(Path(gold), direction), _Reader(Path(predictions), direction)
    wanted.read(predictions=False)
    found.read(predictions=True)
    problems = wanted.problems + found.problems
    labelled = {key: set(items) for key, items in wanted.rows.items() if items}
    if not problems and not labelled:
        problems.append(f"{gold}: no query has a label, so there is nothing to score against")
    missing = [key for key in labelled if key not in found.rows]
    if missing and not found.problems:
        name = FIELDS[direction][0][0]
        problems.append(f"{predictions}: field {name}: no prediction for {named(missing)}")
    if problems:
        raise ScoringError(problems)
    first = {k: sum(not labelled[key].isdisjoint(found.rows[key][:k]) for key in labelled) for k in CUTOFFS}
    recall = {k: hits / len(labelled) for k, hits in first.items()}
    return Score(recall, len(labelled), len(wanted.rows) - len(labelled))
