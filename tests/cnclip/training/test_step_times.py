"""Means by stage, speed and memory of training steps."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cnclip.training.step_times import StepTimes, peak_memory_mib


def test_step_times_are_means_since_the_last_take() -> None:
    times = StepTimes(torch.device("cpu"))
    steps = [{"data": 0.1, "forward": 0.2, "gather": 0.01, "backward": 0.3, "optimizer": 0.05}, {"data": 0.3}]
    for seconds in steps:
        times.add(seconds, 64)
    means = times.take()
    assert means.pop("peak_memory_mib") > 10
    assert means == pytest.approx(
        {
            **{"data_s": 0.2, "forward_s": 0.1, "gather_s": 0.005, "backward_s": 0.15, "optimizer_s": 0.025},
            **{"batch_s": 0.48, "samples_per_s": 128 / 0.96},
        }
    )
    times.add({"backward": 2.0}, 4)
    again = times.take()
    assert (again["batch_s"], again["backward_s"], again["data_s"], again["samples_per_s"]) == (2, 2, 0, 2)
    assert times.take()["samples_per_s"] == 0


def test_peak_memory_of_the_process_is_what_the_kernel_says() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    assert peak_memory_mib(torch.device("cpu")) == pytest.approx(int(found[1]) / 1024, rel=0.01)


def test_an_accelerator_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def max_memory_allocated(device: torch.device) -> int:
        asked.append(device)
        return 3 * 2**20

    module = SimpleNamespace(max_memory_allocated=max_memory_allocated)
    monkeypatch.setattr(torch, "get_device_module", {torch.device("cuda", 1): module}.get)
    assert peak_memory_mib(torch.device("cuda", 1)) == 3.0
    assert asked == [torch.device("cuda", 1)]
