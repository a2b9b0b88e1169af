"""Where the seconds of the training steps go, and how much memory they take."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch

STAGES = ("data", "forward", "gather", "backward", "optimizer")


class StepTimes:
    """Means over the steps since the last log line: `add` after each step, `take` at the log line.

    Validation and checkpoints between steps do not count, as nobody adds them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start_anew()

    def add(self, seconds: Mapping[str, float], samples: int) -> None:
        """One step: its seconds by stage (of STAGES), and the pairs it saw in all processes together."""
        for stage in STAGES:
            self._seconds[stage] += seconds.get(stage, 0.0)
        self._samples += samples
        self._steps += 1

    def take(self) -> dict[str, float]:
        """The means, and a fresh start.

        Returns:
            "data_s", "forward_s", "gather_s", "backward_s", "optimizer_s" and "batch_s" (their sum), seconds
            per step; "samples_per_s"; "peak_memory_mib" (see `peak_memory_mib`) where it is known.
        """
        steps, in_all = max(1, self._steps), sum(self._seconds.values())
        means = {f"{stage}_s": seconds / steps for stage, seconds in self._seconds.items()}
        means["batch_s"] = in_all / steps
        means["samples_per_s"] = self._samples / in_all if in_all > 0 else 0.0
        peak = peak_memory_mib(self._device)
        if peak is not None:
            means["peak_memory_mib"] = peak
        self._start_anew()
        return means

    def _start_anew(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._samples = self._steps = 0


def peak_memory_mib(device: torch.device) -> float | None:
    """The most memory in MiB that this process has had allocated on `device`.

    On the CPU, and on an accelerator that does not count, it is the process's largest resident set, without
    its data workers. None where neither is known.
    """
    on_device = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    if on_device is not None:
        return float(on_device(device)) / 2**20
    try:
        import resource  # POSIX only
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
