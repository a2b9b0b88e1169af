"""Optimizers and their parameter groups."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

# Names that hold one of these get no weight decay: Chinese-CLIP's list, and BERT's LayerNorm.
_NO_DECAY = ("bn", "ln", "LayerNorm", "bias", "logit_scale")


def has_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: never to norms, biases, scalars and other vectors."""
    return parameter.ndim >= 2 and not any(mark in name for mark in _NO_DECAY)


def adamw(
    model: nn.Module,
    *,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    lr_scales: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; `train_step` sets the learning rate at each step.

    lr_scales: factor on the learning rate by parameter-name prefix, longest first ("visual.proj": 5.0).
    """
    prefixes = sorted((lr_scales or {}).items(), key=lambda item: -len(item[0]))
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((s for prefix, s in prefixes if name.startswith(prefix)), 1.0)
            groups.setdefault((has_decay(name, parameter), scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "weight_decay": weight_decay if decay else 0.0, "lr_scale": scale}
            for (decay, scale), params in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=0.0,
        betas=betas,
        eps=eps,
    )
