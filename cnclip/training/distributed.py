"""The processes of one training run: who we are, and the few collective operations training needs.

One process needs no process group, so that everything also runs (and is tested) without one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cnclip.errors import InputError
from cnclip.model.device import local_device, pick_device

T = TypeVar("T")

# What a collective operation says when a process is gone; there is no class of errors for it.
_LOST = ("closed by peer", "reset by peer", "remote process exited", "communicator was aborted")


@dataclass(frozen=True)
class World:
    """The processes that train together. `rank` 0 writes logs and files."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, local: Tensor) -> Tensor:
        """Rows of every process, by rank. local: (b, ...), the same shape everywhere. No gradient."""
        local = local.detach()
        if self.size == 1:
            return local
        if local.dtype == torch.bool:
            return self.gather(local.to(torch.uint8)).bool()
        parts = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process. Every process must ask."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes.item())

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over the processes of each value; the keys are the same everywhere."""
        if self.size == 1 or not values:
            return values
        packed = torch.tensor(list(values.values()), dtype=torch.float64).to(self.device, torch.float32)
        dist.all_reduce(packed)
        return dict(zip(values, (packed / self.size).tolist(), strict=True))

    def share(self, value: T) -> T:
        """Rank 0's `value` on every process. It travels pickled, between our own processes only."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the body before the others do; should it fail, the others fail with it."""
        error: Exception | None = None
        if self.is_main:
            try:
                yield
            except Exception as caught:
                error = caught
        if self.any(error is not None):
            raise error or InputError("process 0 stopped, see its message")
        if not self.is_main:
            yield


ALONE = World()


@contextlib.contextmanager
def join_world(device_name: str | None = None) -> Iterator[World]:
    """The world that torchrun's variables describe (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT),
    left again at the end; without them, this process alone.

    Args:
        device_name: as torch names it; by default this process's accelerator, or the CPU. CPU processes talk
            over gloo, accelerators over their own library (nccl, hccl, ...).

    Raises: InputError for unusable variables or a device that is not there.
    """
    size = _variable("WORLD_SIZE", 1)
    if size == 1:
        yield World(device=pick_device(device_name))
        return
    rank, local_rank = _variable("RANK", 0), _variable("LOCAL_RANK", 0)
    device = local_device(device_name, local_rank)
    try:
        dist.init_process_group(backend=dist.get_default_backend_for_device(device))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"processes cannot meet at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    try:
        yield World(rank, size, device)
        # Only when all got here: taking a group apart is itself a collective operation, which would wait
        # for processes that are elsewhere.
        dist.barrier()
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _LOST):
            raise
        raise InputError(
            f"another process of this run has ended, see its message ({str(error).splitlines()[0]}); the "
            "same command goes on from the last checkpoint"
        ) from error
    dist.destroy_process_group()


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"environment variable {name}: {text!r} is not a number")
    return int(text)
