"""The rounds of a run, read back from its rounds.jsonl; what is malformed is left out, never guessed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnclip.online.record import FOLDER, ROUNDS
from cnclip.training.history import DIRECTIONS, Scores, numbers

KEPT, ROLLED_BACK, SKIPPED = "kept", "rolled back", "skipped"
USED = "used"
GROUPS = ("taught", "others", "labelled", "canary")
"""What is measured before and after: the queries with a picture this round, all others, all of them, and the
training pairs that online learning never sees."""

_MAX_DEPTH = 40  # of lists and objects in one line; what goes deeper was not written by a round


@dataclass(frozen=True)
class Measured:
    """Text-to-image metrics over `n_queries` (None where not recorded), fractions 0..1."""

    metrics: dict[str, float]
    n_queries: int | None = None


@dataclass(frozen=True)
class Pair:
    """One group before the steps of a round and after them; None where it was not measured."""

    before: Measured | None = None
    after: Measured | None = None


@dataclass(frozen=True)
class Fresh:
    """A picture that came for a query. outcome: "used", or why it was refused."""

    query: str
    number: int | None
    outcome: str
    similarity: float | None
    sha256: str
    origin: dict[str, str]


@dataclass(frozen=True)
class Hit:
    """A gallery picture among the first of a query."""

    image_id: str
    relevant: bool


@dataclass(frozen=True)
class Mover:
    """A query whose average precision changed much. Pairs are (before, after)."""

    text_id: str
    text: str
    taught: bool
    n_relevant: int | None
    ap: tuple[float, float]
    before: tuple[Hit, ...] = ()
    after: tuple[Hit, ...] = ()


@dataclass(frozen=True)
class Round:
    """One round. `raw` is its record as it was written; numbers that are not finite are None in it."""

    number: int
    decision: str
    raw: dict[str, Any]
    step: int | None = None
    metric: str = "mAP"
    tolerance: float = 0.0
    groups: dict[str, Pair] = field(default_factory=dict)
    labelled: tuple[Scores | None, Scores | None] = (None, None)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: tuple[dict[str, float], ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    pictures: tuple[Fresh, ...] = ()
    movers: tuple[Mover, ...] = ()

    @property
    def kept(self) -> bool:
        return self.decision == KEPT

    @property
    def pairs(self) -> int:
        """(query, picture) pairs its steps learned from, those of a picture that was used twice twice."""
        return sum(int(step.get("pairs", 0)) for step in self.steps)

    @property
    def replayed(self) -> int:
        return sum(int(step.get("replayed", 0)) for step in self.steps)

    def text(self, name: str) -> str:
        """A sentence or name of the record; empty where there is none."""
        return _text(self.raw.get(name))

    def number_of(self, name: str) -> float | None:
        return numbers(self.raw).get(name)


@dataclass
class Log:
    """The rounds of a run in order. torn: lines that are no record. replaced: records that a resumed run made
    anew. problems: one line for each thing that could not be used."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    torn: int = 0
    replaced: int = 0
    problems: list[str] = field(default_factory=list)


def read_rounds(run: Path) -> Log:
    """The rounds in `run`. Never fails on what the file holds: see `problems`.

    A run that was resumed continues from its last checkpoint and does later rounds again. So a record takes
    the place of the earlier one of its number and of all with a higher number before it.
    """
    log, path = Log(run.resolve().name), run / FOLDER / ROUNDS
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        log.problems.append(f"{path}: cannot be read ({error.strerror})")
        return log
    for line in lines:
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            log.torn += 1
            continue
        while log.rounds and log.rounds[-1].number >= record["round"]:
            log.rounds.pop()
            log.replaced += 1
        log.rounds.append(to_round(record))
    if log.torn:
        log.problems.append(f"{ROUNDS}: {log.torn} {'line' if log.torn == 1 else 'lines'} could not be read")
    return log


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = _plain(json.loads(line.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("decision"), str):
        return None
    number = record.get("round")
    return record if type(number) is int and 0 <= number < 2**53 else None


def _plain(value: Any, depth: int = 0) -> Any:
    """What any reader of JSON can hold: NaN and infinities become None.

    Raises: ValueError where it is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {name: _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_round(record: dict[str, Any]) -> Round:
    """A record as a round; what is malformed in it is as if it were not there."""
    plain, number = numbers(record), record["round"]
    step = int(plain["step"]) if "step" in plain else None
    labelled = _mapping(record.get("labelled"))
    scores = [_scores(step or 0, labelled.get(side)) for side in ("before", "after")]
    groups = {name: _pair(record.get(name)) for name in GROUPS}
    groups["labelled"] = direction_pair(scores, "text_to_image")
    queries = _mapping(record.get("queries"))
    counts = {name: int(value) for name, value in numbers(queries).items()}
    skipped = {"steps_skipped": int(plain["steps_skipped"])} if "steps_skipped" in plain else {}
    fresh = (_fresh(item) for item in _mappings(record.get("pictures")))
    movers = (_mover(item) for item in _mappings(record.get("movers")))
    return Round(
        number=number,
        decision=record["decision"],
        raw=record,
        step=step,
        metric=_text(record.get("metric")) or "mAP",
        tolerance=plain.get("tolerance", 0.0),
        groups=groups,
        labelled=(scores[0], scores[1]),
        seconds={name: max(0.0, value) for name, value in numbers(_mapping(record.get("seconds"))).items()},
        steps=tuple(numbers(item) for item in _mappings(record.get("steps"))),
        counts=counts | skipped,
        missed={name: int(value) for name, value in numbers(_mapping(queries.get("missed"))).items()},
        pictures=tuple(fresh),
        movers=tuple(mover for mover in movers if mover is not None),
    )


def direction_pair(sides: Sequence[Scores | None], direction: str) -> Pair:
    """Of full evaluations before and after, one direction."""
    metrics = ((side.metrics.get(direction), side.n_queries) if side else (None, None) for side in sides)
    return Pair(*(Measured(found, count) if found else None for found, count in metrics))


def _scores(step: int, found: Any) -> Scores | None:
    if not isinstance(found, dict) or not any(isinstance(found.get(name), dict) for name in DIRECTIONS):
        return None
    return Scores.of(step, found)


def _pair(found: Any) -> Pair:
    group = _mapping(found)
    count = numbers(group).get("n_queries")
    n_queries = None if count is None else int(count)
    sides = (numbers(_mapping(group.get(side))) for side in ("before", "after"))
    return Pair(*(Measured(metrics, n_queries) if metrics else None for metrics in sides))


def _fresh(item: dict[str, Any]) -> Fresh:
    plain = numbers(item)
    return Fresh(
        query=_text(item.get("query")),
        number=int(plain["number"]) if "number" in plain else None,
        outcome=_text(item.get("outcome")) or "not recorded",
        similarity=plain.get("similarity"),
        sha256=_text(item.get("sha256")),
        origin={name: _text(value) for name, value in _mapping(item.get("origin")).items() if _text(value)},
    )


def _mover(item: dict[str, Any]) -> Mover | None:
    ap = item.get("AP")
    found = numbers({str(side): value for side, value in enumerate(ap)}) if isinstance(ap, list) else {}
    if not found.keys() >= {"0", "1"}:
        return None
    n_relevant = numbers(item).get("n_relevant")
    return Mover(
        text_id=_text(item.get("text_id")),
        text=_text(item.get("text")),
        taught=item.get("taught") is True,
        n_relevant=None if n_relevant is None else int(n_relevant),
        ap=(found["0"], found["1"]),
        before=_hits(item.get("top_before")),
        after=_hits(item.get("top_after")),
    )


def _hits(found: Any) -> tuple[Hit, ...]:
    return tuple(Hit(_text(item.get("image_id")), item.get("relevant") is True) for item in _mappings(found))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    """A string, or an id that was written as a number."""
    return value if isinstance(value, str) else str(value) if type(value) is int else ""
