"""Rounds on a model outside a training run: what `OnlineRound` needs, made from settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.evaluation.evaluator import Embedded
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.tokens import tokenizer_of
from cnclip.online.batch import BatchMaker
from cnclip.online.fetching import PatientSource
from cnclip.online.gate import Guarded
from cnclip.online.plan import gallery_hashes
from cnclip.online.replay import Memory
from cnclip.online.round import OnlineRound, Outcome, Task
from cnclip.online.settings import OnlineSettings
from cnclip.online.source import ImageSource
from cnclip.online.verdict import Balance
from cnclip.training.config import TrainConfig
from cnclip.training.data import TrainingView
from cnclip.training.distributed import World
from cnclip.training.parallel import Parallel
from cnclip.training.start import pick_precision, starting_model
from cnclip.training.validation import Measured, measure_split


@dataclass
class Pupil:
    """A model that learns by rounds, in one process. It goes on from round to round: weights, moments of the
    steps, and what the rounds have cost.

    config: `model`, `train_data`, `val_data` and what the steps need (batch_size, precision, seed, …).
    settings: of the rounds. memory: of the train sets; made once, as it is the same for every model.
    balance: what rounds before have cost this model. pace: see OnlineRound.
    """

    config: TrainConfig
    settings: OnlineSettings
    memory: Memory
    world: World
    balance: Balance
    pace: float = 1.0

    def __post_init__(self) -> None:
        self.parallel = Parallel(starting_model(self.config, self.world), self.world)
        model = self.parallel.model
        self.config = self.config.resolved(model.config.vision_name)
        self.precision = pick_precision(self.config, self.world.device, model.config.vision.tower)
        self._optimizer: torch.optim.Optimizer | None = None
        self._measured: Measured | None = None
        self._asked: tuple[ImageSource, PatientSource] | None = None

    @property
    def model(self) -> DualEncoder:
        return self.parallel.model

    def take(
        self,
        number: int,
        queries: list[str],
        source: ImageSource,
        *,
        where: Mapping[str, int],
        used: Mapping[int, str],
    ) -> Outcome:
        """One round; see `Task`. The weights are better afterwards, or what they were."""
        split = self.split
        if split is not None and self._measured is None:
            self._measured = self._measure(split)
        measure = None if split is None else partial(self._measure, split)
        task = Task(number, queries, self.guarded(), self._measured, measure, where, used)
        online = self._round(source)
        outcome = online.take(task, self._optimizer)
        self.pace = online.pace
        if outcome.kept:
            self._optimizer, self._measured = outcome.optimizer, outcome.after
        return outcome

    def go_on(self, balance: Balance, pace: float, optimizer: torch.optim.Optimizer | None) -> None:
        """Take up rounds of another process. optimizer: whose moments the next round carries over."""
        self.balance, self.pace, self._optimizer = balance, pace, optimizer

    def guarded(self) -> Guarded:
        """The pictures that must not teach: those of the labelled split, once it is measured."""
        if self.split is None or self._measured is None:
            return Guarded([], np.zeros((0, self.model.config.vision.embed_dim), np.float32))
        return Guarded(self._hashes, self._measured.embedded.image_vectors)

    @cached_property
    def split(self) -> PairDataset | None:
        """The labelled split to measure on, if there is one. Raises InputError if none of it is labelled."""
        if self.config.val_data is None:
            return None
        split = PairDataset(self.config.val_data)
        if not len(split):
            raise InputError(
                f"--val-data {self.config.val_data}: no text of it is labelled with a picture of it"
            )
        return split

    @cached_property
    def _hashes(self) -> list[int]:
        return [] if self.split is None else gallery_hashes(self.split)

    def _measure(self, split: PairDataset, pictures: Embedded | None = None) -> Measured:
        return measure_split(
            self.parallel,
            split,
            batch_size=self.config.valid_batch_size,
            bf16=self.precision.name == "bf16",
            seed=self.config.seed,
            pictures=pictures,
        )

    def _round(self, source: ImageSource) -> OnlineRound:
        config, shape = self.config, self.model.config
        if config.beta1 is None or config.beta2 is None or config.eps is None:
            raise ValueError("settings are not resolved")
        view = TrainingView(
            shape.preprocess, config.augment if config.use_augment else None, config.random_erasing
        )
        tokenize, length = tokenizer_of(shape), shape.context_length
        return OnlineRound(
            self.parallel,
            self.precision,
            self.settings,
            self._patient(source),
            self.memory,
            BatchMaker(self.memory, view, tokenize, length, self.world, config.batch_size),
            bf16=self.precision.name == "bf16",
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            balance=self.balance,
            pace=self.pace,
            anchors=self._anchors,
        )

    def _patient(self, source: ImageSource) -> PatientSource:
        """The same for the same source: it knows whether that one still hangs."""
        if self._asked is None or self._asked[0] is not source:
            self._asked = source, PatientSource(source)
        return self._asked[1]

    @cached_property
    def _anchors(self) -> dict[str, torch.Tensor]:
        """The weights that this pupil began with, where they pull."""
        if not self.settings.pull:
            return {}
        return {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
