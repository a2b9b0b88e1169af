"""The loop of every training job: resume, then (batch, step, log, validate, save) until done."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.optim import OptimizerKind, build_optimizer
from cnclip.training.parallel import Parallel
from cnclip.training.run_state import RunState
from cnclip.training.schedule import Schedule, ScheduleKind, epoch_of
from cnclip.training.step import Batch, Laps, NonFiniteError, Objective, Precision, train_step
from cnclip.training.step_times import StepTimes

logger = logging.getLogger(__name__)


class BatchSource(Protocol):
    """Batches of a run, a pure function of the step, so that a resumed run sees what it would have seen."""

    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def global_batch_size(self) -> int: ...

    def iterate(self, start_step: int) -> Iterator[Batch]:
        """Batches from `start_step` (0-based) on, epoch after epoch, without end."""
        ...


@dataclass(frozen=True)
class FitConfig:
    """total_steps and warmup count optimizer steps; *_every of 0 means never. lr_floor: share of lr."""

    total_steps: int
    lr: float
    warmup: int = 0
    lr_floor: float = 0.0
    schedule: ScheduleKind = "cosine"
    lr_decay_steps: int = 20_000
    lr_decay_factor: float = 10.0
    optimizer: OptimizerKind = "adamw"
    weight_decay: float = 0.001
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    layer_decay: float = 1.0
    lr_scales: Mapping[str, float] = field(default_factory=dict)
    max_grad_norm: float = 1.0
    seed: int = 123
    log_every: int = 10
    checkpoint_every: int = 0
    validate_every: int = 0
    validate_every_epochs: int = 0

    def schedule_of(self) -> Schedule:
        return Schedule(
            kind=self.schedule,
            base_lr=self.lr,
            warmup=self.warmup,
            total=self.total_steps,
            floor=self.lr_floor,
            decay_steps=self.lr_decay_steps,
            decay_factor=self.lr_decay_factor,
        )


@dataclass(frozen=True)
class Progress:
    """What a log line needs: 1-based step and epoch, the objective's values, and what `StepTimes.take` says
    of the steps since the last one."""

    step: int
    total_steps: int
    epoch: int
    metrics: dict[str, float]
    lr: float
    times: dict[str, float]


@dataclass(frozen=True)
class Events:
    """What the owner of a run does at its stations; every process calls them.

    log: every log_every steps. validate: with the step count; true ends the run early. save: after each
    checkpoint, with the step count and the seconds it took.
    """

    log: Callable[[Progress], None] | None = None
    validate: Callable[[int], bool | None] | None = None
    save: Callable[[int, float], None] | None = None


def optimizer_of(model: DualEncoder, config: FitConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` describes, over the trainable parameters."""
    return build_optimizer(
        model,
        kind=config.optimizer,
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
        lr_scales=config.lr_scales,
        layer_decay=config.layer_decay,
    )


def fit(
    model: DualEncoder,
    source: BatchSource,
    objective: Objective,
    config: FitConfig,
    precision: Precision,
    *,
    checkpoint: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    events: Events = Events(),  # immutable
    state: RunState | None = None,
    first_step: int = 0,
) -> int:
    """Train `model` in place up to `config.total_steps`. Returns the number of steps taken in this call.

    With `checkpoint`, an earlier run's weights and optimizer are taken up from there, and the file is written
    every `checkpoint_every` steps, at every epoch's end and on Ctrl-C or SIGTERM, which wait for the end of
    the step: 4 steps equal 2 + resume + 2, bit for bit on CPU.

    Args:
        settings: plain values that must be equal when resuming; kept in the checkpoint.
        state: of the run, when the caller has made and resumed it; then `settings` are its own.
        first_step: the steps that such a run has taken already.

    Raises:
        NonFiniteError: see train_step, names the step; the checkpoint holds the state last saved.
        WeightsError: the checkpoint is broken or belongs to another model.
        InputError: the checkpoint was made with other settings.
    """
    if state is None:
        state = RunState(Parallel(model), optimizer_of(model, config), precision, dict(settings or {}))
        if checkpoint is not None and checkpoint.exists():
            first_step = state.resume(checkpoint)
            logger.info("resuming %s at step %d", checkpoint, first_step)
    world, step = state.parallel.world, first_step
    if step >= config.total_steps:
        logger.info("all %d steps of this run are done already", config.total_steps)
        return 0
    schedule, times = config.schedule_of(), StepTimes(precision.device)
    batches = source.iterate(step)
    with _Interrupt() as interrupt:
        while step < config.total_steps:
            laps = Laps(precision.device)
            batch = next(batches)
            laps.mark("data")
            lr = schedule.lr(step)
            try:
                metrics = train_step(
                    model,
                    batch,
                    objective,
                    state.optimizer,
                    lr=lr,
                    precision=precision,
                    seed=config.seed * 1_000_003 + step,
                    max_grad_norm=config.max_grad_norm,
                    laps=laps,
                )
            except NonFiniteError as error:
                raise NonFiniteError(f"step {step + 1}: {error}") from error
            step += 1
            times.add(laps.seconds, source.global_batch_size)
            epoch, whole = epoch_of(step, source.steps_per_epoch), step % source.steps_per_epoch == 0
            last = step == config.total_steps
            if events.log is not None and (last or _due(step, config.log_every)):
                mean = world.mean(metrics)  # the same everywhere, unless each contrasts its own pairs only
                events.log(Progress(step, config.total_steps, epoch, mean, lr, times.take()))
            checks = whole and _due(epoch, config.validate_every_epochs)
            if events.validate is not None and (last or checks or _due(step, config.validate_every)):
                last = bool(events.validate(step)) or last
            asked = world.any(interrupt.asked)
            due = last or whole or asked or _due(step, config.checkpoint_every)
            if checkpoint is not None and due:
                started = time.perf_counter()
                state.save(checkpoint, step, epoch)
                if events.save is not None:
                    events.save(step, time.perf_counter() - started)
            if last:
                break
            if asked:
                logger.warning("interrupted after step %d; run the same command to resume", step)
                raise KeyboardInterrupt
    return step - first_step


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Interrupt:
    """Turns the first Ctrl-C, or SIGTERM, into a request to stop after the step; a second Ctrl-C stops at
    once, unsaved."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("stopping after this step (Ctrl-C again: stop at once, without saving)")
