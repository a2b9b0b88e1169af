"""Two gloo processes decide alike, end with equal weights, and learn what one process learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
MODULE = "tests.cnclip.online.processes"


@pytest.mark.slow
def test_two_processes_decide_and_learn_as_one(lmdb: Path, tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher = [*torchrun, "-m", "--"]
    for start, out in ((launcher, "two"), ([sys.executable, "-m"], "one")):
        command = [*start, MODULE, str(tmp_path / out), str(lmdb)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    first, second, alone = (
        torch.load(tmp_path / name, weights_only=True) for name in ("two.0", "two.1", "one.0")
    )
    for scene, expected in alone.items():
        one, other = first[scene], second[scene]
        for name in ("decisions", "why", "outcomes", "balance", "losses"):
            assert one[name] == other[name], (scene, name)
        assert all(torch.equal(one["weights"][n], other["weights"][n]) for n in one["weights"]), scene
        assert one["decisions"] == expected["decisions"] and one["outcomes"] == expected["outcomes"], scene
        assert one["losses"] == pytest.approx(expected["losses"], rel=1e-4), scene
        for name, value in expected["weights"].items():
            torch.testing.assert_close(one["weights"][name], value, rtol=0, atol=1e-4)
    assert "kept" in alone["good"]["decisions"] and "kept" in alone["text"]["decisions"]
    assert "rolled back" in alone["wrong"]["decisions"]
