"""Settings from YAML and flags: who wins, what a mistake is called, and YAML out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnclip.errors import InputError
from cnclip.training.config import TrainConfig
from cnclip.training.config_file import build_config, flag_layer, read_yaml, to_yaml


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("# a comment\ntrain_data: [a, b]\nlr: 5e-5\nbatch-size: 128\nval_data: null\n", "utf-8")
    return path


def test_flags_win_over_yaml_and_yaml_over_defaults(recipe: Path) -> None:
    made = build_config(read_yaml(recipe), flag_layer({"batch_size": "32", "wd": "0.1"}))
    assert made == TrainConfig(train_data=["a", "b"], lr=5e-5, batch_size=32, wd=0.1)
    assert made.warmup == 500


def test_weights_and_towers_replace_each_other_between_layers(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train_data: a\nvision_model: RN50\ntext_model: RBT3-chinese\n")
    towers = read_yaml(path)
    assert build_config(towers, flag_layer({"model": "lite"})).model == "lite"
    assert build_config(towers, flag_layer({"model": "None"})).vision_model == "RN50"
    path.write_text("train_data: a\nmodel: lite\n")
    made = build_config(read_yaml(path), flag_layer({"vision_model": "RN50"}))
    assert (made.model, made.vision_model) == (None, "RN50")
    with pytest.raises(InputError, match="leave out --vision-model"):
        build_config(towers, flag_layer({"model": "lite", "vision_model": "RN50"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", "1: batchsize: no such setting (did you mean batch_size?)"),
        ("lr: 1\n\nwarmpu: 3", "3: warmpu: no such setting (did you mean warmup?)"),
        ("learn_online: true", "1: learn_online: no such setting"),
        ("lr: 1\nlr: 2", "2: lr: given before, at {path}:1"),
        ("batch-size: 3\nbatch_size: 3", "2: batch_size: given before, at {path}:1"),
        ("lr: {a: 1}", "1: lr: expected one value or a list of them"),
        ("lr: &x [*x]", "1: lr: expected one value or a list of them"),
        ("- a\n- b", "1: expected lines of `name: value`"),
        ("just words", "1: expected lines of `name: value`"),
        ("lr: 1\n\twd: 2", "2: not YAML: "),
        ("a: [", "2: not YAML: "),
        ("lr: !!python/object:os.system x", "1: not YAML: could not determine a constructor"),
        ("a\x01: 1", " not YAML: unacceptable character"),
        ("lr: " + "[" * 3000, " not YAML: "),
        ("train_data: a\nwd: -1", "2: wd: Input should be greater than or equal to 0 (got -1)"),
        ("train_data: a\nwd: true story", "2: wd: Input should be a valid number"),
        ("train_data: a\nbatch_size:", "2: batch_size: Input should be a valid integer (got None)"),
        ("vision-model: x\ntrain_data: a", "1: vision-model: no such tower; known: "),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        build_config(read_yaml(path))
    said = str(caught.value)
    assert said.startswith(f"{path}:" + message.format(path=path)), said
    assert "\n" not in said


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("\ufeff# nothing\n", encoding="utf-8")
    assert read_yaml(tmp_path / "empty.yaml").values == {}


def test_nothing_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/elsewhere")
    (tmp_path / "r.yaml").write_text("train_data: ${HERE}/x\n", encoding="utf-8")
    assert build_config(read_yaml(tmp_path / "r.yaml")).train_data == (Path("${HERE}/x"),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--train-data is required (or train_data in the file that --config names)"),
        (
            {"train_data": "a", "kd_loss_weight": "x"},
            "--kd-loss-weight: Input should be a valid number, unable to parse string as a number (got 'x')",
        ),
        ({"train_data": "a", "early_stop": "2"}, "--early-stop needs --val-data"),
    ],
)
def test_a_bad_flag_is_named_as_a_flag(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build_config(flag_layer(given))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": "2024", "val_data": "数据/valid", "lr": 1e-9, "valid_epoch_interval": None},
        {"model": "lite", "early_stop": 2, "val_data": "a: b"},
        {"vision_model": "hf:/a b", "train_data": ["a,b", "c"], "seed": 2**62, "wd": 0.1 + 0.2},
    ],
)
def test_yaml_out_is_yaml_in(tmp_path: Path, values: dict[str, Any]) -> None:
    made = TrainConfig(**{"train_data": "a", **values}).resolved()
    text = to_yaml(made)
    (tmp_path / "out.yaml").write_text(text, encoding="utf-8")
    assert build_config(read_yaml(tmp_path / "out.yaml")) == made
    hidden = {"vision_model", "text_model"} if made.model else set()
    listed = {line.partition(":")[0] for line in text.splitlines() if line[:1] not in ("#", "-", "")}
    assert listed == set(TrainConfig.model_fields) - hidden
