"""TensorBoard events through TensorBoard's own reader, and Weights & Biases through a fake of its package."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cnclip.errors import InputError
from cnclip.training.records import Records, read_rows
from tests.cnclip.training.test_records import RESULT, SETTINGS, record


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record(tmp_path, range(1, 7), tensorboard=True)
    with Records(tmp_path, settings=SETTINGS, resume_step=4) as records:
        records.train(5, 1, {"loss": 50.0})
        records.valid(5, 1, RESULT)
        records.note(5, "a note")
    found = scalars(tmp_path / "tensorboard")
    assert dict(found["train/loss"]) == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25, 5: 50.0})
    assert len(found["train/loss"]) == 5
    assert found["valid/text_to_image/R@1"] == [(5, 0.5)]
    assert found["valid/n_gallery"] == [(5, 9.0)]
    assert "valid/model" not in found


def test_tensorboard_forgets_a_run_that_starts_over(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record(tmp_path, range(1, 5), tensorboard=True)
    record(tmp_path, range(1, 2), tensorboard=True)
    assert scalars(tmp_path / "tensorboard")["train/loss"] == [(1, 1.0)]


def test_without_tensorboard_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    caplog.set_level(logging.INFO)
    record(tmp_path, range(1, 2), tensorboard=True)
    assert [message for message in caplog.messages if "TensorBoard" in message] == caplog.messages
    assert ".[train]" in caplog.text
    assert len(read_rows(tmp_path / "metrics.jsonl")[0]) == 2


class FakeWandb(ModuleType):
    """Keeps what it is told; `reachable` false makes it fail as wandb does without a network."""

    class Error(Exception):
        """As wandb.Error."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.reachable, self.started, self.logged, self.finished = True, [], [], 0  # type: ignore[var-annotated]

    def init(self, **options: Any) -> SimpleNamespace:
        if not self.reachable and options.get("mode") != "offline":
            raise self.Error("no network\nat all")
        if not self.reachable:
            assert options["id"] not in [started["id"] for started in self.started]
        self.started.append(options)
        return SimpleNamespace(
            log=lambda values, step: self.logged.append((step, values)), finish=self._finish
        )

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    yield module
    assert module.finished == len(module.started)


def test_wandb_gets_the_same_numbers(tmp_path: Path, wandb: FakeWandb) -> None:
    with Records(tmp_path / "muge", settings=SETTINGS, tensorboard=False, wandb_project="shop") as records:
        records.train(1, 1, {"loss": 2.0})
        records.valid(1, 1, RESULT)
        records.note(1, "注意")
    (options,) = wandb.started
    assert (options["project"], options["name"], options["dir"]) == ("shop", "muge", str(tmp_path / "muge"))
    assert options["config"] == {"lr": 5e-5, "name": "商品", "data": "/d", "max_steps": None}
    assert wandb.logged[0] == (1, {"train/loss": 2.0})
    assert wandb.logged[1][1]["valid/image_to_text/R@1"] == 0.25
    assert wandb.logged[2] == (1, {"note": "注意"})


def test_a_resumed_run_is_the_same_in_wandb(tmp_path: Path, wandb: FakeWandb) -> None:
    record(tmp_path, range(1, 3), wandb_project="p")
    record(tmp_path, range(3, 4), wandb_project="p", resume_step=2)
    record(tmp_path, range(1, 2), wandb_project="p")
    first, resumed, over = (options["id"] for options in wandb.started)
    assert first == resumed != over


def test_wandb_goes_offline_by_itself(
    tmp_path: Path, wandb: FakeWandb, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.reachable = False
    record(tmp_path, range(1, 3), wandb_project="p")
    assert [options["mode"] for options in wandb.started] == ["offline"]
    assert [step for step, _ in wandb.logged] == [1, 2]
    assert [m for m in caplog.messages if "offline" in m] == [
        "wandb: no network\\nat all; this run is recorded offline"
    ]


def test_wandb_ends_when_the_records_cannot_be_written(tmp_path: Path, wandb: FakeWandb) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be"):
        record(tmp_path, range(0), wandb_project="p")
    assert len(wandb.started) == 1  # and finished, see the fixture


def test_a_missing_wandb_names_the_extra_and_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, range(1, 3))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=re.escape("pip install -c constraints.txt -e '.[wandb]'")):
        record(tmp_path, range(0), wandb_project="p")
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
