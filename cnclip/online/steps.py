"""Single optimizer steps that can be taken back."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.online.settings import Scope
from cnclip.training.contrastive import Contrastive
from cnclip.training.losses import cosine_distillation
from cnclip.training.optim import build_optimizer
from cnclip.training.parallel import Parallel
from cnclip.training.step import Batch, NonFiniteError, Objective, Precision, StepContext, train_step

# What learns in a narrower scope, by prefix of the parameter's name.
_SCOPES: dict[Scope, tuple[str, ...]] = {
    "all": ("",),
    "text": ("bert.", "text_projection"),
    "projection": ("visual.proj", "visual.attnpool", "text_projection"),
}


class Snapshot:
    """All weights and buffers of a model at one moment, and an optimizer's state."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in _tensors(model)]
        self._optimizer = optimizer
        self._state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())

    def restore(self) -> None:
        """Put everything back, bit for bit."""
        with torch.no_grad():
            for tensor, before in self._tensors:
                tensor.copy_(before)
        if self._optimizer is not None and self._state is not None:
            self._optimizer.state.clear()  # of parameters that had none
            self._optimizer.load_state_dict(self._state)

    def distance(self) -> float:
        """Length of the way that the weights have gone since, as a share of their own length then."""
        moved = total = 0.0
        for tensor, before in self._tensors:
            if isinstance(tensor, nn.Parameter):
                moved += float((_local(tensor) - _local(before)).float().square().sum())
                total += float(_local(before).float().square().sum())
        return (moved / total) ** 0.5 if total else 0.0


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    part: Tensor = getattr(tensor.detach(), "_local_tensor", tensor.detach())
    return part


@contextlib.contextmanager
def learning_only(model: DualEncoder, scope: Scope) -> Iterator[None]:
    """Inside, only the parameters of `scope` learn, of those that did before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith(_SCOPES[scope]))
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


@dataclass(frozen=True)
class Anchored:
    """An objective that also draws the weights back to where they were (L2-SP, Li et al. 2018): its gradient
    is strength x (weight - anchor). anchors: by parameter name."""

    objective: Objective
    anchors: Mapping[str, Tensor]
    strength: float

    def backward(self, model: Any, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """See Objective."""
        values = self.objective.backward(model, batch, context)
        scale = float(context.precision.scale(torch.ones((), device=context.precision.device)))
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and name in self.anchors:
                parameter.grad.add_(parameter.detach() - self.anchors[name], alpha=scale * self.strength)
        return values


@dataclass(frozen=True)
class Remembering:
    """An objective that also keeps known texts where they were (learning without forgetting, Li & Hoiem 2016,
    on embeddings).

    ids: int64 (t, L). vectors: float32 (t, D), of these texts before. weight: of their mean 1 - cosine. Every
    process has the same texts and so the same gradient, which is not exchanged.
    """

    objective: Objective
    ids: Tensor
    vectors: Tensor
    weight: float

    def backward(self, model: Any, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """See Objective. Adds the value "kept"."""
        values = self.objective.backward(model, batch, context)
        context.seed_part(-1)
        with context.precision.autocast():
            texts = model.encode_text(self.ids)
        kept = cosine_distillation(texts, self.vectors)
        context.check(kept)
        context.precision.scale(self.weight * kept).backward()  # type: ignore[no-untyped-call]
        return {**values, "kept": kept}


class OnlineSteps:
    """Takes the steps of one round on the parameters of a scope; a context manager, as other parameters are
    frozen meanwhile.

    The optimizer is this round's own. Its moments are those of the run's optimizer, where that has any: Adam
    without moments would make its first step a full step of its learning rate in every coordinate. Where it
    has none, `warm_up` makes them.

    Args:
        parallel: the model; every process takes part.
        run: the run's optimizer, or that of an earlier round, whose state is read and left as it is.
        anchors, pull: see Anchored. known, keep: ids and vectors of texts, and the weight, see Remembering.
    """

    def __init__(
        self,
        parallel: Parallel,
        precision: Precision,
        scope: Scope,
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        run: torch.optim.Optimizer | None = None,
        anchors: Mapping[str, Tensor] | None = None,
        pull: float = 0.0,
        known: tuple[Tensor, Tensor] | None = None,
        keep: float = 0.0,
    ) -> None:
        self.model, self._parallel, self._precision = parallel.model, parallel, precision
        self._scope, self._betas, self._eps, self._run = scope, betas, eps, run
        self._anchors, self._pull = anchors or {}, pull
        self._known, self._keep = known, keep
        self._frame = contextlib.ExitStack()

    def __enter__(self) -> OnlineSteps:
        self._frame.enter_context(learning_only(self.model, self._scope))
        self.optimizer = build_optimizer(self.model, weight_decay=0.0, betas=self._betas, eps=self._eps)
        if self._run is not None:
            carry_moments(self._run, self.optimizer)
        world = self._parallel.world
        if world.size > 1 and not self._parallel.sharded and self._scope != "all":
            self._parallel = Parallel(self.model, world)  # DDP counts on all that learnt when it was made
        return self

    def __exit__(self, *exc: object) -> None:
        self._frame.close()

    @property
    def experience(self) -> int:
        """Steps that the moments have seen."""
        states = (self.optimizer.state.get(p, {}) for g in self.optimizer.param_groups for p in g["params"])
        return min(int(state.get("step", 0)) for state in states)

    def warm_up(self, batches: Iterator[tuple[Batch, int]], seed: int) -> None:
        """Let the moments see `batches` of (batch, sub-batches); the weights end as they are."""
        weights = Snapshot(self.model)
        for number, (batch, parts) in enumerate(batches):
            self.step(batch, parts, lr=0.0, seed=seed * 1_009 + number)
        weights.restore()

    def step(self, batch: Batch, sub_batches: int, *, lr: float, seed: int) -> dict[str, float]:
        """One step; returns the objective's values. Raises NonFiniteError: it was not taken."""
        pixels = Normalizer(self.model.config.preprocess, self._parallel.world.device)
        objective: Objective = Contrastive(self._parallel, pixels, sub_batches=sub_batches)
        if self._known is not None and self._keep:
            objective = Remembering(objective, *self._known, self._keep)
        if self._pull:
            objective = Anchored(objective, self._anchors, self._pull)
        return train_step(
            self.model,
            batch,
            objective,
            self.optimizer,
            lr=lr,
            precision=self._precision,
            seed=seed,
            hold_statistics=True,
        )


def carry_moments(source: torch.optim.Optimizer, target: torch.optim.Optimizer) -> None:
    """Copy AdamW's or LAMB's moments of the parameters that both have."""
    for group in target.param_groups:
        for parameter in group["params"]:
            state = source.state.get(parameter, {})
            if "exp_avg" in state and "exp_avg_sq" in state:
                target.state[parameter] = {name: copy.deepcopy(value) for name, value in state.items()}


__all__ = ["Anchored", "NonFiniteError", "OnlineSteps", "Snapshot", "carry_moments", "learning_only"]
