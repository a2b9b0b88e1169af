"""One round of online learning: fetch, judge, step, measure again, then keep it or take it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cnclip.evaluation.evaluator import Embedded
from cnclip.online.batch import BatchMaker, Meanings
from cnclip.online.fetching import Fetched, PatientSource
from cnclip.online.gate import Guarded, Judged
from cnclip.online.plan import Plan, Planner
from cnclip.online.record import movers, picture_rows, query_counts
from cnclip.online.replay import Memory
from cnclip.online.settings import OnlineSettings
from cnclip.online.steps import OnlineSteps, Snapshot
from cnclip.online.verdict import CANARY, METRIC, OTHERS, Balance, Change, Decision, decide, split_change
from cnclip.training.parallel import Parallel
from cnclip.training.step import NonFiniteError, Precision
from cnclip.training.validation import Measured, measure_split, shared_encoder

logger = logging.getLogger(__name__)

_WARM_UP = 8  # steps that moments should have seen; replayed pairs show them what is missing
_SLOWEST = 1 / 16  # share of the learning rate
KEPT, TAKEN_BACK, SKIPPED = "kept", "rolled back", "skipped"


@dataclass(frozen=True)
class Task:
    """What one round is about.

    number: of the round, from 0. queries: texts to learn, each once. guarded: the gallery that is searched
    with them, whose pictures must not teach. before: its measurement, if its labels may be scored; measure:
    makes it again (see `measure_split`). where: "step", "epoch" for the record. used: see `judge`, by text.
    """

    number: int
    queries: Sequence[str]
    guarded: Guarded
    before: Measured | None = None
    measure: Callable[..., Measured] | None = None
    where: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """record: see `cnclip.online.record`. after: the labelled measurement of the weights as they are now.
    judged: every picture that was offered. optimizer: with the moments of the steps, if they were kept."""

    record: dict[str, Any]
    after: Measured | None
    judged: list[Judged]
    optimizer: torch.optim.Optimizer | None

    @property
    def kept(self) -> bool:
        return bool(self.record["decision"] == KEPT)


@dataclass
class OnlineRound:
    """Takes rounds on one model. Every process makes the same calls, with the same weights before and after.

    Args:
        source: asked on rank 0; elsewhere it may be None.
        bf16: measure in bfloat16, as validation does.
        balance: what the rounds before have cost.
        pace: share of the learning rate that the next round takes: half of what was too much, and twice what
            was not.
    """

    parallel: Parallel
    precision: Precision
    settings: OnlineSettings
    source: PatientSource | None
    memory: Memory
    maker: BatchMaker
    bf16: bool = False
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    balance: Balance = field(default_factory=Balance)
    pace: float = 1.0
    anchors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def take(self, task: Task, optimizer: torch.optim.Optimizer | None) -> Outcome:
        """One round. optimizer: whose moments are carried over; it stays as it is."""
        clock = _Clock()
        fetched = self._fetch(task)
        clock.mark("fetch")
        planner = Planner(
            shared_encoder(self.parallel, bf16=self.bf16),
            self.parallel.world, self.memory, self.settings, task.guarded, task.used,
        )  # fmt: skip
        plan = planner.plan(task.number, task.queries, fetched.pictures)
        clock.mark("gate")
        record = self._begin(task, fetched, plan)
        if not plan.batches:
            why = f"no step: fewer than {self.settings.min_pairs} pairs in each batch of queries"
            record |= {"decision": SKIPPED, "why": why, "seconds": clock.seconds}
            return Outcome(record, task.before, plan.judged, None)
        canary = self._measure_canary()
        clock.mark("measure")
        snapshot = Snapshot(self.parallel.model)
        with OnlineSteps(
            self.parallel, self.precision, self.settings.scope,
            betas=self.betas, eps=self.eps, run=optimizer, anchors=self.anchors, pull=self.settings.pull,
            known=self._known_texts() if self.settings.keep else None, keep=self.settings.keep,
        ) as steps:  # fmt: skip
            record["steps"] = self._step(task, plan, steps)
        record["distance"] = snapshot.distance()
        clock.mark("step")
        after = None
        if task.measure is not None and task.before is not None:
            after = task.measure(pictures=self._known(task.before))
        canaries = canary, self._measure_canary(self._known(canary))
        changes = _Changes.of(task.before, after, plan.taught, *canaries)
        clock.mark("measure")
        keep, why, harm = self._decide(record, changes)
        if keep:
            self.balance.keep({name: change.gain for name, change in changes.guarded.items()})
            self.pace = min(1.0, self.pace * 2)
        else:
            snapshot.restore()
            self.pace = max(_SLOWEST, self.pace / 2) if harm else self.pace
        record |= {"decision": KEPT if keep else TAKEN_BACK, "why": why, **changes.record()}
        record["seconds"] = clock.seconds
        if task.before is not None and after is not None:
            record["labelled"] = {"before": _scores(task.before), "after": _scores(after)}
            record["movers"] = movers(task.before.embedded, after.embedded, plan.taught)
        return Outcome(record, after if keep else task.before, plan.judged, steps.optimizer if keep else None)

    def _fetch(self, task: Task) -> Fetched:
        """The same pictures on every process."""
        world, settings = self.parallel.world, self.settings
        fetched = Fetched()
        if world.is_main and self.source is not None:
            numbers = settings.numbers(task.number)
            fetched = self.source.fetch(list(task.queries), numbers, settings.budget_s)
        return world.share(fetched)

    def _step(self, task: Task, plan: Plan, steps: OnlineSteps) -> list[dict[str, float]]:
        """One step for each batch; those whose loss is not finite are left out."""
        settings = self.settings
        missing = max(0, _WARM_UP - steps.experience)
        if missing and settings.replay > 1:
            steps.warm_up(self._replays(task.number, missing), settings.seed)
        taken = []
        for number, (fresh, replayed) in enumerate(plan.batches):
            rows, parts = self.maker.division(len(fresh), settings.replay)
            seed = [settings.seed, task.number, number]
            batch = self.maker.batch(fresh, replayed[:rows], plan.meanings, seed)
            lr = settings.lr * self.pace
            try:
                values = steps.step(batch, parts, lr=lr, seed=_number(seed))
            except NonFiniteError as error:
                logger.warning("online step %d: %s", number + 1, error)
                continue
            numbers = {name: values[name] for name in ("loss", "grad_norm")}
            taken.append({**numbers, "pairs": len(fresh), "replayed": rows, "lr": lr})
        return taken

    def _known_texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and vectors of some training texts, as they are now."""
        texts = [self.memory.texts[number] for number in self.memory.sample()]
        ids = self.maker.tokenize(texts, self.maker.context_length)
        vectors = shared_encoder(self.parallel).encode_texts(texts)
        device = self.parallel.world.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(vectors).to(device)

    def _replays(self, number: int, n: int) -> Iterator[tuple[dict[str, Any], int]]:
        """`n` batches of replayed pairs only."""
        rows, parts = self.maker.division(0, self.settings.replay)
        for nth in range(n):
            seed = [self.settings.seed, number, 1_000 + nth]
            yield self.maker.batch([], self.memory.draw(rows, seed), Meanings.none(self.memory), seed), parts

    def _known(self, measured: Measured) -> Embedded | None:
        """What need not be measured again, as these steps leave it alone: the pictures."""
        return measured.embedded if self.settings.scope == "text" else None

    def _measure_canary(self, pictures: Embedded | None = None) -> Measured:
        batch_size, canary = self.maker.rows_at_once, self.memory.canary
        return measure_split(self.parallel, canary, batch_size=batch_size, bf16=self.bf16, pictures=pictures)

    def _decide(self, record: dict[str, Any], changes: _Changes) -> Decision:
        """The same decision everywhere."""
        if not record["steps"]:
            decision = Decision(False, "no step had a finite loss", harm=True)
        else:
            decision = decide(changes.taught, changes.guarded, self.balance, self.settings.tolerance)
        return self.parallel.world.share(decision)

    def _begin(self, task: Task, fetched: Fetched, plan: Plan) -> dict[str, Any]:
        return {
            "round": task.number,
            **task.where,
            "time": round(time.time(), 3),
            "source": self.source.name if self.source is not None else "",
            "metric": METRIC,
            "tolerance": self.settings.tolerance,
            "labelled": None, "taught": None, "others": None, "canary": None,
            "steps": [], "steps_skipped": plan.skipped, "distance": 0.0,
            "queries": query_counts(len(task.queries), plan.judged, fetched.missed),
            "pictures": picture_rows(plan.judged),
            "movers": [],
        }  # fmt: skip


@dataclass(frozen=True)
class _Changes:
    """What a round's steps have done, by group of queries."""

    taught: Change | None
    others: Change | None
    canary: Change
    n_canary: int

    @classmethod
    def of(
        cls,
        before: Measured | None,
        after: Measured | None,
        taught: frozenset[str],
        canary_before: Measured,
        canary_after: Measured,
    ) -> _Changes:
        groups: tuple[Change | None, Change | None] = (None, None)
        if before is not None and after is not None:
            groups = split_change(before.embedded, after.embedded, taught)
        found = canary_before.result
        canary = Change(found["n_queries"], found["text_to_image"], canary_after.result["text_to_image"])
        return cls(*groups, canary, found["n_gallery"])

    @property
    def guarded(self) -> dict[str, Change]:
        """What must hold."""
        return {CANARY: self.canary} | ({OTHERS: self.others} if self.others is not None else {})

    def record(self) -> dict[str, Any]:
        return {
            "taught": self.taught and self.taught.record(),
            "others": self.others and self.others.record(),
            "canary": self.canary.record(n_gallery=self.n_canary),
        }


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now


def _scores(measured: Measured) -> dict[str, Any]:
    names = ("text_to_image", "image_to_text", "n_queries", "n_gallery")
    return {name: measured.result[name] for name in names}


def _number(seed: Sequence[int]) -> int:
    """One number of several."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)
