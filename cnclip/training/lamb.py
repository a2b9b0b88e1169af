"""LAMB: Adam whose step is measured against each weight's own size, for very large batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_Tensors = tuple[Tensor, ...] | list[Tensor]


class Lamb(torch.optim.Optimizer):
    """LAMB with the defaults of apex's FusedLAMB, without its global clipping: `train_step` clips.

    update = Adam's step with bias correction + weight_decay * weight
    weight -= lr * |weight| / |update| * update     (norms per tensor; 1 where one of them is 0)
    Groups without weight decay take the update as it is (apex's `use_nvlamb=False`).

    Works on DTensor parameters (FSDP2): norms are those of the whole tensor.

    Source: You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arXiv 1904.00962.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            # Accelerators want few launches; a CPU wants each tensor once while it is in the cache, and
            # the temporaries of one tensor only.
            whole = bool(params) and params[0].device.type != "cpu"
            for chunk in [params] if whole else [[p] for p in params]:
                self._update(chunk, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        grads = [p.grad for p in params if p.grad is not None]
        states = [self._state_of(p) for p in params]
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        for state in states:
            state["step"] += 1
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        # (m / c1) / (sqrt(v / c2) + eps) = m / (sqrt(v) * c1 / sqrt(c2) + eps * c1)
        steps = [float(state["step"]) for state in states]
        corrections = [1 - beta1**step for step in steps]
        ratios = [c / math.sqrt(1 - beta2**step) for c, step in zip(corrections, steps, strict=True)]
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_mul_(divisors, ratios)
        torch._foreach_add_(divisors, [group["eps"] * c for c in corrections])
        updates = torch._foreach_div(means, divisors)
        if decay:
            torch._foreach_add_(updates, params, alpha=decay)
            torch._foreach_mul_(updates, _trust_ratios(params, updates))
        torch._foreach_add_(params, updates, alpha=-group["lr"])

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _trust_ratios(weights: _Tensors, updates: _Tensors) -> list[float]:
    """|weight| / |update| of each pair."""
    pairs = zip(_norms(weights), _norms(updates), strict=True)
    return [weight / update if weight and update else 1.0 for weight, update in pairs]


def _norms(tensors: _Tensors) -> list[float]:
    norms = torch.stack(torch._foreach_norm(tensors))  # one transfer to the host for all
    if hasattr(norms, "full_tensor"):  # a DTensor
        norms = norms.full_tensor()
    values: list[float] = norms.tolist()
    return values
