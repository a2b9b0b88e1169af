"""Whether a round's steps are kept: what it taught must be learnt, and nothing else be lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cnclip.evaluation.evaluator import Embedded
from cnclip.evaluation.ranks import Ranks, metrics, relevant_ranks
from cnclip.text import normalize

METRIC = "mAP"
CANARY, OTHERS = "canary", "others"
# What the taught queries must gain. Steps on wrong pictures gained up to 0.0015 by chance, on right ones at
# least 0.012 (tests/benchmarks/bench_online.py).
LEAST_GAIN = 0.002


@dataclass(frozen=True)
class Change:
    """A group of queries before and after a round. before, after: metrics from text to image; after may be
    missing."""

    n_queries: int
    before: Mapping[str, float]
    after: Mapping[str, float] | None

    @property
    def gain(self) -> float:
        """Of METRIC."""
        return 0.0 if self.after is None else self.after[METRIC] - self.before[METRIC]

    def record(self, **more: Any) -> dict[str, Any]:
        """As a round's record has it."""
        after = None if self.after is None else dict(self.after)
        return {"n_queries": self.n_queries, **more, "before": dict(self.before), "after": after}


@dataclass
class Balance:
    """What all kept rounds together have done to each guarded group, in METRIC: a loss within the tolerance
    in every round would add up."""

    totals: dict[str, float] = field(default_factory=dict)

    def after(self, group: str, gain: float) -> float:
        """The total if this gain is kept. Gains are not saved up to be spent later."""
        return min(0.0, self.totals.get(group, 0.0) + gain)

    def keep(self, gains: Mapping[str, float]) -> None:
        """Book a kept round."""
        self.totals.update({group: self.after(group, gain) for group, gain in gains.items()})


def split_change(
    before: Embedded, after: Embedded | None, taught: Collection[str]
) -> tuple[Change | None, Change | None]:
    """The labelled queries that had pictures, and the others; None where there are none of a kind. taught:
    normalised texts."""
    ranks = [relevant_ranks(e.text_vectors, e.image_vectors, e.relevant) for e in (before, after) if e]
    chosen = np.array([normalize(before.texts[query].text) in taught for query in ranks[0].queries], np.bool_)
    return _part(ranks, chosen), _part(ranks, ~chosen)


def _part(ranks: list[Ranks], chosen: Any) -> Change | None:
    if not chosen.any():
        return None
    found = [metrics(_only(one, chosen)) for one in ranks]
    return Change(int(chosen.sum()), found[0], found[1] if len(found) > 1 else None)


def _only(ranks: Ranks, chosen: Any) -> Ranks:
    """The ranks of some of the scored queries."""
    counts = np.diff(ranks.starts)
    starts = np.concatenate([[0], np.cumsum(counts[chosen])])
    return Ranks(ranks.ranks[np.repeat(chosen, counts)], starts, ranks.queries[chosen])


def allowance(group: str, tolerance: float) -> float:
    """What a guarded group may lose by all kept rounds together: `tolerance`, and the canary twice that, as
    its pictures are ones that the model was trained on and knows by heart."""
    return 2 * tolerance if group == CANARY else tolerance


class Decision(NamedTuple):
    """Whether to keep a round, and why, in one sentence. harm: whether its steps were too much."""

    keep: bool
    why: str
    harm: bool = False


def decide(
    taught: Change | None, guarded: Mapping[str, Change], balance: Balance, tolerance: float
) -> Decision:
    """Whether to keep a round.

    taught: the labelled queries it had pictures for; None where nothing is labelled. guarded: what must hold,
    by name. tolerance: see `allowance`.
    """
    told = []
    for name, change in guarded.items():
        total = balance.after(name, change.gain)
        told.append(f"{name} {_points(change.gain)}")
        allowed = allowance(name, tolerance)
        if change.gain < 0 and total < -allowed:
            why = (
                f"{name} lost {_plain(-change.gain)} points of {METRIC}"
                f"{_so_far(total, change.gain)}, more than the {_plain(allowed)} allowed"
            )
            return Decision(False, why, harm=True)
    if taught is None:
        return Decision(True, f"nothing was lost ({', '.join(told)} points of {METRIC})")
    if taught.gain < 0:
        why = f"the queries it taught lost {_plain(-taught.gain)} points of {METRIC}"
        return Decision(False, why, harm=True)
    gained = f"the queries it taught gained {_plain(taught.gain)} points of {METRIC}"
    if taught.gain < LEAST_GAIN:
        return Decision(False, f"{gained}, which may be chance")
    return Decision(True, f"{gained}; {', '.join(told)}")


def _so_far(total: float, gain: float) -> str:
    return f" ({_plain(-total)} with the rounds before)" if total < gain - 5e-5 else ""


def _plain(value: float) -> str:
    return f"{100 * value:.2f}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


__all__ = [
    "CANARY",
    "METRIC",
    "OTHERS",
    "Balance",
    "Change",
    "Decision",
    "allowance",
    "decide",
    "split_change",
]
