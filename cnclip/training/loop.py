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

from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.optim import adamw
from cnclip.training.run_state import RunState
from cnclip.training.schedule import warmup_cosine
from cnclip.training.step import Batch, Objective, Precision, train_step

logger = logging.getLogger(__name__)


class BatchSource(Protocol):
    """Batches of a run, a pure function of the step, so that a resumed run sees what it would have seen."""

    @property
    def steps_per_epoch(self) -> int: ...

    def iterate(self, start_step: int) -> Iterator[Batch]:
        """Batches from `start_step` (0-based) on, epoch after epoch, without end."""
        ...


@dataclass(frozen=True)
class FitConfig:
    """total_steps and warmup count optimizer steps; *_every of 0 means never."""

    total_steps: int
    lr: float
    warmup: int = 0
    lr_floor: float = 0.0
    weight_decay: float = 0.001
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    max_grad_norm: float = 1.0
    lr_scales: Mapping[str, float] = field(default_factory=dict)
    seed: int = 123
    log_every: int = 10
    checkpoint_every: int = 0
    validate_every: int = 0


@dataclass(frozen=True)
class Progress:
    """What a log line needs: 1-based step and epoch, the objective's values, seconds per step."""

    step: int
    total_steps: int
    epoch: int
    metrics: dict[str, float]
    lr: float
    data_s: float
    step_s: float


def fit(
    model: DualEncoder,
    source: BatchSource,
    objective: Objective,
    config: FitConfig,
    precision: Precision,
    *,
    checkpoint: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_log: Callable[[Progress], None] | None = None,
    on_validate: Callable[[int], None] | None = None,
    on_save: Callable[[int], None] | None = None,
) -> int:
    """Train `model` in place up to `config.total_steps`. Returns the number of steps taken in this call.

    With `checkpoint`, an earlier run's weights, optimizer and random state are taken up from there, and the
    file is written every `checkpoint_every` steps, at every epoch's end and on Ctrl-C, which waits for the
    end of the step: 4 steps equal 2 + resume + 2, bit for bit on CPU.

    Args:
        settings: plain values that must be equal when resuming; kept in the checkpoint.
        on_validate: called with the step count every `validate_every` steps and at the end.
        on_save: called with the step count after each checkpoint.

    Raises:
        NonFiniteError: see train_step; the checkpoint holds the state last saved.
        WeightsError: the checkpoint is broken or belongs to another model.
        InputError: the checkpoint was made with other settings.
    """
    optimizer = adamw(
        model,
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
        lr_scales=config.lr_scales,
    )
    run_state = RunState(model, optimizer, precision, dict(settings or {}))
    step = first = run_state.resume(checkpoint, config.seed)
    if step >= config.total_steps:
        logger.info("all %d steps of this run are done already", config.total_steps)
        return 0
    batches = source.iterate(step)
    with _Interrupt() as interrupt:
        while step < config.total_steps:
            started = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            lr = warmup_cosine(
                step, base_lr=config.lr, warmup=config.warmup, total=config.total_steps, floor=config.lr_floor
            )
            metrics = train_step(
                model,
                batch,
                objective,
                optimizer,
                lr=lr,
                precision=precision,
                max_grad_norm=config.max_grad_norm,
            )
            step += 1
            last, epoch_ends = step == config.total_steps, step % source.steps_per_epoch == 0
            if on_log is not None and (last or _due(step, config.log_every)):
                epoch = (step - 1) // source.steps_per_epoch + 1
                seconds = time.perf_counter() - loaded
                on_log(Progress(step, config.total_steps, epoch, metrics, lr, loaded - started, seconds))
            if on_validate is not None and (last or _due(step, config.validate_every)):
                on_validate(step)
            due = last or epoch_ends or interrupt.asked or _due(step, config.checkpoint_every)
            if checkpoint is not None and due:
                run_state.save(checkpoint, step, step // source.steps_per_epoch)
                if on_save is not None:
                    on_save(step)
            if interrupt.asked and not last:
                logger.warning("interrupted after step %d; run the same command to resume", step)
                raise KeyboardInterrupt
    return step - first


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Interrupt:
    """Turns the first Ctrl-C into a request to stop after the step; a second one stops at once, unsaved."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_signal: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("stopping after this step (again: stop at once, without saving)")
