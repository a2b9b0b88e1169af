"""One optimizer step. The only place in the project that moves weights: fine-tuning, distillation and online
learning all call `train_step`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol

import torch
from torch import Tensor, nn

from cnclip.errors import CnclipError
from cnclip.model.dual_encoder import MAX_LOGIT_SCALE

Batch = Mapping[str, Any]
PrecisionName = Literal["fp32", "bf16", "fp16"]


class NonFiniteError(CnclipError):
    """The loss or the gradient is NaN or infinite; weights, buffers and optimizer are as before the step."""


@dataclass
class Precision:
    """Compute precision of the forward pass; weights and optimizer state stay float32.

    fp16 needs loss scaling, which only accelerators have; on CPU use bf16.
    """

    name: PrecisionName = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    scaler: torch.amp.GradScaler | None = None

    def __post_init__(self) -> None:
        if self.name == "fp16" and self.scaler is None:
            self.scaler = torch.amp.GradScaler(self.device.type)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.name == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.name == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to differentiate: scaled where fp16 needs it."""
        return self.scaler.scale(loss) if self.scaler else loss


class Laps:
    """Seconds by stage of one step. An accelerator is waited for at each mark: its work would otherwise count
    for the stage after."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._accelerated = device is not None and device.type != "cpu"
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """The time since the last mark belongs to `stage`."""
        if self._accelerated:
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


@dataclass
class StepContext:
    """What an objective needs beside model and batch. `seed`: of everything random in this step."""

    precision: Precision
    seed: int
    laps: Laps

    def seed_part(self, part: int) -> None:
        """Start torch's random numbers for part `part` of the step: dropout and masks are a function of
        (seed, part), so that a second pass, a resumed run or another process draws the same."""
        torch.manual_seed((self.seed * 1_000_003 + part) & (2**63 - 1))

    def check(self, loss: Tensor, anywhere: Callable[[bool], bool] = bool) -> None:
        """Raise NonFiniteError unless the loss is finite; `anywhere` asks the other processes."""
        if anywhere(not bool(torch.isfinite(loss))):
            raise NonFiniteError(f"loss is {float(loss.detach())}")


class Objective(Protocol):
    """What a step learns."""

    def backward(self, model: Any, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Add the (scaled) gradients of a batch to the weights' own.

        Returns {"loss": scalar, ...}; every other entry is a metric to log.
        Raises NonFiniteError before it touches a gradient.
        """
        ...


@dataclass(frozen=True)
class Direct:
    """A loss computed and differentiated in one piece. loss: model and batch to {"loss": scalar, ...}."""

    loss: Callable[[Any, Batch], dict[str, Tensor]]

    def backward(self, model: Any, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        context.seed_part(0)
        with context.precision.autocast():
            values = self.loss(model, batch)
        context.laps.mark("forward")
        context.check(values["loss"])
        context.precision.scale(values["loss"]).backward()  # type: ignore[no-untyped-call]
        context.laps.mark("backward")
        return values


def train_step(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    precision: Precision,
    seed: int = 0,
    max_grad_norm: float = 1.0,
    laps: Laps | None = None,
    hold_statistics: bool = False,
) -> dict[str, float]:
    """Gradients, clip, step, clamp the logit scale to [0, ln 100].

    Args:
        lr: learning rate of this step; a group's "lr_scale" multiplies it.
        seed: of dropout and masks; give each step its own.
        max_grad_norm: global gradient norm above which gradients are scaled down; 0 = never.
        laps: collects seconds of forward, gather, backward, optimizer.
        hold_statistics: normalise with BatchNorm's running statistics and leave them as they are.

    Returns:
        The objective's values and "grad_norm" (before clipping), as floats.

    Raises:
        NonFiniteError: the loss or gradient is not finite; weights and optimizer state are as before.
    """
    laps = laps or Laps(precision.device)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    _train_mode(model, hold_statistics)
    optimizer.zero_grad(set_to_none=True)
    # BatchNorm's, moved by the forward pass
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        values = objective.backward(model, batch, StepContext(precision, seed, laps))
    except NonFiniteError as error:
        _refuse(str(error), optimizer, buffers)
    scaler = precision.scaler
    if scaler:
        scaler.unscale_(optimizer)
    norm = _total_norm(model, max_grad_norm)
    if scaler:
        scaler.step(optimizer)  # skips by itself when the scaled gradient overflowed
        scaler.update()
        if not torch.isfinite(norm):
            _restore(buffers)
            if scaler.get_scale() < 1:  # no overflow of float16 then
                _refuse(f"gradient norm is {float(norm)}", optimizer, buffers)
    elif not torch.isfinite(norm):
        _refuse(f"gradient norm is {float(norm)}", optimizer, buffers)
    else:
        optimizer.step()
    logit_scale = getattr(model, "logit_scale", None)
    if logit_scale is not None and logit_scale.requires_grad:
        with torch.no_grad():
            logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
    floats = {name: float(value.detach()) for name, value in values.items()}
    laps.mark("optimizer")
    return {**floats, "grad_norm": float(norm)}


def _train_mode(model: nn.Module, hold_statistics: bool) -> None:
    """Training mode, except for towers that are frozen: their BatchNorm statistics stay too."""
    model.train()
    if hold_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    for tower in model.children():
        parameters = list(tower.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            tower.eval()


def _total_norm(model: nn.Module, max_norm: float) -> Tensor:
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm if max_norm > 0 else float("inf"))
    full = getattr(norm, "full_tensor", None)  # sharded gradients have a sharded norm
    return norm if full is None else full()


def _restore(buffers: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _refuse(why: str, optimizer: torch.optim.Optimizer, buffers: list[tuple[Tensor, Tensor]]) -> NoReturn:
    optimizer.zero_grad(set_to_none=True)
    _restore(buffers)
    raise NonFiniteError(f"{why}; the step was not taken")
