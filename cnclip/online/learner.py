"""Online learning inside a training run: a round after each validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.model.tokens import tokenizer_of
from cnclip.online.batch import BatchMaker
from cnclip.online.fetching import PatientSource
from cnclip.online.gate import Guarded
from cnclip.online.plan import distinct, gallery_hashes
from cnclip.online.record import RoundBook
from cnclip.online.replay import Memory
from cnclip.online.report import write_online_report
from cnclip.online.report_verdict import summary_lines
from cnclip.online.round import OnlineRound, Outcome, Task
from cnclip.online.settings import OnlineSettings
from cnclip.online.source import ImageSource
from cnclip.online.verdict import Balance
from cnclip.training.config import TrainConfig
from cnclip.training.data import TrainingView
from cnclip.training.distributed import World
from cnclip.training.run_state import RunState
from cnclip.training.start import starting_model
from cnclip.training.validation import Measured, measure_split

logger = logging.getLogger(__name__)

_NOTES = "online"  # of a run's state: what must outlive the process


def online_settings(config: TrainConfig) -> OnlineSettings:
    """The online settings of a training run."""
    return OnlineSettings(
        pictures=config.online_pictures,
        budget_s=config.online_budget,
        batch_size=config.valid_batch_size,
        lr=config.online_lr,
        scope=config.online_scope,
        replay=config.online_replay,
        pull=config.online_pull,
        keep=config.online_keep,
        min_pairs=config.online_min_pairs,
        tolerance=config.online_tolerance,
        canary=config.online_canary,
        gate=config.online_gate,
        seed=config.seed,
    )


def make_online_learner(source: ImageSource | None, config: TrainConfig, world: World) -> OnlineLearner:
    """The learner of a run that is about to begin. source: on rank 0; elsewhere None.

    Raises: InputError for settings that do not go together.
    """
    anchors: dict[str, torch.Tensor] = {}
    if config.online_pull:
        if config.fsdp:
            raise InputError("--online-pull does not go with --fsdp")
        start = starting_model(config, world)  # where the run began, also when it goes on
        anchors = {name: parameter.detach() for name, parameter in start.named_parameters()}
    return OnlineLearner(config, source, config.logs / config.name, anchors)


@dataclass
class OnlineLearner:
    """A `Learner` (see `cnclip.training.validation`): each validation becomes a round on its queries.

    Rounds continue after a resume where the checkpoint was: how many there have been and what they have cost
    is in the run's notes, and everything else follows from the seed and the source.

    Args:
        source: of pictures, used on rank 0 only.
        run: folder of the run, for records.
        anchors: weights that `pull` draws back to, by parameter name.
    """

    config: TrainConfig
    source: ImageSource | None
    run: Path
    anchors: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        self.settings = online_settings(self.config)
        self._patient = None if self.source is None else PatientSource(self.source)
        self._book = RoundBook(self.run)
        self._hashes: dict[int, list[int]] = {}  # by split

    @cached_property
    def memory(self) -> Memory:
        """The train sets, divided into canary and what may be replayed."""
        datasets = [PairDataset(folder) for folder in self.config.train_data]
        return Memory(datasets, self.settings.canary, self.settings.seed)

    def learn(
        self, state: RunState, split: PairDataset, before: Measured, *, step: int, epoch: int
    ) -> tuple[dict[str, Any], Measured]:
        """See Learner."""
        world = state.parallel.world
        notes = state.notes.setdefault(_NOTES, {"round": 0, "balance": {}, "pace": 1.0})
        number, online = int(notes["round"]), self._round(state)
        online.balance, online.pace = Balance(dict(notes["balance"])), float(notes["pace"])
        measure = partial(
            measure_split,
            state.parallel,
            split,
            batch_size=self.config.valid_batch_size,
            bf16=state.precision.name == "bf16",
            seed=self.config.seed,
        )
        task = Task(
            number,
            distinct([row.text for row in split.texts]),
            Guarded(self._gallery_hashes(split) if world.is_main else [], before.embedded.image_vectors),
            before,
            measure,
            {"step": step, "epoch": epoch},
            self._book.used_before(number) if world.is_main else {},
        )
        outcome = online.take(task, state.optimizer)
        balance, pace = online.balance.totals, online.pace
        state.notes[_NOTES] = {"round": number + 1, "balance": balance, "pace": pace}
        if world.is_main:
            self._keep(outcome, split)
        if outcome.after is None:
            raise ValueError("a round on a measured split measures it again")
        return outcome.record, outcome.after

    def finish(self) -> None:
        """See Learner."""
        write_online_report(self.run)
        for line in summary_lines(self.run):
            logger.info("%s", line)

    def _round(self, state: RunState) -> OnlineRound:
        parallel, config = state.parallel, state.parallel.model.config
        maker = BatchMaker(
            self.memory,
            TrainingView(
                config.preprocess,
                self.config.augment if self.config.use_augment else None,
                self.config.random_erasing,
            ),
            tokenizer_of(config),
            config.context_length,
            parallel.world,
            self.config.batch_size,
        )
        group = state.optimizer.param_groups[0]
        return OnlineRound(
            parallel,
            state.precision,
            self.settings,
            self._patient,
            self.memory,
            maker,
            bf16=state.precision.name == "bf16",
            betas=group["betas"],
            eps=group["eps"],
            anchors=self.anchors,
        )

    def _gallery_hashes(self, split: PairDataset) -> list[int]:
        """They are the same in every round."""
        if id(split) not in self._hashes:
            self._hashes[id(split)] = gallery_hashes(split)
        return self._hashes[id(split)]

    def _keep(self, outcome: Outcome, split: PairDataset) -> None:
        self._book.keep_fresh(outcome.judged)
        self._book.keep_gallery(split, outcome.record["movers"])
        self._book.write(outcome.record)
