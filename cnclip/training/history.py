"""A recorded run, read back from its metrics.jsonl and params file; what is malformed is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from cnclip.errors import InputError
from cnclip.training.records import METRICS, read_rows
from cnclip.training.step_times import STAGES

DIRECTIONS = {"text_to_image": "Text to image", "image_to_text": "Image to text"}


@dataclass(frozen=True)
class Scores:
    """One full-gallery evaluation: for each direction its metrics, fractions 0..1.

    n_queries and n_gallery: texts scored and pictures, None where the record lacks them. loss: in-batch.
    """

    step: int
    metrics: dict[str, dict[str, float]]
    n_queries: int | None = None
    n_gallery: int | None = None
    loss: float | None = None

    def get(self, metric: str, direction: str = "text_to_image") -> float | None:
        return self.metrics.get(direction, {}).get(metric)

    @classmethod
    def of(cls, step: int, result: Mapping[str, Any]) -> Scores:
        """From what `evaluate` returns, perhaps with "in_batch": {"loss", …} beside it."""
        metrics = {
            direction: numbers(result[direction])
            for direction in DIRECTIONS
            if isinstance(result.get(direction), Mapping)
        }
        plain = numbers(result)
        queries, gallery = plain.get("n_queries"), plain.get("n_gallery")
        in_batch = result.get("in_batch")
        return cls(
            step,
            metrics,
            None if queries is None else int(queries),
            None if gallery is None else int(gallery),
            numbers(in_batch).get("loss") if isinstance(in_batch, Mapping) else None,
        )


@dataclass
class History:
    """The events of a run in order.

    train: (step, values) of each log line. starts: steps at which the run was started or resumed.
    notes: (step, text). seconds: wall-clock time from each start to the last event before the next.
    problems: one line for each thing that could not be used.
    """

    name: str
    train: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    valid: list[Scores] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    hardware: dict[str, Any] = field(default_factory=dict)
    settings: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """The last step that anything was recorded of."""
        return max([step for step, _ in self.train] + [scores.step for scores in self.valid], default=0)

    @property
    def start(self) -> Scores | None:
        """The weights before the first step, if they were measured."""
        return next((scores for scores in self.valid if scores.step == 0), None)

    @property
    def best(self) -> Scores | None:
        """The first of the highest text-to-image mean recalls."""
        scored = [scores for scores in self.valid if scores.get("mean_recall") is not None]
        return max(scored, key=lambda scores: scores.get("mean_recall") or 0.0, default=None)

    @property
    def end(self) -> Scores | None:
        """The last measurement after the start."""
        return next((scores for scores in reversed(self.valid) if scores.step > 0), None)

    def column(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one training number, where it was recorded."""
        return [(step, values[name]) for step, values in self.train if name in values]

    def step_times(self) -> dict[str, float]:
        """Mean seconds of each stage of a step, those that were recorded."""
        columns = {stage: [value for _, value in self.column(f"{stage}_s")] for stage in STAGES}
        return {stage: fmean(values) for stage, values in columns.items() if values}

    def typical(self, name: str) -> float | None:
        """The median of one training number: the first steps are slow."""
        values = [value for _, value in self.column(name)]
        return median(values) if values else None


def read_history(folder: Path) -> History:
    """The run in `folder`. Never fails on what the files hold: see `problems`."""
    history = History(folder.resolve().name)
    try:
        rows, broken = read_rows(folder / METRICS)
    except InputError as error:
        rows, broken = [], 0
        history.problems.append(str(error))
    segment: list[float] = []  # times of the events since the last start
    for row in rows:
        values = numbers(row)
        if row["kind"] == "start":
            history.seconds += _span(segment)
            segment = []
        if "time" in values:
            segment.append(values["time"])
        broken += not _take(history, row, values)
    history.seconds += _span(segment)
    if broken:
        history.problems.append(f"{METRICS}: {broken} {'line' if broken == 1 else 'lines'} could not be read")
    history.settings = _settings(folder, history.problems)
    return history


def numbers(mapping: Mapping[str, Any]) -> dict[str, float]:
    """The entries of `mapping` that are finite numbers, of a size that can be drawn."""
    return {
        name: float(value)
        for name, value in mapping.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
    }


def _take(history: History, row: Mapping[str, Any], values: dict[str, float]) -> bool:
    """Sort one event in; false where its content is not what its kind has."""
    kind, step = row["kind"], row["step"]
    if kind == "start":
        history.starts.append(step)
        history.hardware = dict(row["hardware"]) if isinstance(row.get("hardware"), Mapping) else {}
    elif kind == "train":
        history.train.append((step, values))
    elif kind == "valid" and isinstance(row.get("result"), Mapping):
        history.valid.append(Scores.of(step, row["result"]))
    elif kind == "note" and isinstance(row.get("text"), str):
        history.notes.append((step, row["text"]))
    elif kind != "online":  # those have a report of their own
        return False
    return True


def _span(times: list[float]) -> float:
    return max(0.0, times[-1] - times[0]) if times else 0.0


def _settings(folder: Path, problems: list[str]) -> list[tuple[str, str]]:
    """(name, value) of the newest params file."""
    files = sorted(folder.glob("params_*.txt"))
    if not files:
        return []
    try:
        lines = files[-1].read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        problems.append(f"{files[-1].name}: cannot be read ({error.strerror})")
        return []
    parts = [line.partition(": ") for line in lines]
    return [(name, value) for name, colon, value in parts if colon]
