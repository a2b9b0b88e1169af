"""The stations of a run, with validations whose scores are given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors import safe_open

from cnclip.data.dataset import PairDataset
from cnclip.evaluation.evaluator import Embedded
from cnclip.model.dual_encoder import DualEncoder
from cnclip.training import watch
from cnclip.training.config import TrainConfig
from cnclip.training.loop import FitConfig, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.records import Records
from cnclip.training.run_folder import BEST, LATEST
from cnclip.training.run_state import RunState
from cnclip.training.step import Precision
from cnclip.training.validation import Measured

Watched = Callable[..., watch.Watch]


def result_of(score: float) -> dict[str, Any]:
    """What `measure_split` finds, every recall the same."""
    recalls = dict.fromkeys(("R@1", "R@5", "R@10", "mean_recall"), score)
    in_batch = {"loss": 1.0, "i2t_acc": 0.0, "t2i_acc": 0.0, "batch_size": 8}
    directions = {"text_to_image": recalls, "image_to_text": recalls}
    return {**directions, "in_batch": in_batch, "problems": [], "n_queries": 4, "n_gallery": 24}


def measured(score: float) -> Measured:
    return Measured(result_of(score), cast(Embedded, None))


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
            monkeypatch.setattr(watch, "measure_split", lambda *_, **__: measured(next(coming)))
            model, learner = tiny_model(), settings.pop("learner", None)
            state = RunState(Parallel(model), optimizer_of(model, FitConfig(9, 1e-3)), Precision(), {})
            config = TrainConfig(train_data=(tmp_path,), val_data=tmp_path, **settings)
            return watch.Watch(tmp_path, config, state, 3, 8, 9, records, valid=colours, learner=learner)

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


def test_a_learner_is_asked_after_the_start_and_its_result_counts(watched: Watched, tmp_path: Path) -> None:
    """What a kept round leaves is what is best, or not; the start is measured as it is."""

    class Learner:
        def __init__(self) -> None:
            self.saw: list[tuple[int, int, float]] = []

        def learn(
            self, state: RunState, split: PairDataset, before: Measured, *, step: int, epoch: int
        ) -> tuple[dict[str, Any], Measured]:
            assert len(split) and state.notes["best"] == 0.5
            score = before.result["text_to_image"]["mean_recall"]
            self.saw.append((step, epoch, score))
            record = {"round": 0, "decision": "kept", "why": "it gained", "metric": "mAP", "steps": []}
            return {**record, "taught": None, "others": None, "canary": None}, measured(score + 0.3)

        def finish(self) -> None:
            raise AssertionError("that is for whoever runs the training")

    learner = Learner()
    run = watched([0.5, 0.4], learner=learner)
    run.validate(0)
    run.validate(3)
    assert learner.saw == [(3, 1, 0.4)]
    assert run.state.notes["best"] == pytest.approx(0.7) and best_step(run.run) == 3
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = [(row["kind"], row["step"]) for row in rows if row["kind"] != "start"]
    assert kinds == [("valid", 0), ("valid", 3), ("online", 3), ("valid", 3)]
