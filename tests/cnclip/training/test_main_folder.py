"""The folder of a run: what may go on in it, what is refused, what is kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from cnclip.data.lmdb_build import build_lmdb
from cnclip.training.cli import main


def text_of_log(run: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(run.glob("out_*.log")))


def test_one_run_at_a_time_in_a_folder(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = tmp_path / "logs" / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / ".epoch_latest.pt.0123abcd.tmp").write_bytes(b"half a checkpoint")
    with FileLock(tmp_path / "logs" / "run" / ".lock"):
        assert main([*command, "--max-steps", "1"]) == 2
    assert "another run is at work here" in capsys.readouterr().err
    assert main([*command, "--max-steps", "1"]) == 0
    kept = sorted(path.name for path in checkpoints.iterdir())
    assert kept == ["epoch1.pt", "epoch_latest.pt"]  # what a kill left is gone


def test_other_data_behind_the_same_path(
    command: list[str], colour_data: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(split, data)
    command += ["--train-data", str(data)]
    assert main([*command, "--max-steps", "1"]) == 0
    assert (
        main([*command, "--max-steps", "2", "--train-data", os.path.relpath(data)]) == 0
    )  # spelled otherwise
    changed = tmp_path / "changed"
    shutil.copytree(colour_data, changed)
    texts = (changed / "train_texts.jsonl").read_text(encoding="utf-8").replace("红色", "紫色")
    (changed / "train_texts.jsonl").write_text(texts, encoding="utf-8")
    shutil.rmtree(data)
    build_lmdb(changed, ["train"], tmp_path / "new")
    shutil.copytree(tmp_path / "new" / "train", data)
    assert main([*command, "--max-steps", "3"]) == 2
    assert "made with train_data = ['24 pairs, " in capsys.readouterr().err


def test_a_lost_best_file_comes_back(command: list[str], tmp_path: Path) -> None:
    best = tmp_path / "logs" / "run" / "best.safetensors"
    assert main([*command, "--max-steps", "1"]) == 0
    best.unlink()
    assert main([*command, "--max-steps", "2"]) == 0 and best.exists()


def test_unlabelled_validation_is_refused_before_the_first_step(
    command: list[str], colour_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    shutil.copy(colour_data / "train_imgs.tsv", folder / "valid_imgs.tsv")
    text = {"text_id": 1, "text": "红色", "image_ids": []}
    (folder / "valid_texts.jsonl").write_text(json.dumps(text) + "\n", encoding="utf-8")
    build_lmdb(folder, ["valid"], folder / "lmdb")
    unlabelled = str(folder / "lmdb" / "valid")
    assert main([*command, "--val-data", unlabelled, "--skip-initial-validation"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert unlabelled in message and "labelled" in message
    assert not (tmp_path / "logs" / "run" / "metrics.jsonl").exists()


def test_other_settings_in_the_same_folder(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command += ["--max-steps", "2"]
    assert main(command) == 0
    assert main([*command, "--lr", "0.5"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "made with lr = 0.002, this run says 0.5" in message and "--restart" in message
    assert main([*command, "--lr", "0.5", "--restart"]) == 0
    assert main([*command, "--lr", "0.5", "--max-steps", "4"]) == 0  # longer is no other run
    assert "resuming" in text_of_log(tmp_path / "logs" / "run")


def test_a_run_knows_what_model_it_is(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the weights it started from nor their towers need to be said again, and both may be."""
    at = command.index("--model")
    model, rest = command[at : at + 2], command[:at] + command[at + 2 :]
    assert main([*rest, *model, "--max-steps", "1"]) == 0
    assert main([*rest, "--max-steps", "2"]) == 0
    assert main([*rest, *model, "--max-steps", "3"]) == 0
    assert "vision_model: tiny\n" in max((tmp_path / "logs" / "run").glob("params_*.txt")).read_text()
    capsys.readouterr()
    assert main([*rest, "--max-steps", "4", "--vision-model", "ViT-B-16"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "made with vision_model = 'tiny', this run says 'ViT-B-16'" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--precision fp16", "--precision fp16 needs an accelerator"),
        ("--batch-size 25", "24 pairs"),
        ("--device toaster", "device 'toaster' is not available here"),
        ("--model nowhere.pt", "nowhere.pt"),
        ("--val-data /nowhere", "/nowhere"),
        ("--batch-size 0", "--batch-size"),
    ],
)
def test_one_clear_line(
    command: list[str], options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *options.split()]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last and "error:" in last


def test_harm_is_said_and_the_start_is_kept(command: list[str], tmp_path: Path) -> None:
    """First a good model, then a learning rate that ruins it."""
    run = tmp_path / "logs" / "run"
    assert main([*command, "--max-steps", "120"]) == 0
    good = run / "best.safetensors"
    ruin = [
        *command,
        "--model",
        str(good),
        "--name",
        "ruin",
        "--lr",
        "1.0",
        "--max-steps",
        "6",
        "--early-stop",
        "1",
    ]
    assert main(ruin) == 0
    assert "never got above its starting point" in text_of_log(tmp_path / "logs" / "ruin")
    assert "early stop: 1 validations" in text_of_log(tmp_path / "logs" / "ruin")
    with (
        safe_open(tmp_path / "logs" / "ruin" / "best.safetensors", "pt") as file,
        safe_open(good, "pt") as first,
    ):
        assert file.metadata()["step"] == "0"
        assert all(torch.equal(file.get_tensor(name), first.get_tensor(name)) for name in first.keys())  # noqa: SIM118
    newest = tmp_path / "logs" / "ruin" / "checkpoints" / "epoch_latest.pt"
    stopped = newest.stat().st_mtime_ns
    assert main(ruin) == 0 and newest.stat().st_mtime_ns == stopped  # an early stop is an end
    assert "<html" in (tmp_path / "logs" / "ruin" / "report.html").read_text(encoding="utf-8")
