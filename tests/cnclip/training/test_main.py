"""Whole fine-tunes of a tiny model on colours, by the command line that users type."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cnclip.data.dataset import PairDataset
from cnclip.evaluation.evaluator import evaluate
from cnclip.model.encoder import Encoder
from cnclip.model.save import save_pt
from cnclip.model.weights import load_model
from cnclip.training.cli import main
from tests.cnclip.training.conftest import build_tiny_model

ROOT = Path(__file__).parents[3]


def weights(run: Path) -> dict[str, Tensor]:
    """Of the newest checkpoint."""
    saved = torch.load(run / "checkpoints" / "epoch_latest.pt", weights_only=True)
    found: dict[str, Tensor] = saved["state_dict"]
    return found


def text_of_log(run: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(run.glob("out_*.log")))


def test_a_model_that_knows_nothing_learns_four_colours(
    command: list[str], split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "logs" / "run"
    options = "--max-epochs 60 --save-step-frequency 40 --save-epoch-frequency 30 --report-training-batch-acc"
    assert main([*command, *options.split()]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run)
    for file in (run / "best.safetensors", run / "checkpoints" / "epoch_latest.pt"):
        result = evaluate(Encoder(load_model(file), name="x", fingerprint=""), PairDataset(split))
        assert result["text_to_image"]["R@1"] == 1.0 and result["text_to_image"]["mAP"] > 0.95, file
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    steps = [f"epoch_{(40 * i - 1) // 3 + 1}_{40 * i}.pt" for i in range(1, 5)]
    assert kept == sorted(["epoch30.pt", "epoch60.pt", "epoch_latest.pt", *steps])
    assert {"curves.png", "report.html", "metrics.jsonl"} <= {path.name for path in run.iterdir()}
    assert "batch_size: 8\n" in next(run.glob("params_*.txt")).read_text()
    log = text_of_log(run)
    number = r"\d+\.\d+"
    assert re.search(
        rf"Global Steps: 180/180 \| Train Epoch: 60 \[24/24 \(100%\)\] \| Loss: {number} \| "
        rf"Image2Text Acc: {number} \| Text2Image Acc: {number} \| Data Time: {number}s \| "
        rf"Batch Time: {number}s \| LR: {number} \| logit_scale: {number} \| Global Batch Size: 8",
        log,
    )
    assert re.search(rf"Validation Result \(epoch 60 @ 180 steps\) \| Valid Loss: {number} \|", log)
    assert "Full Gallery (epoch 0 @ 0 steps)" in log and "Full Gallery (epoch 60 @ 180 steps)" in log
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "train"] == list(range(1, 181))
    assert [r["step"] for r in rows if r["kind"] == "valid"] == list(range(0, 181, 3))
    before = (run / "checkpoints" / "epoch_latest.pt").stat().st_mtime_ns
    assert main([*command, *options.split()]) == 0  # nothing left to do
    assert (run / "checkpoints" / "epoch_latest.pt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(command: list[str], tmp_path: Path) -> None:
    """kill -9 somewhere after a checkpoint, dropout and augmentation on, decoding in workers."""
    command += "--max-steps 24 --save-step-frequency 4 --save-epoch-frequency -1 --use-augment".split()
    command[command.index("--num-workers") + 1] = "1"
    assert main([*command, "--name", "whole"]) == 0
    arguments = [sys.executable, "-m", "cnclip.training", *command, "--name", "killed"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Global Steps: 10/24" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    killed = tmp_path / "logs" / "killed"
    saved = torch.load(killed / "checkpoints" / "epoch_latest.pt", weights_only=True)
    assert 8 <= saved["step"] < 24
    assert main([*command, "--name", "killed"]) == 0
    whole = weights(tmp_path / "logs" / "whole")
    for name, value in weights(killed).items():
        assert torch.equal(value, whole[name]), name
    rows = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "train"] == list(range(1, 25))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_write_one_run(command: list[str], tmp_path: Path, sharded: bool) -> None:
    options = "--max-steps 6 --valid-step-interval 3".split()
    alone = [*command, *options, "--name", "alone", "--accum-freq", "2", "--batch-size", "4"]
    assert main(alone) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*command, *options, "--name", "two", "--batch-size", "4", *(["--fsdp"] if sharded else [])]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "-m", "--", "cnclip.training", *two],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = tmp_path / "logs" / "alone", tmp_path / "logs" / "two"
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=0, atol=1e-4)
    assert len(list(other.glob("out_*.log"))) == 1 and text_of_log(other).count("Global Steps: 6/6") == 1
    scores = []
    for run in (one, other):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        scores.append([r["result"]["text_to_image"]["mAP"] for r in rows if r["kind"] == "valid"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3) and len(scores[0]) == 3


def test_resume_of_another_run(command: list[str], tmp_path: Path) -> None:
    """--resume with and without the resets; decay and Adam's constants are the new run's."""
    at = command.index("--model")
    model = command[at : at + 2]
    assert main([*command, "--max-steps", "4", "--name", "first"]) == 0
    first = tmp_path / "logs" / "first" / "checkpoints" / "epoch_latest.pt"
    before = torch.load(first, weights_only=True)
    command += ["--resume", str(first), "--lr", "1e-12", "--wd", "0.5", "--max-steps", "6"]
    assert main([*command, "--name", "on"]) == 0
    on = torch.load(tmp_path / "logs" / "on" / "checkpoints" / "epoch_latest.pt", weights_only=True)
    assert on["step"] == 6 and {g["weight_decay"] for g in on["optimizer"]["param_groups"]} == {0.0, 0.5}
    assert {int(state["step"]) for state in on["optimizer"]["state"].values()} == {6}
    for name, value in before["state_dict"].items():
        torch.testing.assert_close(on["state_dict"][name], value, rtol=0, atol=1e-6)
    reset = ["--reset-optimizer", "--reset-data-offset", "--max-steps", "1"]
    assert main([*command, *reset, "--name", "anew"]) == 0
    anew = torch.load(tmp_path / "logs" / "anew" / "checkpoints" / "epoch_latest.pt", weights_only=True)
    assert anew["step"] == 1 and {int(s["step"]) for s in anew["optimizer"]["state"].values()} == {1}
    weights_only = tmp_path / "logs" / "first" / "best.safetensors"
    assert main([*command, *reset, "--resume", str(weights_only), "--name", "weights"]) == 0
    del command[at : at + 2]
    assert main([*command, "--name", "wrong"]) == 2  # a tiny model is no ViT-B-16
    assert main([*command, *model, "--optimizer", "lamb", "--name", "lamb"]) == 2  # other moments
    again = [*command, *reset, "--name", "anew", "--max-steps", "2", *model]
    del again[again.index("--resume") : again.index("--resume") + 2]
    assert main(again) == 0  # a run knows what it started from


def test_cut_texts_are_said_once(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "--context-length", "3", "--max-steps", "4", "--skip-initial-validation"]) == 0
    assert text_of_log(tmp_path / "logs" / "run").count("texts cut to 3 tokens") == 1


def test_resume_wins_over_model(command: list[str], tmp_path: Path) -> None:
    """A recipe may name a model; the checkpoint that the user names beside it is what counts."""
    model = build_tiny_model()
    with torch.no_grad():
        model.text_projection.fill_(7.0)
    save_pt(model, tmp_path / "given.pt")
    reset = ["--resume", str(tmp_path / "given.pt"), "--reset-optimizer", "--reset-data-offset"]
    assert main([*command, *reset, "--max-steps", "1", "--lr", "1e-12"]) == 0
    assert weights(tmp_path / "logs" / "run")["module.text_projection"].mean() == pytest.approx(7.0)
