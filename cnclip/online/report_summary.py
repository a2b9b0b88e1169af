"""What a run's rounds come to: scores from the start to the end of the kept state, and totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from cnclip.online.report_rounds import (
    GROUPS,
    KEPT,
    ROLLED_BACK,
    SKIPPED,
    USED,
    Log,
    Measured,
    Pair,
    Round,
    direction_pair,
)

Side = Literal["before", "after"]

SAME = 5e-5
"""A smaller change of a fraction is none: two decimals of a percentage would not show it."""


@dataclass(frozen=True)
class Point:
    """What was measured in round `number`, before its steps or after them."""

    number: int
    side: Side
    measured: Measured

    def as_json(self) -> dict[str, Any]:
        measured = self.measured
        found = {"round": self.number, "side": self.side, "n_queries": measured.n_queries}
        return {**found, "metrics": measured.metrics}


@dataclass(frozen=True)
class Change:
    """One group over the run.

    start: the first measurement. end: the last one of weights that were kept, so `before` of a round that was
    rolled back. by_rounds: for each metric the sum of what the kept rounds changed; ordinary training between
    rounds is not in it. same_queries: whether all rounds measured the same queries.
    """

    start: Point
    end: Point
    by_rounds: dict[str, float]
    same_queries: bool = True

    def values(self, metric: str) -> tuple[float | None, float | None]:
        """The metric at the start and at the end."""
        return self.start.measured.metrics.get(metric), self.end.measured.metrics.get(metric)

    def as_json(self) -> dict[str, Any]:
        first, last = self.start.measured.metrics, self.end.measured.metrics
        return {
            "start": self.start.as_json(),
            "end": self.end.as_json(),
            "change": {name: last[name] - first[name] for name in first if name in last},
            "by_kept_rounds": self.by_rounds,
            "same_queries": self.same_queries,
        }


@dataclass(frozen=True)
class Summary:
    """The totals over all rounds.

    metric: the one that decides. tolerance: what a group may lose of it by all kept rounds together.
    decisions: rounds by decision. changes: by group, text to image. image_to_text: of all queries, the other
    direction. pairs: learned from, by decision of their round. used: pictures that passed the gate, the same
    way. refused, missed: pictures and queries by reason. seconds: by stage.
    """

    metric: str
    tolerance: float
    decisions: Counter[str]
    changes: dict[str, Change]
    image_to_text: Change | None
    pairs: Counter[str]
    replayed: int
    steps: int
    steps_skipped: int
    used: Counter[str]
    refused: Counter[str]
    asked: int
    with_pictures: int
    missed: Counter[str]
    seconds: dict[str, float]

    @property
    def rounds(self) -> int:
        return sum(self.decisions.values())

    @property
    def kept(self) -> int:
        return self.decisions[KEPT]

    def by_rounds(self, group: str) -> float | None:
        """What the kept rounds changed in the metric that decides; None where it was never measured."""
        return self.changes[group].by_rounds.get(self.metric) if group in self.changes else None

    def trained_between(self, group: str) -> bool:
        """Whether the metric that decides also changed between the rounds: there was ordinary training."""
        by_rounds = self.by_rounds(group)
        if by_rounds is None or not self.changes[group].same_queries:
            return False
        before, after = self.changes[group].values(self.metric)
        return None not in (before, after) and abs((after or 0.0) - (before or 0.0) - by_rounds) >= SAME

    def as_json(self) -> dict[str, Any]:
        """All of it, as online_report.json has it."""
        scores: dict[str, Any] = {name: change.as_json() for name, change in self.changes.items()}
        if "labelled" in scores:
            other = self.image_to_text.as_json() if self.image_to_text else None
            scores["labelled"] = {"text_to_image": scores["labelled"], "image_to_text": other}
        decisions = {name: self.decisions[name] for name in (KEPT, ROLLED_BACK, SKIPPED)}
        return {
            "metric": self.metric,
            "tolerance": self.tolerance,
            "rounds": {"recorded": self.rounds, **decisions},
            "scores": {name: scores.get(name) for name in GROUPS},
            "steps": {"taken": self.steps, "skipped": self.steps_skipped},
            "pairs": {**{name: self.pairs[name] for name in (KEPT, ROLLED_BACK)}, "replayed": self.replayed},
            "pictures": {"used": dict(self.used), "refused": dict(self.refused.most_common())},
            "queries": {
                "asked": self.asked,
                "with pictures": self.with_pictures,
                "missed": dict(self.missed.most_common()),
            },
            "seconds": {**self.seconds, "total": sum(self.seconds.values())},
        }


def summarize(log: Log) -> Summary:
    """Add up the rounds of a run."""
    rounds = log.rounds
    pictures = [(row.decision, item.outcome) for row in rounds for item in row.pictures]
    seconds: dict[str, float] = {}
    for row in rounds:
        seconds |= {stage: seconds.get(stage, 0.0) + value for stage, value in row.seconds.items()}
    return Summary(
        metric=rounds[-1].metric if rounds else "mAP",
        tolerance=max((row.tolerance for row in rounds), default=0.0),
        decisions=Counter(row.decision for row in rounds),
        changes=_changes(rounds),
        image_to_text=_change(rounds, _image_to_text),
        pairs=_total((row.decision, row.pairs) for row in rounds),
        replayed=sum(row.replayed for row in rounds),
        steps=sum(len(row.steps) for row in rounds),
        steps_skipped=sum(row.counts.get("steps_skipped", 0) for row in rounds),
        used=Counter(decision for decision, outcome in pictures if outcome == USED),
        refused=Counter(outcome for _, outcome in pictures if outcome != USED),
        asked=sum(row.counts.get("asked", 0) for row in rounds),
        with_pictures=sum(row.counts.get("with pictures", 0) for row in rounds),
        missed=_total((reason, count) for row in rounds for reason, count in row.missed.items()),
        seconds=seconds,
    )


def state(row: Round, pair: Pair) -> tuple[Side, Measured] | None:
    """Of two measurements of a round, the one of the weights that it left behind."""
    if row.kept and pair.after is not None:
        return "after", pair.after
    return None if pair.before is None else ("before", pair.before)


def _changes(rounds: Sequence[Round]) -> dict[str, Change]:
    found: dict[str, Change] = {}
    for name in ("labelled", "canary"):
        change = _change(rounds, partial(_group, name))
        found |= {name: change} if change else {}
    # Who is taught differs from round to round, and in a round without steps nobody was.
    stepped = [row for row in rounds if row.groups["taught"].after is not None]
    for name in ("taught", "others"):
        change = _change(stepped, partial(_group, name))
        if change is not None:
            sets = {(frozenset(_taught(row)), _n_queries(row, name)) for row in stepped}
            found[name] = replace(change, same_queries=len(sets) == 1)
    return {name: found[name] for name in GROUPS if name in found}


def _change(rounds: Sequence[Round], pair_of: Callable[[Round], Pair]) -> Change | None:
    pairs = [(row, pair_of(row)) for row in rounds]
    start = next((Point(row.number, "before", pair.before) for row, pair in pairs if pair.before), None)
    ends = ((row, state(row, pair)) for row, pair in reversed(pairs))
    end = next((Point(row.number, *found) for row, found in ends if found is not None), None)
    if start is None or end is None:
        return None
    by_rounds: dict[str, float] = {}
    for row, pair in pairs:
        if row.kept and pair.before and pair.after:
            before, after = pair.before.metrics, pair.after.metrics
            moved = {name: after[name] - before[name] for name in before if name in after}
            by_rounds |= {name: by_rounds.get(name, 0.0) + value for name, value in moved.items()}
    return Change(start, end, by_rounds)


def _group(name: str, row: Round) -> Pair:
    return row.groups[name]


def _image_to_text(row: Round) -> Pair:
    return direction_pair(row.labelled, "image_to_text")


def _n_queries(row: Round, name: str) -> int | None:
    before = row.groups[name].before
    return before.n_queries if before else None


def _taught(row: Round) -> set[str]:
    return {item.query for item in row.pictures if item.outcome == USED}


def _total(parts: Iterable[tuple[str, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, count in parts:
        counts[name] += count
    return +counts  # without those that came to nothing
