from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError, WeightsError
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.model.save import save_safetensors
from cnclip.training.contrastive import Contrastive
from cnclip.training.data import PairBatches
from cnclip.training.loop import Events, FitConfig, Progress, fit, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.run_state import RunState
from cnclip.training.step import Batch, Precision, StepContext

Build = Callable[[], DualEncoder]


def run(
    model: DualEncoder,
    dataset: PairDataset,
    steps: int,
    total: int,
    checkpoint: Path | None,
    first: int = 0,
    settings: dict[str, int] | None = None,
) -> list[Progress]:
    """Train up to `steps` of a run planned for `total`, as an interrupted run would."""
    seen: list[Progress] = []

    parallel, preprocess = Parallel(model), model.config.preprocess

    class Interrupted(Contrastive):
        def backward(self, model: DualEncoder, batch: Batch, context: StepContext) -> dict[str, torch.Tensor]:
            if len(seen) + first == steps - 1 and steps < total:
                signal.raise_signal(signal.SIGINT)  # Ctrl-C in the middle of a step
            return super().backward(model, batch, context)

    source = PairBatches([dataset], preprocess, 8, context_length=16, augmentation="light", seed=5)
    config = FitConfig(total, 1e-3, warmup=2, log_every=1, seed=11)
    objective = Interrupted(parallel, Normalizer(preprocess, torch.device("cpu")))
    state = RunState(parallel, optimizer_of(model, config), Precision(), dict(settings or {}))
    done = state.resume(checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    with contextlib.suppress(KeyboardInterrupt):
        fit(
            model,
            source,
            objective,
            config,
            Precision(),
            checkpoint=checkpoint,
            events=Events(log=seen.append),
            state=state,
            first_step=done,
        )
    return seen


def test_resume_equals_an_uninterrupted_run_bit_for_bit(
    tiny_model: Build, colours: PairDataset, tmp_path: Path
) -> None:
    """With dropout, augmentation and an epoch boundary (3 steps) in between."""
    whole = tiny_model()
    losses = [p.metrics["loss"] for p in run(whole, colours, 7, 7, None)]
    first, second = tiny_model(), tiny_model()
    part = run(first, colours, 4, 7, tmp_path / "run.pt")
    torch.rand(100)  # whatever the new process did before
    rest = run(second, colours, 7, 7, tmp_path / "run.pt", first=4)
    assert [p.metrics["loss"] for p in part + rest] == losses
    assert [p.step for p in rest] == [5, 6, 7]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_checkpoint_of_another_model_is_refused(
    tiny_model: Build, colours: PairDataset, tmp_path: Path
) -> None:
    run(tiny_model(), colours, 1, 1, tmp_path / "run.pt")
    payload = torch.load(tmp_path / "run.pt", weights_only=True)
    payload["state_dict"]["module.text_projection"] = torch.zeros(3, 3)
    torch.save(payload, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt: does not fit this run"):
        run(tiny_model(), colours, 1, 1, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "run.pt").read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut\.pt: truncated"):
        run(tiny_model(), colours, 1, 1, tmp_path / "cut.pt")


KILLED = """
import sys
from pathlib import Path
import torch
from cnclip.model.weights import load_model
from cnclip.model.save import save_pt
model = load_model(sys.argv[1])
for step in range(1_000_000):
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(step)
    save_pt(model, Path(sys.argv[2]), step=step)
    print(step, flush=True)
"""


def test_kill_while_saving_leaves_a_whole_checkpoint(tiny_model: Build, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save_safetensors(tiny_model(), tmp_path / "start.safetensors")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "start.safetensors"), str(path)]
    for round_ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(2):
            acknowledged = int(process.stdout.readline())
        deadline = time.perf_counter() + 0.003 * round_  # a different moment of the write each round
        while time.perf_counter() < deadline:
            pass
        process.kill()
        process.wait()
        process.stdout.close()
        saved = torch.load(path, weights_only=True)
        assert saved["step"] >= acknowledged
        words = saved["state_dict"]["module.bert.embeddings.word_embeddings.weight"]
        assert (words == saved["step"]).all()


def test_changed_settings_are_refused(tiny_model: Build, colours: PairDataset, tmp_path: Path) -> None:
    run(tiny_model(), colours, 1, 1, tmp_path / "run.pt", settings={"batch_size": 8})
    with pytest.raises(InputError, match=r"run\.pt: made with batch_size = 8, this run says 9"):
        run(tiny_model(), colours, 2, 2, tmp_path / "run.pt", settings={"batch_size": 9})
