"""One model on several processes: replicated (DDP), sharded (FSDP), or alone, behind one interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.distributed import ALONE, World

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class Parallel:
    """A model and how its gradients become those of all processes.

    model: the weights, for everything but the training forward pass. Gradients are means over processes.
    """

    def __init__(self, model: DualEncoder, world: World = ALONE, *, sharded: bool = False) -> None:
        self.model, self.world = model, world
        self.sharded = sharded and world.size > 1
        self._forward: nn.Module = model
        if self.sharded:
            _shard(model, world)
        elif world.size > 1 and any(p.requires_grad for p in model.parameters()):
            devices = None if world.device.type == "cpu" else [world.device]
            self._forward = DistributedDataParallel(model, device_ids=devices)

    def __call__(self, images: Tensor, ids: Tensor, **options: Any) -> dict[str, Tensor]:
        """The model's forward pass, which readies the exchange of gradients."""
        out: dict[str, Tensor] = self._forward(images, ids, **options)
        return out

    @contextlib.contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """One of several backward passes that add up; gradients are exchanged in the last."""
        if isinstance(self._forward, DistributedDataParallel) and not last:
            with self._forward.no_sync():
                yield
            return
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        yield
        if last and isinstance(self.model, FSDPModule):
            for parameter in _whole_parameters(self.model):
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world.size

    def share_buffers(self) -> None:
        """Rank 0's BatchNorm statistics on every process: each has moved its own with its own rows."""
        if self.world.size > 1:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)

    def state_dict(self) -> dict[str, Any]:
        """All weights, whole, on the CPU. With shards every process must call; rank 0's is complete."""
        return get_model_state_dict(self.model, options=_WHOLE) if self.sharded else self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take whole weights; with shards rank 0's count."""
        if self.sharded:
            set_model_state_dict(self.model, state, options=_SPREAD)
        else:
            self.model.load_state_dict(state)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """State of `optimizer`, whole; by parameter name when the weights are sharded."""
        if self.sharded:
            return get_optimizer_state_dict(self.model, optimizer, options=_WHOLE)
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take what `optimizer_state` gave."""
        if self.sharded:
            set_optimizer_state_dict(self.model, optimizer, state, options=_SPREAD)
        else:
            optimizer.load_state_dict(state)


def _shard(model: DualEncoder, world: World) -> None:
    """FSDP2 over every layer of both towers and what is left. Scalars cannot be sharded and stay whole."""
    mesh = init_device_mesh(world.device.type, (world.size,))
    whole = set(_whole_parameters(model))
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for layer in (layer for layers in reversed(lists) for layer in layers):  # inner ones first
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    for method in ("encode_image", "encode_text"):
        register_fsdp_forward_method(model, method)


def _whole_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim == 0]
