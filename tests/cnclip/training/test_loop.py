from __future__ import annotations

import contextlib
import shutil
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
from cnclip.model.save import save_safetensors
from cnclip.model.weights import load_model
from cnclip.training.data import PairBatches
from cnclip.training.loop import FitConfig, Progress, fit
from cnclip.training.main import contrastive_objective
from cnclip.training.step import Batch, Precision

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

    def objective(model: DualEncoder, batch: Batch) -> dict[str, torch.Tensor]:
        if len(seen) + first == steps - 1 and steps < total:
            signal.raise_signal(signal.SIGINT)  # Ctrl-C in the middle of a step
        return contrastive_objective(model, batch)

    source = PairBatches(dataset, model.config.preprocess, 8, 16, use_augment=True, seed=5)
    config = FitConfig(total, 1e-3, warmup=2, log_every=1, seed=11)
    with contextlib.suppress(KeyboardInterrupt):
        fit(
            model,
            source,
            objective,
            config,
            Precision(),
            checkpoint=checkpoint,
            settings=settings,
            on_log=seen.append,
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


def test_batches_know_every_label(colour_data: Path, tiny_model: Build) -> None:
    """Relevance against the definition: j describes i if any row with j's text lists i's picture."""
    dataset = PairDataset.from_muge(colour_data, "train")
    source = PairBatches(dataset, tiny_model().config.preprocess, 12, 16)
    labels = {(i, row.text) for row in dataset.texts for i in row.image_ids}
    texts = {row.text_id: row.text for row in dataset.texts}
    batches = source.iterate(0)
    for _ in range(3):
        batch = next(batches)
        expected = [[(i, texts[t]) in labels for t in batch["text_id"]] for i in batch["image_id"]]
        assert batch["relevance"].tolist() == expected
        assert batch["relevance"].diagonal().all() and batch["relevance"].sum() > 12
        assert batch["image"].shape == (12, 3, 32, 32) and batch["text"].dtype == torch.int64


def test_an_epoch_shows_each_pair_once_and_can_start_anywhere(
    colours: PairDataset, tiny_model: Build
) -> None:
    source = PairBatches(colours, tiny_model().config.preprocess, 8, 16, use_augment=True)
    stream = source.iterate(0)
    batches = [next(stream) for _ in range(6)]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(i for b in epoch for i in b["image_id"]) == sorted(colours.image_ids)
    assert batches[0]["image_id"] != batches[3]["image_id"]
    later = next(source.iterate(4))
    assert later["image_id"] == batches[4]["image_id"] and torch.equal(later["image"], batches[4]["image"])


def test_too_few_pairs_is_said(colours: PairDataset, tiny_model: Build) -> None:
    with pytest.raises(InputError, match="24 pairs, fewer than the batch size 64"):
        PairBatches(colours, tiny_model().config.preprocess, 64)


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


def test_a_broken_picture_is_left_out_and_named(
    colour_data: Path, tiny_model: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (colour_data / "train_imgs.tsv").read_text(encoding="utf-8").splitlines()
    image_id, data = rows[3].split("\t")
    rows[3] = f"{image_id}\t{data[: len(data) // 8 * 4]}"  # half a JPEG
    (tmp_path / "train_imgs.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    shutil.copy(colour_data / "train_texts.jsonl", tmp_path)
    source = PairBatches(PairDataset.from_muge(tmp_path, "train"), tiny_model().config.preprocess, 8, 16)
    stream = source.iterate(0)
    with caplog.at_level("WARNING"):
        batches = [next(stream) for _ in range(6)]
    assert sorted(len(b["image_id"]) for b in batches) == [7, 7, 8, 8, 8, 8]
    assert all(
        image_id not in b["image_id"] and b["relevance"].shape == (len(b["image"]),) * 2 for b in batches
    )
    assert [
        r.getMessage() for r in caplog.records if f"picture {image_id}: " in r.getMessage()
    ] == caplog.messages
    assert len(caplog.messages) == 1


def test_fine_tune_from_the_command_line(
    tiny_model: Build, colour_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that knows nothing learns four colours; its files load again; a second call resumes."""
    from cnclip.data.lmdb_build import build_lmdb
    from run_scripts.cli import main

    build_lmdb(colour_data, ["train"], tmp_path / "lmdb")
    save_safetensors(tiny_model(), tmp_path / "start.safetensors")
    split = str(tmp_path / "lmdb" / "train")
    command = (
        f"train --train-data {split} --val-data {split} --model {tmp_path}/start.safetensors "
        f"--logs {tmp_path}/logs --name run --batch-size 12 --max-epochs 60 --lr 0.002 --warmup 10 "
        "--save-step-frequency 40 --valid-step-interval 40 --precision fp32 --num-workers 0 --device cpu"
    ).split()
    assert main(command) == 0
    from cnclip.evaluation.evaluator import evaluate
    from cnclip.model.encoder import Encoder

    run_dir = tmp_path / "logs" / "run"
    for file in (run_dir / "best.safetensors", run_dir / "checkpoints" / "epoch_latest.pt"):
        model = load_model(file)
        result = evaluate(Encoder(model, name="x", fingerprint=""), PairDataset(split))
        assert result["text_to_image"]["R@1"] == 1.0 and result["text_to_image"]["mAP"] > 0.95, file
    before = (run_dir / "checkpoints" / "epoch_latest.pt").stat().st_mtime_ns
    assert main(command) == 0  # nothing left to do
    assert (run_dir / "checkpoints" / "epoch_latest.pt").stat().st_mtime_ns == before
    assert main([*command[:-2], "--device", "toaster"]) == 2
    assert main([*command, "--batch-size", "0"]) == 2
    assert "--batch-size: " in capsys.readouterr().err
