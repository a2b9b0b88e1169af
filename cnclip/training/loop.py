"""The loop of every training job: resume, then (batch, step, log, validate, save) until done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cnclip.errors import WeightsError
from cnclip.training.checkpoint import load_checkpoint, save_checkpoint
from cnclip.training.optim import adamw
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
    model: nn.Module,
    source: BatchSource,
    objective: Objective,
    config: FitConfig,
    precision: Precision,
    *,
    checkpoint: Path | None = None,
    on_log: Callable[[Progress], None] | None = None,
    on_validate: Callable[[int], None] | None = None,
    on_save: Callable[[int, dict[str, Any]], None] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> int:
    """Train `model` in place up to `config.total_steps`. Returns the number of steps taken in this call.

    With `checkpoint`, an earlier run's weights, optimizer and random state are taken up from there, and the
    file is kept up to date (also on Ctrl-C): 4 steps equal 2 + resume + 2, bit for bit on CPU.

    Args:
        on_validate: called with the step count every `validate_every` steps and at the end.
        on_save: called with the step count and the saved payload after each checkpoint.
        extra: further entries of the checkpoint (tensors and plain values).

    Raises:
        NonFiniteError: see train_step; the checkpoint holds the last good state.
        WeightsError: the checkpoint is broken or belongs to another model.
    """
    optimizer = adamw(
        model,
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
        lr_scales=config.lr_scales,
    )
    step = first = _resume(checkpoint, model, optimizer, precision, config.seed)

    def save() -> None:
        if checkpoint is not None:
            payload = {**(extra or {}), **_payload(model, optimizer, precision, step, source.steps_per_epoch)}
            save_checkpoint(checkpoint, payload)
            if on_save is not None:
                on_save(step, payload)

    batches = source.iterate(step)
    try:
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
            if on_log is not None and (_due(step, config.log_every) or step == config.total_steps):
                epoch = (step - 1) // source.steps_per_epoch + 1
                seconds = time.perf_counter() - loaded
                on_log(Progress(step, config.total_steps, epoch, metrics, lr, loaded - started, seconds))
            if on_validate is not None and (_due(step, config.validate_every) or step == config.total_steps):
                on_validate(step)
            if _due(step, config.checkpoint_every) or step == config.total_steps:
                save()
    except KeyboardInterrupt:
        save()
        logger.warning("interrupted after step %d; run the same command to resume", step)
        raise
    return step - first


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _payload(
    model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, step: int, steps_per_epoch: int
) -> dict[str, Any]:
    """Chinese-CLIP's checkpoint keys, plus random and scaler state."""
    return {
        "epoch": step // steps_per_epoch,
        "step": step,
        "name": "cnclip",
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "scaler": precision.scaler.state_dict() if precision.scaler else {},
    }


def _resume(
    checkpoint: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    seed: int,
) -> int:
    """Load an earlier run if there is one, else seed. Returns the number of steps already taken."""
    if checkpoint is None or not checkpoint.exists():
        torch.manual_seed(seed)
        return 0
    saved = load_checkpoint(checkpoint)
    try:
        state = {name.removeprefix("module."): value for name, value in saved["state_dict"].items()}
        model.load_state_dict(state)
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if precision.scaler and saved["scaler"]:
            precision.scaler.load_state_dict(saved["scaler"])
        step = int(saved["step"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise WeightsError(f"{checkpoint}: does not fit this run ({first})") from error
    logger.info("resuming %s at step %d", checkpoint, step)
    return step
