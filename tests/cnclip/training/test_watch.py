"""The stations of a run, with validations whose scores are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from cnclip.data.dataset import PairDataset
from cnclip.model.dual_encoder import DualEncoder
from cnclip.training import watch
from cnclip.training.config import TrainConfig
from cnclip.training.loop import FitConfig, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.records import Records
from cnclip.training.run_folder import BEST, LATEST
from cnclip.training.run_state import RunState
from cnclip.training.step import Precision

Watched = Callable[..., watch.Watch]


def result_of(score: float) -> dict[str, Any]:
    """What `evaluate_split` returns, every recall the same."""
    recalls = dict.fromkeys(("R@1", "R@5", "R@10", "mean_recall"), score)
    in_batch = {"loss": 1.0, "i2t_acc": 0.0, "t2i_acc": 0.0, "batch_size": 8}
    directions = {"text_to_image": recalls, "image_to_text": recalls}
    return {**directions, "in_batch": in_batch, "problems": [], "n_queries": 4, "n_gallery": 24}


@pytest.fixture
def watched(
    tiny_model: Callable[[], DualEncoder],
    colours: PairDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Watched]:
    """Makes a Watch of 3 steps per epoch that finds these scores, one after the other."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / LATEST).write_bytes(b"the newest")
    with Records(tmp_path, settings={}, tensorboard=False) as records:

        def make(scores: Sequence[float], **settings: Any) -> watch.Watch:
            coming = iter(scores)
            monkeypatch.setattr(watch, "evaluate_split", lambda *_, **__: result_of(next(coming)))
            model = tiny_model()
            state = RunState(Parallel(model), optimizer_of(model, FitConfig(9, 1e-3)), Precision(), {})
            config = TrainConfig(train_data=(tmp_path,), val_data=tmp_path, **settings)
            return watch.Watch(tmp_path, config, state, 3, 8, 9, records, valid=colours)

        yield make


def best_step(run: Path) -> int:
    with safe_open(run / BEST, "pt") as file:
        return int(file.metadata()["step"])


def test_patience_counts_from_the_best_validation(watched: Watched) -> None:
    """A better one starts the count anew, an equal one is no better."""
    run = watched([0.5, 0.4, 0.6, 0.6, 0.5, 0.7], early_stop=2)
    found = []
    for step in range(5):
        stop = run.validate(step)
        found.append((run.state.notes["since_best"], stop, best_step(run.run)))
    assert found == [(0, False, 0), (1, False, 0), (0, False, 2), (1, False, 2), (2, True, 2)]


def test_without_patience_nothing_stops(watched: Watched) -> None:
    run = watched([0.5, 0.4, 0.4, 0.4])
    assert [run.validate(step) for step in range(4)] == [False] * 4 and run.state.notes["since_best"] == 3


def test_the_best_file_may_be_newer_than_the_checkpoint(watched: Watched) -> None:
    """A run that was killed after a validation, before the checkpoint that would know of it."""
    watched([0.6]).validate(2)
    resumed = watched([0.55])
    resumed.validate(1)
    assert best_step(resumed.run) == 2
    assert resumed.state.notes == {"best": 0.6, "best_step": 2, "last": 0.55, "since_best": 1}


def test_the_checkpoint_of_an_early_stop_is_kept(watched: Watched) -> None:
    run = watched([0.5, 0.4, 0.4], early_stop=2, save_epoch_frequency=-1)
    kept = []
    for step in (3, 4, 5):
        run.validate(step)
        run.saved(step, 0.0)
        kept.append(sorted(path.name for path in (run.run / "checkpoints").iterdir()))
    assert kept == [["epoch_latest.pt"], ["epoch_latest.pt"], ["epoch2.pt", "epoch_latest.pt"]]
