"""train.sh: which command it starts from its settings, its flags, and what lies in DATAPATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.run_scripts.clone import ROOT, Clone, make_clone

WEIGHTS = {
    "clip_cn_vit-b-16.pt": ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese"),
    "clip_cn_vit-l-14.pt": ("ViT-L-14", "RoBERTa-wwm-ext-base-chinese"),
    "clip_cn_vit-l-14-336.pt": ("ViT-L-14-336", "RoBERTa-wwm-ext-base-chinese"),
    "clip_cn_vit-h-14.pt": ("ViT-H-14", "RoBERTa-wwm-ext-large-chinese"),
    "clip_cn_rn50.pt": ("RN50", "RBT3-chinese"),
}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return make_clone(tmp_path)


def test_the_plain_command(clone: Clone) -> None:
    clone.add_lmdb("MUGE", "train", "valid")
    data = clone.data.resolve()
    assert clone.command() == [
        *("-m", "run_scripts.cli", "train"),
        f"--config={clone.folder.resolve()}/run_scripts/recipes/train.yaml",
        f"--logs={data}/experiments",
        f"--train-data={data}/datasets/MUGE/lmdb/train",
        f"--val-data={data}/datasets/MUGE/lmdb/valid",
    ]


def test_settings_become_flags(clone: Clone) -> None:
    settings = {
        **{"NAME": "a b", "BATCH_SIZE": "32", "VALID_BATCH_SIZE": "8", "ACCUM_FREQ": "2", "LR": "1e-3"},
        **{"CONTEXT_LENGTH": "52", "WD": "0.2", "WARMUP": "5", "MAX_EPOCHS": "2", "MAX_STEPS": "9"},
        **{"VALID_STEP_INTERVAL": "7", "VALID_EPOCH_INTERVAL": "2", "PRECISION": "fp32"},
        **{"USE_AUGMENT": "false", "NUM_WORKERS": "0", "MASK_RATIO": "0.5", "VISION_MODEL": "RN50"},
        **{"TEXT_MODEL": "RBT3-chinese", "LOGS": "/some where", "TRAIN_DATA": "/a,/b", "VAL_DATA": "None"},
        **{"DISTILLATION": "true", "TEACHER_MODEL_NAME": "ViT-L-14"},
    }
    expected = {f"--{name.lower().replace('_', '-')}={value}" for name, value in settings.items()}
    assert expected < set(clone.command(**settings))


def test_flags_come_last_and_win(clone: Clone) -> None:
    command = clone.command("train.sh", "--lr", "2", "--no-use-augment", LR="1")
    assert command[-3:] == ["--lr", "2", "--no-use-augment"]
    printed = clone.run("train.sh", clone.data, "--print-config", "--lr", "2", LR="1", GPUS_PER_NODE="1")
    lines = printed.stdout.splitlines()
    assert "lr: 2.0" in lines and "max_epochs: 30" in lines
    other = clone.command("train.sh", "--train_data=/x", "--val-data", "None")
    assert [word for word in other if "train" in word and "data" in word] == ["--train_data=/x"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"FAKE_DEVICES": "0"}, []),
        ({"FAKE_DEVICES": "1"}, []),
        ({"FAKE_DEVICES": "4"}, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]),
        ({"GPUS_PER_NODE": "0", "FAKE_DEVICES": "4"}, []),
        ({"GPUS_PER_NODE": "2"}, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]),
        (
            {"GPUS_PER_NODE": "8", "WORKER_CNT": "2", "RANK": "1", "MASTER_ADDR": "10.0.0.7"},
            [
                *("-m", "torch.distributed.run", "--nproc_per_node=8", "--nnodes=2", "--node_rank=1"),
                *("--master_addr=10.0.0.7", "--master_port=8514"),
            ],
        ),
        (
            {"GPUS_PER_NODE": "0", "WORKER_CNT": "2", "MASTER_ADDR": "h", "MASTER_PORT": "9"},
            [
                *("-m", "torch.distributed.run", "--nproc_per_node=1", "--nnodes=2", "--node_rank=0"),
                *("--master_addr=h", "--master_port=9"),
            ],
        ),
    ],
)
def test_devices_and_machines(clone: Clone, settings: dict[str, str], expected: list[str]) -> None:
    command = clone.command(**{"GPUS_PER_NODE": "", **settings})
    end = command.index("run_scripts.cli")
    assert command[:end] == ([*expected, "-m", "--"] if expected else ["-m"])
    assert command[end + 1] == "train"
    assert ("--device=cpu" in command) == (settings.get("GPUS_PER_NODE") == "0")


def test_variables_of_a_cluster_do_not_reach_the_processes(clone: Clone) -> None:
    clone.command(WORLD_SIZE="4", LOCAL_RANK="3", RANK="0")
    lines = (clone.folder / "surroundings").read_text(encoding="utf-8").splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert not {"WORLD_SIZE", "LOCAL_RANK", "RANK"} & names


@pytest.mark.parametrize(("name", "towers"), WEIGHTS.items())
def test_published_weights_of_the_towers_are_the_start(
    clone: Clone, name: str, towers: tuple[str, str]
) -> None:
    weights = clone.add_weights(name)
    command = clone.command(VISION_MODEL=towers[0], TEXT_MODEL=towers[1])
    expected = [f"--resume={weights.resolve()}", "--reset-data-offset", "--reset-optimizer"]
    assert command[-3:] == expected
    by_flag = clone.command("train.sh", "--vision-model", towers[0], "--text-model", towers[1])
    assert [word for word in by_flag if word in expected] == expected


def test_without_weights_it_says_so(clone: Clone) -> None:
    clone.add_weights("clip_cn_vit-l-14.pt")
    answer = clone.run("train.sh", clone.data, GPUS_PER_NODE="1")
    assert "starting from scratch: " in answer.stdout and "clip_cn_vit-b-16.pt is not there" in answer.stdout
    assert "cnclip models download ViT-B-16" in answer.stdout
    assert not any("--resume" in word for word in clone.command())


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ((), {"MODEL": "lite"}),
        (("--model", "lite"), {}),
        ((), {"TEXT_MODEL": "RBT3-chinese"}),
        ((), {"VISION_MODEL": "hf:/some/where"}),
        (("--clip-weight-path=x.pt",), {}),
    ],
)
def test_other_starts_leave_the_weights_alone(
    clone: Clone, flags: tuple[str, ...], settings: dict[str, str]
) -> None:
    clone.add_weights("clip_cn_vit-b-16.pt")
    assert not any("--resume" in word for word in clone.command("train.sh", *flags, **settings))


def test_the_embedded_towers_start_from_lite(clone: Clone) -> None:
    command = clone.command(VISION_MODEL="EfficientNet-Lite0")
    assert "--model=lite" in command
    assert not any(word.startswith(("--vision-model", "--text-model")) for word in command)
    other = clone.command(VISION_MODEL="EfficientNet-Lite0", TEXT_MODEL="RBT3-chinese")
    assert "--model=lite" not in other


def test_resume_is_taken_for_its_weights(clone: Clone) -> None:
    clone.add_weights("clip_cn_vit-b-16.pt")
    command = clone.command("train.sh", "--no-reset-optimizer", RESUME="/x.pt")
    assert command[-4:] == [
        "--resume=/x.pt", "--reset-data-offset", "--reset-optimizer", "--no-reset-optimizer",
    ]  # fmt: skip


def test_a_missing_lmdb_is_built_from_the_muge_files(clone: Clone) -> None:
    folder = clone.data.resolve() / "datasets" / "A"
    clone.add_lmdb("A", "valid")
    (folder / "train_imgs.tsv").touch()
    answer = clone.run("train.sh", clone.data, DATASET="A", GPUS_PER_NODE="1")
    assert answer.returncode == 0, answer.stderr
    assert f"building {folder}/lmdb/train" in answer.stderr
    builds = (clone.folder / "builds").read_text(encoding="utf-8")
    assert builds == f"-m run_scripts.cli build-lmdb --data-dir {folder} --splits train\n"
    assert f"--train-data={folder}/lmdb/train" in clone.command(DATASET="A")
    assert (clone.folder / "builds").read_text(encoding="utf-8") == builds  # once


def test_a_build_that_fails_is_the_end(clone: Clone) -> None:
    (clone.data / "datasets" / "MUGE").mkdir(parents=True)
    (clone.data / "datasets" / "MUGE" / "train_imgs.tsv").touch()
    assert clone.run("train.sh", clone.data, GPUS_PER_NODE="1", FAKE_BUILD_EXIT="2").returncode == 2
    assert not (clone.folder / "command").exists()


def test_several_data_sets(clone: Clone) -> None:
    clone.add_lmdb("A", "train", "valid")
    clone.add_lmdb("B", "train", "valid")
    root = clone.data.resolve() / "datasets"
    command = clone.command(DATASET="A,B", VAL_DATASET="B")
    assert f"--train-data={root}/A/lmdb/train,{root}/B/lmdb/train" in command
    assert f"--val-data={root}/B/lmdb/valid" in command
    assert f"--val-data={root}/A/lmdb/valid" in clone.command(DATASET="A,B")


def test_without_a_validation_split_there_is_none(clone: Clone) -> None:
    clone.add_lmdb("MUGE", "train")
    assert "--val-data=None" in clone.command()


def test_several_machines_build_nothing(clone: Clone) -> None:
    (clone.data / "datasets" / "MUGE").mkdir(parents=True)
    (clone.data / "datasets" / "MUGE" / "train_imgs.tsv").touch()
    answer = clone.run("train.sh", clone.data, WORKER_CNT="2", MASTER_ADDR="h", GPUS_PER_NODE="1")
    assert answer.returncode == 2
    assert "missing; build it first: cnclip build-lmdb" in answer.stderr


def test_relative_paths_are_the_callers(clone: Clone, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").write_text("lr: 0.5\n", encoding="utf-8")
    answer = clone.run("train.sh", "../data path", "--config", "mine.yaml", cwd=elsewhere, GPUS_PER_NODE="1")
    assert answer.returncode == 0, answer.stderr
    surroundings = (clone.folder / "surroundings").read_text(encoding="utf-8")
    assert surroundings.splitlines()[0] == str(elsewhere.resolve())


def test_the_exit_code_is_that_of_training(clone: Clone) -> None:
    assert clone.run("train.sh", clone.data, GPUS_PER_NODE="1", FAKE_EXIT="130").returncode == 130


def test_a_dry_run_starts_nothing(clone: Clone) -> None:
    (clone.data / "datasets" / "MUGE").mkdir(parents=True)
    (clone.data / "datasets" / "MUGE" / "train_imgs.tsv").touch()
    answer = clone.run("train.sh", clone.data, GPUS_PER_NODE="2", DRY_RUN="1")
    assert answer.returncode == 0
    assert "torch.distributed.run --standalone --nproc_per_node=2" in answer.stdout.splitlines()[-1]
    assert not (clone.folder / "command").exists() and not (clone.folder / "builds").exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["DATA", "--batchsize", "3"], {}, "no such flag: --batchsize (did you mean --batch-size?)"),
        (
            ["DATA", "--online_learnin"],
            {},
            "no such flag: --online_learnin (did you mean --online-learning?)",
        ),
        (["DATA", "--online-cache"], {}, "--online-cache needs --online-learning"),
        (["DATA", "--online-learning"], {"VAL_DATA": "None"}, "--online-learning needs --val-data"),
        (["DATA"], {"LR": "fast"}, "--lr: Input should be a valid number"),
        (["DATA", "stray"], {}, "unexpected argument: stray"),
        (["/nonexistent folder"], {}, "error: /nonexistent folder: no such folder"),
        (["DATA"], {"GPUS_PER_NODE": "two"}, "error: GPUS_PER_NODE=two: not a number"),
        (["DATA"], {"GPUS_PER_NODE": "08"}, "error: GPUS_PER_NODE=08: not a number"),
        (["DATA"], {"WORKER_CNT": "2"}, "error: WORKER_CNT=2 needs MASTER_ADDR"),
        (["DATA"], {"RANK": "1"}, "error: RANK=1: must be below WORKER_CNT=1"),
        (["DATA"], {"CONFIG": "/no.yaml"}, "error: CONFIG=/no.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    clone: Clone, arguments: list[str], settings: dict[str, str], message: str
) -> None:
    given = [str(clone.data) if word == "DATA" else word for word in arguments]
    answer = clone.run("train.sh", *given, **{"GPUS_PER_NODE": "2", **settings})
    assert answer.returncode == 2
    assert message in answer.stderr and answer.stderr.count("\n") == 1
    assert not (clone.folder / "command").exists()


def test_help_and_no_arguments(clone: Clone) -> None:
    for arguments in (["--help"], [str(clone.data), "-h"]):
        answer = clone.run("train.sh", *arguments)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert answer.stdout.startswith("usage: bash run_scripts/train.sh DATAPATH")
    missing = clone.run("train.sh")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: DATAPATH is missing\nusage: ")


def test_shellcheck_is_content() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine")
    scripts = sorted(map(str, (ROOT / "run_scripts").glob("*.sh")))
    answer = subprocess.run(
        ["shellcheck", "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stdout
