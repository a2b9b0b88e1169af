"""The recipes: the settings each one ends up with, and one of them run to the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnclip.training import cli
from cnclip.training.config import TrainConfig
from cnclip.training.config_file import build_config, read_yaml
from tests.run_scripts.clone import ROOT, Clone, make_clone

B16 = {"vision_model": "ViT-B-16", "text_model": "RoBERTa-wwm-ext-base-chinese", "context_length": 52}
MUGE = {
    **B16,
    **{"batch_size": 128, "valid_batch_size": 128, "lr": 5e-5, "wd": 0.001, "warmup": 100, "max_epochs": 3},
    **{"valid_step_interval": 150, "valid_epoch_interval": 1, "accum_freq": 1, "use_augment": True},
    **{"log_interval": 1, "report_training_batch_acc": True, "save_epoch_frequency": 1},
}
# What Chinese-CLIP's, Online-CNCLIP's and ZeroVL's own scripts and files say, and what the rest is made for
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("MUGE", {**MUGE, "context_length": 24, "max_epochs": 30, "valid_step_interval": 500}),
    "muge_finetune_vit-b-16_rbt-base": ("MUGE", {**MUGE, "mask_ratio": 0}),
    "muge_finetune_vit-b-16_rbt-base_flip": ("MUGE", {**MUGE, "mask_ratio": 0.5}),
    "muge_finetune_vit-b-16_rbt-base_distillation": (
        "MUGE",
        {**MUGE, "distillation": True, "teacher_model_name": "ViT-L-14", "kd_loss_weight": 0.5},
    ),
    "flickr30k_finetune_vit-b-16_rbt-base": ("Flickr30k-CN", MUGE),
    "flickr30k_finetune_vit-b-16_rbt-base_flip": ("Flickr30k-CN", {**MUGE, "mask_ratio": 0.5}),
    "coco-cn_finetune_vit-b-16_rbt-base": (
        "COCO-CN",
        {
            **{**MUGE, "batch_size": 1024, "lr": 3e-5, "warmup": 6, "max_epochs": 20},
            **{"valid_step_interval": None, "grad_checkpointing": True},
        },
    ),
    "zerovl_pretrain_vit-b-16_bert-base": (
        "SBU",
        {
            **{"sampler": "debias", "mixup_beta": 0.1, "temperature": 0.02, "gather_with_grad": True},
            **{"loss": "info-nce", "batch_size": 128, "accum_freq": 16, "lr": 1e-4, "beta1": 0.9},
            **{"beta2": 0.98, "eps": 1e-6, "wd": 0.001, "max_epochs": 20, "warmup_proportion": 0.025},
            **{"lr_floor": 0.1, "context_length": 25, "projection_dim": 512, "use_augment": True},
        },
    ),
    "coco_train_clip-roberta": (
        "COCO-CN",
        {
            **{"loss": "info-nce", "batch_size": 64, "lr": 5e-5, "beta2": 0.999, "eps": 1e-8, "wd": 0.1},
            **{"warmup": 0, "max_epochs": 3},
        },
    ),
    "shop_finetune_lite": ("shop", {"model": "lite", "use_augment": True, "augment": "light"}),
    "tiny_train_vit": ("shapes", {"vision_model": "ViT-tiny-16", "text_model": "RBT-tiny-chinese"}),
}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return make_clone(tmp_path)


def settings_of(command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> TrainConfig:
    """The settings of the command that a script starts."""
    start = command.index("train") + 1
    assert cli.main([*command[start:], "--print-config"]) == 0
    (tmp_path / "settings.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    return build_config(read_yaml(tmp_path / "settings.yaml"))


def test_every_recipe_is_listed() -> None:
    others = {"env", "test", "quickstart", "lite"}
    assert {path.stem for path in (ROOT / "run_scripts").glob("*.sh")} - others >= set(RECIPES)
    files = {path.stem for path in (ROOT / "run_scripts" / "recipes").glob("*.yaml")}
    assert files == {name for name in RECIPES if not name.endswith(("_flip", "_distillation"))}


@pytest.mark.parametrize("name", RECIPES)
def test_settings(clone: Clone, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    dataset, expected = RECIPES[name]
    made = settings_of(clone.command(f"{name}.sh"), capsys, tmp_path)
    assert {field: getattr(made, field) for field in expected} == expected
    data = clone.data.resolve()
    assert made.train_data[0] == data / "datasets" / dataset / "lmdb" / "train"
    assert made.logs == data / "experiments"
    changed = settings_of(clone.command(f"{name}.sh", "--wd=0.5", NAME="other"), capsys, tmp_path)
    assert (changed.wd, changed.name) == (0.5, "other")


def test_runs_do_not_share_a_folder(clone: Clone, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = [settings_of(clone.command(f"{name}.sh"), capsys, tmp_path).name for name in RECIPES]
    assert len(set(names)) == len(names)


def test_two_encoders_are_folders_in_datapath(
    clone: Clone, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = settings_of(clone.command("coco_train_clip-roberta.sh"), capsys, tmp_path)
    assert made.vision_model == f"hf:{clone.data}/pretrained_weights/clip-vit-base-patch32"
    assert made.text_model == f"hf:{clone.data}/pretrained_weights/chinese-roberta-wwm-ext"
    own = clone.command("coco_train_clip-roberta.sh", VISION_MODEL="hf:/v", TEXT_MODEL="RBT3-chinese")
    assert {"--vision-model=hf:/v", "--text-model=RBT3-chinese"} < set(own)
    zero = settings_of(clone.command("zerovl_pretrain_vit-b-16_bert-base.sh"), capsys, tmp_path)
    assert [folder.parts[-3] for folder in zero.train_data] == ["SBU", "CC3M"]
    assert zero.val_data is None  # COCO-CN is not there


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"GPUS_PER_NODE": "1"}, []),
        ({"GPUS_PER_NODE": "8"}, ["--standalone", "--nproc_per_node=8"]),
        (
            {"GPUS_PER_NODE": "8", "WORKER_CNT": "4", "RANK": "3", "MASTER_ADDR": "h"},
            ["--nproc_per_node=8", "--nnodes=4", "--node_rank=3", "--master_addr=h", "--master_port=8514"],
        ),
    ],
)
def test_one_device_eight_devices_a_cluster(
    clone: Clone, settings: dict[str, str], expected: list[str]
) -> None:
    command = clone.command("coco_train_clip-roberta.sh", **settings)
    end = command.index("run_scripts.cli")
    assert command[:end] == (["-m", "torch.distributed.run", *expected, "-m", "--"] if expected else ["-m"])


def test_help_of_every_recipe(clone: Clone) -> None:
    for name in RECIPES:
        answer = clone.run(f"{name}.sh", "--help")
        assert (answer.returncode, answer.stderr) == (0, ""), name
        assert "bash run_scripts/" in answer.stdout


@pytest.mark.slow
def test_tiny_training_from_nothing(clone: Clone) -> None:
    folder = clone.data / "new"
    answer = clone.run("tiny_train_vit.sh", folder, REALLY="1", OMP_NUM_THREADS="1")
    assert answer.returncode == 0, answer.stderr
    run = folder / "experiments" / "tiny_train_vit"
    assert answer.stdout.splitlines()[-1] == str(run.resolve())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    scores = [row["result"]["text_to_image"]["mean_recall"] for row in rows if row["kind"] == "valid"]
    assert scores[0] < 0.2 and scores[-1] > 0.8, scores
    again = clone.run("tiny_train_vit.sh", folder, REALLY="1", OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert "building" not in again.stderr and "drawing" in again.stdout
