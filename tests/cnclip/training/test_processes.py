"""Two processes learn what one learns from the doubled batch, whatever the setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cnclip.training.processes import SETTINGS

ROOT = Path(__file__).parents[3]
MODULE = "tests.cnclip.training.processes"
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def launch(out: Path, processes: int, sub_batches: int) -> dict[str, Any]:
    """Results by setting of `processes` processes that each divide their rows into `sub_batches`."""
    launcher = TWO if processes == 2 else [sys.executable]
    done = run([*launcher, "-m", MODULE, str(out), str(sub_batches)])
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, Any] = torch.load(out, weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, Any]]:
    """By (processes, sub-batches)."""
    folder = tmp_path_factory.mktemp("processes")
    return {(w, a): launch(folder / f"{w}{a}.pt", w, a) for w, a in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2))}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
    # Clipping and Adam hide the scale of a gradient from the weights.
    assert one["norms"] == pytest.approx(other["norms"], rel=1e-3)
    assert one["moments"] == other["moments"] > 0
    assert one["weights"].keys() == other["weights"].keys()
    for name, value in one["weights"].items():
        torch.testing.assert_close(value, other["weights"][name], rtol=0, atol=1e-4)


# Own negatives are another loss by definition: there, one process has more of them than each of two.
SHARED = [name for name in SETTINGS if name != "own negatives"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_two_processes_equal_one(results: dict[tuple[int, int], dict[str, Any]], name: str) -> None:
    assert_same(results[2, 1][name], results[1, 2][name])
    assert_same(results[2, 2][name], results[1, 4][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHARED if not SETTINGS[name].get("dropout")])
def test_sub_batches_equal_the_doubled_batch(
    results: dict[tuple[int, int], dict[str, Any]], name: str
) -> None:
    """Without dropout, whose masks follow the sub-batches, no division changes anything."""
    for division in ((1, 2), (1, 4), (2, 1), (2, 2)):
        assert_same(results[division][name], results[1, 1][name])


@pytest.mark.slow
def test_own_negatives_differ_from_shared_ones(results: dict[tuple[int, int], dict[str, Any]]) -> None:
    alone, two = results[1, 1]["own negatives"], results[2, 1]["own negatives"]
    assert two["losses"][0] < alone["losses"][0] - 0.1  # fewer negatives, an easier question
    assert alone["losses"] == pytest.approx(results[1, 1]["multi-positive mixup 0.0 dropout False"]["losses"])


LEAVING = """
import os, sys
from cnclip.errors import InputError
from cnclip.training.distributed import join_world
try:
    with join_world("cpu") as world:
        world.wait()
        if world.is_main:
            os._exit(0)
except InputError as error:
    sys.exit(f"said: {error}")
"""


@pytest.mark.slow
def test_a_process_that_is_lost_at_the_end_is_said(tmp_path: Path) -> None:
    """The other one is done and waits for it: one line, not a traceback."""
    (tmp_path / "leaving.py").write_text(LEAVING, encoding="utf-8")
    done = run([*TWO, str(tmp_path / "leaving.py")])
    assert "said: another process of this run has ended" in done.stderr, done.stderr[-3000:]
