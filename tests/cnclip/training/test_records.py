"""What a run writes down, read back with the json module."""

from __future__ import annotations

import errno
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnclip.errors import InputError
from cnclip.training.records import Records, hardware, log_file, read_rows, write_params

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

    def full_disk(_: bytes) -> int:
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
