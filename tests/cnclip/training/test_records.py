"""What a run writes down, read back with the json module, TensorBoard's own reader and a fake wandb."""

from __future__ import annotations

import errno
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cnclip.errors import InputError
from cnclip.training.records import Records, hardware, log_file, read_rows, write_params
from cnclip.training.step_times import StepTimes, peak_memory_mib

SETTINGS = {"lr": 5e-5, "name": "商品", "data": Path("/d"), "max_steps": None}
RESULT: dict[str, Any] = {
    "text_to_image": {"R@1": 0.5, "mean_recall": 0.6},
    "image_to_text": {"R@1": 0.25, "mean_recall": 0.3},
    "n_queries": 4,
    "n_gallery": 9,
    "model": "lite",
}


def rows(folder: Path) -> list[dict[str, Any]]:
    """By a strict reader: no NaN, every line whole."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def record(folder: Path, steps: range, **options: Any) -> None:
    with Records(folder, settings=SETTINGS, **{"tensorboard": False, **options}) as records:
        for step in steps:
            records.train(step, 1, {"loss": 1 / step, "lr": 5e-8})


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    with Records(tmp_path / "run", settings=SETTINGS, tensorboard=False) as records:
        records.valid(0, 0, RESULT)
        records.train(10, 1, {"loss": float("nan"), "lr": 5e-8, "norm": np.float32(1.5)})
        records.note(10, "召回率 \udcff下降\n")
        assert len(rows(tmp_path / "run")) == 4  # nothing waits in a buffer
    start, valid, train, note = rows(tmp_path / "run")
    assert (start["kind"], start["step"], start["hardware"]) == ("start", 0, hardware())
    assert (valid["kind"], valid["step"], valid["epoch"], valid["result"]) == ("valid", 0, 0, RESULT)
    assert train == {
        **{"time": train["time"], "kind": "train", "step": 10, "epoch": 1},
        **{"loss": None, "lr": 5e-8, "norm": 1.5},
    }
    assert (note["kind"], note["text"]) == ("note", "召回率 \udcff下降\n")
    assert "召回率".encode() in (tmp_path / "run" / "metrics.jsonl").read_bytes()
    times = [row["time"] for row in (start, valid, train, note)]
    assert times == sorted(times)
    assert times[0] > 1.7e9


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    record(tmp_path, range(1, 8))
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    record(tmp_path, range(5, 7), resume_step=4)
    found = rows(tmp_path)
    assert [(row["kind"], row["step"]) for row in found] == [
        *[("start", 0), ("train", 1), ("train", 2), ("train", 3), ("train", 4)],
        *[("start", 4), ("train", 5), ("train", 6)],
    ]
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines()[:5] == before[:5]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "tail", [b'{"time": 1, "kind": "tra', b"\x00\x00\xff", b'{"kind": "train"}', b"[1]\n", b'"a"']
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    record(tmp_path, range(3, 4), resume_step=2)
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2, 2, 3]
    assert "1 lines could not be read" in caplog.text


def test_a_run_that_starts_over_has_records_of_its_own(tmp_path: Path) -> None:
    record(tmp_path, range(1, 3))
    record(tmp_path, range(1, 2))
    assert [(row["kind"], row["step"]) for row in rows(tmp_path)] == [("start", 0), ("train", 1)]


def test_unwritable_folders_and_full_disks_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written"):
        record(tmp_path / "file" / "run", range(0))

    def full_disk(line: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    records = Records(tmp_path, settings={}, tensorboard=False)
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written \(No space left"), records:
        monkeypatch.setattr(records, "_file", SimpleNamespace(write=full_disk))
        records.train(1, 1, {})


def test_a_line_that_is_taken_in_pieces_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = bytearray()

    def three_bytes(line: bytes) -> int:
        written.extend(line[:3])
        return min(3, len(line))

    with Records(tmp_path, settings={}, tensorboard=False) as records:
        monkeypatch.setattr(records, "_file", SimpleNamespace(write=three_bytes))
        records.note(1, "piece by piece")
    assert json.loads(written)["text"] == "piece by piece"


def test_reading_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "metrics.jsonl")


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
    losses = [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25), (5, 50.0)]
    assert found["train/loss"] == pytest.approx(losses)
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
    assert len(rows(tmp_path)) == 2


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


def test_the_log_file_reads_as_chinese_clips(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    with pytest.raises(KeyError), log_file(tmp_path / "run") as path:
        logging.getLogger("cnclip.some").info("Global Steps: %d/%d", 1, 2)
        logging.getLogger("cnclip.some").debug("too fine")
        logging.getLogger("other").warning("红 \udcff")
        raise KeyError("an end that was not planned")
    logging.getLogger("cnclip.some").warning("after")
    assert (root.handlers, root.level) == (before, level)
    assert re.fullmatch(r"out_\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.log", path.name)
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d \| INFO \| Rank 0 \| Global Steps: 1/2", first)
    assert second.endswith(r" | WARNING | Rank 0 | 红 \udcff")


def test_params_are_sorted_lines(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"wd": 0.001, "name": "商品\nx", "lr": 5e-5, "resume": None})
    assert re.fullmatch(r"params_\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.txt", path.name)
    assert path.read_text(encoding="utf-8") == "lr: 5e-05\nname: 商品\\nx\nresume: None\nwd: 0.001\n"


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


def test_peak_memory_of_the_process_grows_with_it() -> None:
    before = peak_memory_mib(torch.device("cpu"))
    assert before is not None
    block = torch.ones(int(before) + 64, 2**18)  # 1 MiB a row
    after = peak_memory_mib(torch.device("cpu"))
    assert after is not None
    assert after >= len(block) > before


def test_an_accelerator_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def max_memory_allocated(device: torch.device) -> int:
        asked.append(device)
        return 3 * 2**20

    module = SimpleNamespace(max_memory_allocated=max_memory_allocated)
    monkeypatch.setattr(torch, "get_device_module", {torch.device("cuda", 1): module}.get)
    assert peak_memory_mib(torch.device("cuda", 1)) == 3.0
    assert asked == [torch.device("cuda", 1)]
