"""The contrastive objective: encode in sub-batches, gather, one loss over all, gradients back to each part.

The loss needs every feature of the global batch at once, the towers do not. So features are computed first,
the loss is differentiated with respect to them, and those gradients are sent back through the towers one
sub-batch at a time (GradCache, Gao et al. 2021; ZeroVL's decoupled gradient accumulation). The forward pass
of a sub-batch is repeated then, with the same random numbers; a single sub-batch keeps its graph instead.
The gradient is that of the whole batch over all processes, except that BatchNorm knows its sub-batch only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cnclip.errors import InputError
from cnclip.model.pixels import Normalizer
from cnclip.training.losses import (
    cosine_distillation,
    dual_softmax_info_nce,
    mixed_targets,
    multi_positive_info_nce,
    similarity_distillation,
)
from cnclip.training.parallel import Parallel
from cnclip.training.step import Batch, StepContext
from cnclip.training.teacher import Teacher

LossName = Literal["multi-positive", "info-nce", "dual-softmax"]


@dataclass(frozen=True)
class Mix:
    """Mixup of one side of a step's batch: row i is share x itself + (1 - share) x row partner[i] of its
    sub-batch. `side` is drawn by a coin (ZeroVL's coin flipping)."""

    side: Literal["image", "text"]
    share: float

    @classmethod
    def draw(cls, beta: float, seed: int) -> Mix | None:
        """share ~ Beta(beta, beta); None when beta is 0."""
        if beta == 0:
            return None
        rng = np.random.default_rng([seed, 0x6D69])
        return cls("image" if rng.random() < 0.5 else "text", float(rng.beta(beta, beta)))


def partners(valid: Tensor) -> Tensor:
    """Neighbours 2k and 2k+1 are partners, int64 (b,); a row without a readable neighbour is its own. ZeroVL
    takes the reversed batch, which would depend on how it is divided."""
    rows = torch.arange(len(valid), device=valid.device)
    other = (rows ^ 1).clamp(max=len(valid) - 1)
    return torch.where(valid & valid[other], other, rows)


@dataclass
class Contrastive:
    """Objective of a fine-tune on batches of `PairBatches`. They may also have "unknown": bool (G, G), true
    where nobody knows whether text j describes picture i; such a pair is neither positive nor negative.

    Args:
        loss: "multi-positive": all pairs that the labels allow are positives; "info-nce": pair i only;
            "dual-softmax": the same with Online-CNCLIP's reweighting.
        sub_batches: parts a process divides its rows into; the towers take the memory of one part.
        aggregate: contrast with the rows of all processes, else with one's own.
        mask_ratio: share of image patches left out (FLIP).
        mixup_beta: of coin-flipping mixup; 0 = none.
        teacher: its picture features are followed with weight `kd_weight` (see `_distil`).
    """

    parallel: Parallel
    pixels: Normalizer
    loss: LossName = "multi-positive"
    sub_batches: int = 1
    aggregate: bool = True
    mask_ratio: float = 0.0
    mixup_beta: float = 0.0
    teacher: Teacher | None = None
    kd_weight: float = 0.5

    def backward(self, model: Any, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """See Objective. Values: loss, kd_loss, logit_scale; i2t_acc, t2i_acc within the batch."""
        if model is not self.parallel.model:
            raise ValueError("this objective was made for another model")
        mix = Mix.draw(self.mixup_beta, context.seed)
        parts = _divide(batch, self.sub_batches)
        cached = self._features(parts, mix, context)
        local = [torch.cat([part[side].detach() for part in cached]) for side in ("image", "text")]
        taught = None
        if self.teacher is not None:
            taught = torch.cat([self.teacher.encode(self._images(part, mix)) for part in parts])
        context.laps.mark("forward")
        gathered = [self._gather(features).requires_grad_() for features in local]
        scale = cached[-1]["scale"].detach().requires_grad_()
        targets = _Targets(self, batch, mix)
        context.laps.mark("gather")
        values = self._values(gathered[0], gathered[1], scale, targets, taught)
        anywhere = bool if self.aggregate else self.parallel.world.any
        context.check(values["loss"], anywhere)
        context.precision.scale(values["loss"]).backward()  # type: ignore[no-untyped-call]
        self._through_towers(parts, cached, gathered, scale, mix, context)
        context.laps.mark("backward")
        return values

    def _features(
        self, parts: Sequence[Batch], mix: Mix | None, context: StepContext
    ) -> list[dict[str, Tensor]]:
        """Features of each sub-batch; with a graph when there is only one."""
        if len(parts) == 1:
            return [self._encode(0, parts[0], mix, context)]
        before = [(buffer, buffer.clone()) for buffer in self.parallel.model.buffers()]
        with torch.no_grad():
            features = [self._encode(i, part, mix, context) for i, part in enumerate(parts)]
            for buffer, value in before:  # BatchNorm's statistics move in the second pass only
                buffer.copy_(value)
        return features

    def _encode(self, number: int, part: Batch, mix: Mix | None, context: StepContext) -> dict[str, Tensor]:
        context.seed_part(self.parallel.world.rank * self.sub_batches + number)
        text = part["text"]
        text = text[:, : int((text != 0).sum(1).max())]  # zero is padding, only at the end
        options: dict[str, Any] = {"mask_ratio": self.mask_ratio} if self.mask_ratio else {}
        device = self.parallel.world.device
        if mix is not None and mix.side == "text":
            options["text_mix"] = (partners(part["valid"]).to(device), mix.share)
        with context.precision.autocast():
            out = self.parallel(self._images(part, mix), text.to(device, non_blocking=True), **options)
        return {"image": out["image_features"], "text": out["text_features"], "scale": out["logit_scale"]}

    def _images(self, part: Batch, mix: Mix | None) -> Tensor:
        images = self.pixels.normalize(part["image"])
        if mix is not None and mix.side == "image":
            images = mix.share * images + (1 - mix.share) * images[partners(part["valid"])]
        return images

    def _gather(self, local: Tensor) -> Tensor:
        return self.parallel.world.gather(local) if self.aggregate else local.detach()

    def _values(
        self, image: Tensor, text: Tensor, scale: Tensor, targets: _Targets, taught: Tensor | None
    ) -> dict[str, Tensor]:
        rows = targets.rows
        image, text = image[rows], text[rows]
        if len(image) < 2:  # nothing to tell apart: a step without a gradient
            nothing = 0 * (image.sum() + text.sum() + scale)
            return {"loss": nothing, "i2t_acc": nothing, "t2i_acc": nothing, "logit_scale": scale.detach()}
        if self.loss == "dual-softmax":
            values = {"loss": dual_softmax_info_nce(image, text, scale, targets.positives)}
        else:
            loss = multi_positive_info_nce(image, text, scale, targets.positives, ignore=targets.unknown)
            values = {"loss": loss}
        if taught is not None:
            values["kd_loss"] = _distil(image, self._gather(taught)[rows])
            values["loss"] = values["loss"] + self.kd_weight * values["kd_loss"]
        with torch.no_grad():
            similarity = image @ text.T
            each = torch.arange(len(similarity), device=similarity.device)
            values["i2t_acc"] = targets.relevance[each, similarity.argmax(1)].float().mean()
            values["t2i_acc"] = targets.relevance[similarity.argmax(0), each].float().mean()
        return {**values, "logit_scale": scale.detach()}

    def _through_towers(
        self,
        parts: Sequence[Batch],
        cached: list[dict[str, Tensor]],
        gathered: list[Tensor],
        scale: Tensor,
        mix: Mix | None,
        context: StepContext,
    ) -> None:
        """Backward pass of every sub-batch from the gradients of its features."""
        world = self.parallel.world
        mine = slice(None)
        times = 1
        if self.aggregate:
            rows = len(gathered[0]) // world.size
            # Each process holds the gradient of its own features only, and the exchange takes the mean.
            mine, times = slice(world.rank * rows, (world.rank + 1) * rows), world.size
        gradients = [torch.zeros_like(f) if f.grad is None else f.grad for f in gathered]
        image_parts, text_parts = ((g[mine] * times).chunk(len(parts)) for g in gradients)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self.parallel.part(last):
                out = cached[0] if len(parts) == 1 else self._encode(number, part, mix, context)
                scale_grad = scale.grad if last and scale.grad is not None else torch.zeros_like(scale)
                ends = [
                    (out["image"], image_parts[number]),
                    (out["text"], text_parts[number]),
                    (out["scale"], scale_grad),
                ]
                ends = [(end, gradient) for end, gradient in ends if end.requires_grad]
                torch.autograd.backward([e for e, _ in ends], [g for _, g in ends])


class _Targets:
    """What the loss wants of the rows that count. rows: bool (G,), readable pictures; positives: (g, g);
    relevance: bool (g, g), what the labels say; unknown: bool (g, g) or None, where they say nothing."""

    def __init__(self, objective: Contrastive, batch: Batch, mix: Mix | None) -> None:
        world, device = objective.parallel.world, objective.parallel.world.device
        relevance, valid = batch["relevance"].to(device), batch["valid"].to(device)
        size = len(valid)
        if not objective.aggregate:
            start = world.rank * size
            relevance = relevance[start : start + size, start : start + size]
        self.rows = objective._gather(valid)
        positives = relevance
        if objective.loss != "multi-positive":
            positives = torch.eye(len(relevance), dtype=torch.bool, device=device)
        if mix is not None:
            starts = torch.arange(0, size, size // objective.sub_batches, device=device)
            parts = valid.chunk(objective.sub_batches)
            local = torch.cat([partners(part) + start for part, start in zip(parts, starts, strict=True)])
            offset = world.rank * size if objective.aggregate else 0
            partner = objective._gather(local + offset)
            positives = mixed_targets(positives, partner, mix.share, mix.side)
        unknown = batch.get("unknown")  # bool (G, G); only where the rows are contrasted with all others
        self.unknown = None if unknown is None else unknown.to(device)[self.rows][:, self.rows]
        self.positives = positives[self.rows][:, self.rows]
        self.relevance = relevance[self.rows][:, self.rows]


def _divide(batch: Batch, parts: int) -> list[Batch]:
    rows = len(batch["valid"])
    if rows % parts:
        raise InputError(f"{rows} rows cannot be divided into {parts} sub-batches of one size")
    pieces = {name: batch[name].chunk(parts) for name in ("image", "text", "valid")}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(parts)]


def _distil(student: Tensor, teacher: Tensor) -> Tensor:
    """Follow the teacher's picture vectors where both have one width (as Chinese-CLIP does), else its
    similarities between pictures, which have no width."""
    if student.shape[1] == teacher.shape[1]:
        return cosine_distillation(student, teacher)
    return similarity_distillation(student, teacher)
