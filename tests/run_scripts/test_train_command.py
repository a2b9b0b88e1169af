"""`cnclip train` and `python -m cnclip.training`: flags to settings, help, exit codes, who speaks."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnclip.errors import CnclipError
from cnclip.training import cli as training_cli
from cnclip.training.config import TrainConfig
from run_scripts import cli
from tests.cnclip.training.test_config import CHINESE_CLIP

ROOT = Path(__file__).resolve().parents[2]
SWITCHES = [name for name, value in CHINESE_CLIP.items() if value is False]
EXAMPLES = {
    **{"val_data": "v", "name": "n", "logs": "l", "resume": "r.pt", "clip_weight_path": "c.pt"},
    **{"precision": "fp16", "vision_model": "RN50", "mask_ratio": "0.5", "text_model": "RBT3-chinese"},
    **{"bert_weight_path": "b.pt", "teacher_model_name": "t", "kd_loss_weight": "0.25", "lr": "1e-3"},
    **{"beta1": "0.8", "beta2": "0.9", "eps": "1e-4", "wd": "0.01"},
}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The settings that training is called with; training itself does nothing."""
    calls: list[TrainConfig] = []

    def train(
        config: TrainConfig, on_progress: Callable[[int, int], None] | None, learner: Any = None
    ) -> Path:
        assert (learner is not None) == config.online_learning
        calls.append(config)
        if on_progress is not None:
            on_progress(1, 2)
        return config.logs / config.name

    module = types.ModuleType("cnclip.training.main")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cnclip.training.main", module)
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize("name", sorted(set(CHINESE_CLIP) - set(SWITCHES)))
def test_every_flag_of_chinese_clip_with_a_value(trained: list[TrainConfig], name: str) -> None:
    value = EXAMPLES.get(name, "7")
    for flag in (f"--{name.replace('_', '-')}", f"--{name}"):
        assert cli.main(["train", "--train-data", "a", f"{flag}={value}"]) == 0
        assert cli.main(["train", "--train-data=a", flag, value]) == 0
    expected = TrainConfig(train_data="a", **{name: value})
    assert trained == [expected] * 4
    assert getattr(expected, name) != CHINESE_CLIP[name]


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_of_chinese_clip(trained: list[TrainConfig], name: str) -> None:
    flag = "--" + name.replace("_", "-")
    base = ["train", "--train-data=a", "--teacher-model-name=t"]
    for words in ([flag], [flag, "true"], [f"{flag}=True"], [f"--{name}"], [f"--no-{flag[2:]}", flag]):
        assert cli.main([*base, *words]) == 0
    for words in ([], [flag, "false"], [flag, f"--no-{flag[2:]}"], [flag, f"--no_{name}"]):
        assert cli.main([*base, *words]) == 0
    assert [getattr(config, name) for config in trained] == [True] * 5 + [False] * 4


@pytest.mark.parametrize("words", [["--local-rank=3"], ["--local_rank", "3"], ["--local-rank", "-1"]])
def test_the_local_rank_of_launchers_is_ignored(trained: list[TrainConfig], words: list[str]) -> None:
    assert cli.main(["train", *words, "--train-data", "a"]) == 0
    assert trained == [TrainConfig(train_data="a")]


def test_whether_pictures_can_be_had(
    trained: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["train", "--train-data=a", "--val-data=v", f"--logs={tmp_path}/experiments", "--check-source"]
    assert cli.main(base) == 0
    assert capsys.readouterr().out == "no online learning\n"
    assert cli.main([*base, "--online-learning", "--online-cache"]) == 2
    assert f"--online-cache: {tmp_path}/valid: no such folder" in capsys.readouterr().err
    (tmp_path / "valid").mkdir()
    assert cli.main([*base, "--online-learning", "--online-cache"]) == 0
    assert capsys.readouterr().out == f"fresh pictures: the cache alone in {tmp_path}/valid\n"
    assert trained == []


@pytest.mark.parametrize(("rank", "sources"), [("0", ["cache"]), ("1", [None])])
def test_one_process_gets_the_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: str, sources: list[str | None]
) -> None:
    """`cnclip train` opens a source, the module has none."""
    asked: list[str | None] = []

    def train(config: TrainConfig, _progress: object, learner: Any) -> Path:
        (source,) = learner.args
        asked.append(None if source is None else source.name)
        return config.logs

    module = types.ModuleType("cnclip.training.main")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cnclip.training.main", module)
    learner = types.ModuleType("cnclip.online.learner")
    learner.make_online_learner = lambda *_: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cnclip.online.learner", learner)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    (tmp_path / "valid").mkdir()
    words = ["--train-data=a", "--val-data=v", "--online-learning", "--online-cache"]
    assert cli.main(["train", *words, f"--online-dir={tmp_path}/valid"]) == 0
    assert asked == sources


def test_the_module_alone_points_to_the_command(
    trained: list[TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert training_cli.main(["--train-data=a", "--val-data=v", "--online-learning"]) == 2
    error = capsys.readouterr().err
    assert "`cnclip train`" in error and error.count("\n") == 1 and trained == []


def test_flags_win_over_the_file(
    trained: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train_data: a,b\nlr: 1e-3\nuse_augment: true\n", encoding="utf-8")
    assert cli.main(["train", "--config", str(recipe), "--lr", "2e-3", "--no-use-augment"]) == 0
    assert trained == [TrainConfig(train_data=["a", "b"], lr=2e-3, use_augment=False)]
    assert capsys.readouterr().out == "logs/train_clip\n"


def test_print_config_can_be_fed_back(
    trained: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--vision-model", "RN50", "--batch-size", "7"], ["--model", "lite"]):
        assert cli.main(["train", "--train-data", "a", *words, "--print-config"]) == 0
        printed = capsys.readouterr().out
        (tmp_path / "out.yaml").write_text(printed, encoding="utf-8")
        assert cli.main(["train", "--config", str(tmp_path / "out.yaml"), "--print-config"]) == 0
        assert capsys.readouterr().out == printed
        assert ("beta2: 0.999" in printed) == ("RN50" in words)
    assert trained == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batchsize", "3"], "no such flag: --batchsize (did you mean --batch-size?)"),
        (["--train-data=a", "--online-learning"], "--online-learning needs --val-data"),
        (["--train-data=a", "--online_cache"], "--online-cache needs --online-learning"),
        (
            ["--train-data=a", "--lr", "fast"],
            "--lr: Input should be a valid number, unable to parse string as a number",
        ),
        (
            ["--train-data=a", "--precision=fp8"],
            "--precision: Input should be 'amp', 'bf16', 'fp16' or 'fp32' (got 'fp8')",
        ),
        (["--config", "/no.yaml"], "/no.yaml: cannot be read: No such file or directory"),
        ([], "--train-data is required"),
    ],
)
@pytest.mark.parametrize("module", [False, True])
def test_a_mistake_is_one_line_and_exit_2(
    words: list[str], message: str, module: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = training_cli.main(words) if module else cli.main(["train", *words])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    program = "python -m cnclip.training" if module else "cnclip train"
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: error: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(("outcome", "code"), [(CnclipError("loss is nan"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes_of_the_module(
    trained: list[TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: BaseException,
    code: int,
) -> None:
    def fail(*_: Any) -> None:
        raise outcome

    monkeypatch.setattr(sys.modules["cnclip.training.main"], "train", fail)
    assert training_cli.main(["--train-data", "a"]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not trained


@pytest.mark.parametrize(("rank", "said"), [("0", "logs/train_clip\n"), ("1", "")])
def test_one_process_speaks_for_all(
    trained: list[TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    said: str,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    handler = logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    assert training_cli.main(["--train-data", "a"]) == 0
    assert capsys.readouterr().out == said
    assert handler.level == (logging.NOTSET if rank == "0" else logging.WARNING)
    assert len(trained) == 1


def test_a_person_sees_a_bar(
    trained: list[TrainConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training_cli.main(["--train-data", "a"]) == 0
    assert "training" not in capsys.readouterr().err  # no terminal, no bar
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    before = list(logging.getLogger().handlers)
    assert training_cli.main(["--train-data", "a"]) == 0
    assert "training" in capsys.readouterr().err
    assert logging.getLogger().handlers == before
    assert len(trained) == 2


def test_help_of_the_module_is_light_and_whole() -> None:
    probe = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n    runpy.run_module('cnclip.training', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "print('HEAVY', [n for n in ('torch', 'numpy', 'transformers', 'rich') if n in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert answer.stdout.splitlines()[-1] == "HEAVY []", answer.stderr
    for name in TrainConfig.model_fields:
        assert f"--{name.replace('_', '-')} " in answer.stdout
    for words in (
        "--precision {amp,bf16,fp16,fp32}",
        "--lr FLOAT",
        "--logs PATH",
        "--batch-size N",
        "\ndata:",
    ):
        assert words in answer.stdout
    assert "--no-use-augment" not in answer.stdout and "local" not in answer.stdout
