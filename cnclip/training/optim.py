"""Optimizers and their parameter groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from cnclip.errors import InputError
from cnclip.model.device import FUSED_OPTIMIZERS
from cnclip.training.lamb import Lamb

OptimizerKind = Literal["adamw", "lamb"]

# Names that hold one of these get no weight decay: Chinese-CLIP's list, and BERT's LayerNorm.
_NO_DECAY = ("bn", "ln", "LayerNorm", "bias", "logit_scale")
# A tower's layers: resblocks.3 (ViT), layer.3 (BERT), blocks.3 (EfficientNet), layer3 (a stage of a ResNet),
# and those of transformers' towers under model.; the outermost number counts.
_LAYER = re.compile(r"(visual|bert)\.(?:\w+\.)*?(?:resblocks\.|blocks\.|stages\.|layers?\.?)(\d+)\.")
_STEM = re.compile(
    r"(visual|bert)\.(?:stem|conv\d|bn\d|ln_pre|class_embedding|positional_embedding"
    r"|model\.(?:\w+\.)*?(?:embeddings|embeddings_project|embedder|pre_layrnorm)|embeddings)(?:\.|$)"
)


def has_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: never to norms, biases, scalars and other vectors."""
    return parameter.ndim >= 2 and not any(mark in name for mark in _NO_DECAY)


def layer_depths(model: nn.Module) -> dict[str, int]:
    """How many layers below the top of its tower each parameter is, by name.

    Projections, pooling and the logit scale: 0. The last layer of a tower: 1, the first of n: n, embeddings
    and the stem: n + 1.

    Source: BEiT (Bao et al. 2021); first used by ELECTRA (Clark et al. 2020).
    """
    names = [name for name, _ in model.named_parameters()]
    layers = {name: (match[1], int(match[2])) for name in names if (match := _LAYER.match(name))}
    order = {tower: sorted({n for t, n in layers.values() if t == tower}) for tower in ("visual", "bert")}

    def depth(name: str) -> int:
        if name in layers:
            tower, number = layers[name]
            return len(order[tower]) - order[tower].index(number)
        stem = _STEM.match(name)
        return len(order[stem[1]]) + 1 if stem else 0

    return {name: depth(name) for name in names}


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr_scales: Mapping[str, float] | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters, one group per weight decay and learning-rate factor ("lr_scale").

    Args:
        lr_scales: factor by parameter-name prefix, longest first ("visual.proj": 5.0).
        layer_decay: factor per layer downwards, see `layer_depths`; 1 = all layers alike.

    Raises InputError when every parameter is frozen.
    """
    prefixes = sorted((lr_scales or {}).items(), key=lambda item: -len(item[0]))
    depths = layer_depths(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((s for prefix, s in prefixes if name.startswith(prefix)), 1.0)
            scale *= layer_decay ** depths[name]
            groups.setdefault((has_decay(name, parameter), scale), []).append(parameter)
    if not groups:
        raise InputError("nothing to train: every parameter is frozen")
    return [
        {"params": params, "weight_decay": weight_decay if decay else 0.0, "lr_scale": scale}
        for (decay, scale), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(
    model: nn.Module,
    *,
    kind: OptimizerKind = "adamw",
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    lr_scales: Mapping[str, float] | None = None,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """AdamW or LAMB over the trainable parameters; `train_step` sets the learning rate at each step.

    lr_scales, layer_decay: see `parameter_groups`. Raises InputError for an unknown kind or nothing to train.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, lr_scales=lr_scales, layer_decay=layer_decay)
    if kind == "adamw":
        fused = {p.device.type for group in groups for p in group["params"]} <= FUSED_OPTIMIZERS
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=fused or None)
    if kind == "lamb":
        return Lamb(groups, lr=0.0, betas=betas, eps=eps)
    raise InputError(f"unknown optimizer {kind!r}; known: adamw, lamb")
