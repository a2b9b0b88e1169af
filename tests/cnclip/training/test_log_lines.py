"""The log lines, read the way scripts around Chinese-CLIP read its logs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnclip.training.log_lines import (
    begin_line,
    gallery_line,
    learning_rate,
    saved_line,
    train_line,
    validation_line,
)

# As in a user's script: fields by name, numbers as digits and points.
TRAIN = re.compile(
    r"Global Steps: (?P<step>\d+)/(?P<total>\d+) \| "
    r"Train Epoch: (?P<epoch>\d+) \[(?P<done>\d+)/(?P<pairs>\d+) \((?P<percent>\d+)%\)\] \| "
    r"Loss: (?P<loss>[\d.]+) \| "
    r"(?:Image2Text Acc: (?P<i2t>[\d.]+) \| Text2Image Acc: (?P<t2i>[\d.]+) \| )?"
    r"Data Time: (?P<data>[\d.]+)s \| Batch Time: (?P<batch>[\d.]+)s \| LR: (?P<lr>[\d.]+) \| "
    r"logit_scale: (?P<scale>[\d.]+) \| Global Batch Size: (?P<size>\d+)"
)
VALID = re.compile(
    r"Validation Result \(epoch (\d+) @ (\d+) steps\) \| Valid Loss: ([\d.]+) \| Image2Text Acc: ([\d.]+) \| "
    r"Text2Image Acc: ([\d.]+) \| logit_scale: ([\d.]+) \| Valid Batch Size: (\d+)$"
)
TIMES = {"data_s": 0.0314, "batch_s": 0.4567}


def line(**changes: Any) -> str:
    given: dict[str, Any] = {
        "step": 1,
        "total_steps": 735,
        "steps_per_epoch": 245,
        "global_batch_size": 1024,
        "loss": 2.718281828,
        "lr": 5e-5,
        "logit_scale": 4.6052,
        "times": TIMES,
    }
    return train_line(**given | changes)


def test_the_line_of_the_contract_to_the_letter() -> None:
    assert line(accuracies=(0.5, 0.25)) == (
        "Global Steps: 1/735 | Train Epoch: 1 [1024/250880 (0%)] | Loss: 2.718282 | Image2Text Acc: 50.00 | "
        "Text2Image Acc: 25.00 | Data Time: 0.031s | Batch Time: 0.457s | LR: 0.000050 | "
        "logit_scale: 4.605 | Global Batch Size: 1024"
    )


def test_without_accuracies_they_are_left_out() -> None:
    found = TRAIN.fullmatch(line())
    assert found is not None
    assert found["i2t"] is None


@pytest.mark.parametrize(
    ("step", "epoch", "done", "percent"),
    [(1, 1, 1024, 0), (245, 1, 250880, 100), (246, 2, 1024, 0), (368, 2, 125952, 50), (735, 3, 250880, 100)],
)
def test_epoch_and_pairs_follow_from_the_step(step: int, epoch: int, done: int, percent: int) -> None:
    found = TRAIN.fullmatch(line(step=step))
    assert found is not None
    assert [int(found[key]) for key in ("epoch", "done", "pairs", "percent")] == [
        epoch,
        done,
        250880,
        percent,
    ]


@given(
    st.floats(0, 50),
    st.floats(1e-9, 1),
    st.floats(0, 4.6052),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.floats(0, 100),
    st.floats(0, 100),
)
def test_all_numbers_can_be_read_back(
    loss: float, lr: float, scale: float, accuracies: tuple[float, float], data: float, batch: float
) -> None:
    times = {"data_s": data, "batch_s": batch, "samples_per_s": 1.0}
    found = TRAIN.match(line(loss=loss, lr=lr, logit_scale=scale, accuracies=accuracies, times=times))
    assert found is not None
    assert float(found["loss"]) == pytest.approx(loss, abs=6e-7)
    assert float(found["lr"]) == pytest.approx(lr, rel=6e-4)
    assert float(found["scale"]) == pytest.approx(scale, abs=6e-4)
    assert float(found["i2t"]) == pytest.approx(100 * accuracies[0], abs=6e-3)
    assert float(found["t2i"]) == pytest.approx(100 * accuracies[1], abs=6e-3)
    assert float(found["data"]) == pytest.approx(data, abs=6e-4)
    assert float(found["batch"]) == pytest.approx(batch, abs=6e-4)
    assert found["size"] == "1024"


def test_our_fields_come_after_those_of_the_contract() -> None:
    more = {
        "forward_s": 0.1,
        "gather_s": 0.02,
        "backward_s": 0.2,
        "optimizer_s": 0.03,
        "samples_per_s": 2242.19,
        "peak_memory_mib": 5120.4,
    }
    assert line(times=TIMES | more) == line() + (
        " | Forward: 0.100s | Gather: 0.020s | Backward: 0.200s | Optimizer: 0.030s | Samples/s: 2242.2"
        " | Peak Memory: 5120 MiB"
    )


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        (5e-5, "0.000050"),
        (0.0005, "0.000500"),
        (5e-8, "0.00000005"),
        (1.23456e-7, "0.0000001235"),
        (4.9973e-5, "0.00004997"),
        (0.0, "0.000000"),
        (1.5, "1.500000"),
    ],
)
def test_a_learning_rate_never_vanishes(lr: float, expected: str) -> None:
    assert learning_rate(lr) == expected


def test_validation_lines() -> None:
    text = validation_line(
        epoch=1, step=150, loss=1.2345678, accuracies=(0.5, 0.4), logit_scale=4.5, batch_size=64
    )
    found = VALID.match(text)
    assert found is not None
    assert [float(x) for x in found.groups()] == [1, 150, 1.234568, 50, 40, 4.5, 64]
    assert begin_line(1, 150) == "Begin to eval on validation set (epoch 1 @ 150 steps)..."


def test_the_gallery_line_has_a_name_of_its_own() -> None:
    metrics = {"R@1": 0.1, "R@5": 0.2, "R@10": 0.3, "mean_recall": 0.2, "mAP": 0.15, "MRR": 0.2, "P@10": 0.1}
    better = {name: 2 * value for name, value in metrics.items()}
    result = {
        "text_to_image": metrics,
        "image_to_text": better,
        "n_queries": 141,
        "n_gallery": 812,
        "model": "m",
    }
    text = gallery_line(epoch=1, step=150, result=result)
    assert text == (
        "Full Gallery (epoch 1 @ 150 steps) | Text2Image R@1: 10.00 | Text2Image R@5: 20.00 | "
        "Text2Image R@10: 30.00 | Text2Image Mean Recall: 20.00 | Image2Text R@1: 20.00 | "
        "Image2Text R@5: 40.00 | Image2Text R@10: 60.00 | Image2Text Mean Recall: 40.00 | "
        "Queries: 141 | Gallery: 812"
    )
    assert "Validation Result" not in text
    assert "Acc:" not in text  # what a script takes for in-batch accuracy


def test_the_saved_line() -> None:
    text = saved_line(Path("logs/a/checkpoints/epoch1.pt"), epoch=1, step=245, seconds=1.23456)
    pattern = r"Saved checkpoint (\S+) \(epoch (\d+) @ (\d+) steps\) \(writing took ([\d.]+) seconds\)"
    found = re.fullmatch(pattern, text)
    assert found is not None
    assert found.groups() == ("logs/a/checkpoints/epoch1.pt", "1", "245", "1.235")
    assert "\n" not in saved_line(Path("a\nb"), epoch=1, step=1, seconds=0)
