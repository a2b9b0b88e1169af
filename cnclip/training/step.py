"""One optimizer step. The only place in the project that moves weights: fine-tuning, distillation and online
learning all call `train_step`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from cnclip.errors import CnclipError
from cnclip.model.dual_encoder import MAX_LOGIT_SCALE

Batch = Mapping[str, Any]
# From a model and a batch to {"loss": scalar, ...}; every other entry is a metric to log.
Objective = Callable[[Any, Batch], dict[str, Tensor]]
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


def train_step(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    precision: Precision,
    max_grad_norm: float = 1.0,
) -> dict[str, float]:
    """Forward, backward, clip, step, clamp the logit scale to [0, ln 100].

    Args:
        lr: learning rate of this step; a group's "lr_scale" multiplies it.
        max_grad_norm: global gradient norm above which gradients are scaled down.

    Returns:
        The objective's values and "grad_norm", as floats.

    Raises:
        NonFiniteError: the loss or gradient is not finite; weights and optimizer state are as before.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    model.train()
    optimizer.zero_grad(set_to_none=True)
    buffers = [
        (buffer, buffer.clone()) for buffer in model.buffers()
    ]  # BatchNorm's, moved by the forward pass
    with precision.autocast():
        values = objective(model, batch)
    loss = values["loss"]
    if not torch.isfinite(loss):
        _refuse(f"loss is {float(loss.detach())}", optimizer, buffers)
    scaler = precision.scaler
    (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]
    if scaler:
        scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    if scaler:
        scaler.step(optimizer)  # skips by itself when the scaled gradient overflowed
        scaler.update()
    elif not torch.isfinite(norm):
        _refuse(f"gradient norm is {float(norm)}", optimizer, buffers)
    else:
        optimizer.step()
    logit_scale = getattr(model, "logit_scale", None)
    if logit_scale is not None:
        with torch.no_grad():
            logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
    return {**{name: float(value.detach()) for name, value in values.items()}, "grad_norm": float(norm)}


def _refuse(why: str, optimizer: torch.optim.Optimizer, buffers: list[tuple[Tensor, Tensor]]) -> NoReturn:
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    raise NonFiniteError(f"{why}; the step was not taken")
