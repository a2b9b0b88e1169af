"""Where and in which precision a model runs. The only module that asks about devices."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch

from cnclip.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Kinds of devices where torch has AdamW as one kernel. On CPU 3x the speed of the others on ViT-B/16 +
# RoBERTa-base, and the same bits whatever the number of threads.
FUSED_OPTIMIZERS = {"cpu", "cuda", "xpu", "mps"}
# From glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the accelerator torch finds (CUDA, NPU, MPS, XPU), or the CPU."""
    if name is not None:
        try:
            device = torch.device(name)
            torch.empty(0, device=device).cpu()  # "meta" can make it, but not give it back
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError(f"device {name!r} is not available here") from error
        return device
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None:
            return accelerator
    return torch.device("cpu")


def local_device(name: str | None, local_rank: int) -> torch.device:
    """The device of one of several processes on a machine: its own accelerator, in turn, or the CPU."""
    device = pick_device(name)
    if device.type == "cpu" or device.index is not None:
        return device
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise InputError(f"process {local_rank} of this machine has no device of its own: {count} are here")
    torch.accelerator.set_device_index(local_rank)
    return torch.device(device.type, local_rank)


def accelerator_names() -> list[str]:
    """What this machine has beside its CPU, by index."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return []
    name = getattr(torch.get_device_module(accelerator), "get_device_name", lambda _: accelerator.type)
    return [str(name(index)) for index in range(torch.accelerator.device_count())]


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16, AMX, Arm BF16)."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The named dtype; by default bfloat16 where the hardware has it, else float32."""
    if name is not None:
        if name not in _DTYPES:
            raise InputError(f"unknown dtype {name!r}; known: {', '.join(_DTYPES)}")
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    if device.type == "cuda":  # older cards emulate bfloat16, slowly
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(getattr(torch.get_device_module(device), "is_bf16_supported", lambda: False)())
    return torch.bfloat16 if native else torch.float32


def tune_malloc() -> bool:
    """Keep freed activations inside the process, for entry points.

    glibc hands large blocks back to the kernel after every operation, and the page faults of getting them
    again dominate convolutions on CPU. Returns whether the settings took (False outside glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    return bool(min([mallopt(option, value) for option, value in settings]))
