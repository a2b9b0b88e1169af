"""TrainConfig: Chinese-CLIP's flags and defaults, bounds, and settings that must fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cnclip.model.config import text_models, vision_models
from cnclip.training.config import TrainConfig, tower_names

# Every flag of Chinese-CLIP's training with its default, as its users' scripts rely on them.
CHINESE_CLIP: dict[str, Any] = {
    **{"val_data": None, "num_workers": 4, "valid_num_workers": 1, "logs": Path("./logs/")},
    **{"name": "train_clip", "log_interval": 10, "report_training_batch_acc": False, "batch_size": 64},
    **{"valid_batch_size": 64, "max_steps": None, "max_epochs": 32, "valid_step_interval": None},
    **{"valid_epoch_interval": 1, "context_length": 52, "lr": None, "beta1": None, "beta2": None},
    **{"eps": None, "wd": 0.2, "warmup": 500, "use_bn_sync": False, "use_augment": False},
    **{"skip_scheduler": False, "save_epoch_frequency": 1, "save_step_frequency": -1, "resume": None},
    **{"reset_optimizer": False, "reset_data_offset": False, "precision": "amp"},
    **{"vision_model": "ViT-B-16", "mask_ratio": 0, "clip_weight_path": None, "freeze_vision": False},
    **{"text_model": "RoBERTa-wwm-ext-base-chinese", "bert_weight_path": None, "grad_checkpointing": False},
    **{"use_flash_attention": False, "accum_freq": 1, "gather_with_grad": False, "skip_aggregate": False},
    **{"debug": False, "seed": 123, "distillation": False, "teacher_model_name": None},
    **{"kd_loss_weight": 0.5},
}
CHOICES = {
    "precision": ["amp", "fp16", "fp32"],
    "vision_model": ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50"],
    "text_model": ["RoBERTa-wwm-ext-base-chinese", "RoBERTa-wwm-ext-large-chinese", "RBT3-chinese"],
}


def config(**values: Any) -> TrainConfig:
    return TrainConfig(**{"train_data": "lmdb/train", **values})


def problem(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        config(**values)
    return str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize("name", CHINESE_CLIP)
def test_defaults_are_those_of_chinese_clip(name: str) -> None:
    assert getattr(config(), name) == CHINESE_CLIP[name]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in CHOICES.items() for v in values])
def test_choices_of_chinese_clip(name: str, value: str) -> None:
    assert getattr(config(**{name: value}), name) == value


def test_train_data_is_the_only_required_field() -> None:
    required = [name for name, field in TrainConfig.model_fields.items() if field.is_required()]
    assert required == ["train_data"]


def test_every_field_is_described_and_in_a_section() -> None:
    fields = TrainConfig.model_fields
    assert all(field.description and "\n" not in field.description for field in fields.values())
    assert [name for names in TrainConfig.sections().values() for name in names] == list(fields)
    assert list(TrainConfig.sections()) == [
        *("data", "model", "loss", "optimizer", "schedule", "validation", "online", "source"),
        *("records", "machine"),
    ]


def test_it_is_frozen_and_takes_no_unknown_field() -> None:
    with pytest.raises(ValidationError):
        config().lr = 1.0  # type: ignore[misc]
    assert "Extra inputs" in problem(learn_online=True)


@pytest.mark.parametrize(
    ("given", "folders"),
    [
        ("a", ["a"]),
        ("a, b/c", ["a", "b/c"]),
        (["a", "b,c"], ["a", "b,c"]),
        (Path("a,b"), ["a,b"]),
    ],
)
def test_train_data_is_one_folder_or_several(given: Any, folders: list[str]) -> None:
    assert config(train_data=given).train_data == tuple(Path(folder) for folder in folders)


@pytest.mark.parametrize("given", ["", "a,,b", "a,a", [], ["a", "a"], 3, None])
def test_train_data_that_makes_no_sense(given: Any) -> None:
    problem(train_data=given)


@pytest.mark.parametrize(
    "name", ["resume", "val_data", "clip_weight_path", "valid_step_interval", "wandb", "model"]
)
def test_the_word_none_means_none_where_that_is_allowed(name: str) -> None:
    assert getattr(config(**{name: "None"}), name) is None


def test_the_word_none_elsewhere_is_a_value_or_an_error() -> None:
    assert config(name="None").name == "None"
    assert "integer" in problem(batch_size="None")


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("batch_size", 1, 2),
        ("accum_freq", 0, 1),
        ("mask_ratio", 1.0, 0.99),
        ("mask_ratio", -0.1, 0.0),
        ("lr", 0, 1e-9),
        ("lr", float("nan"), 1.0),
        ("lr", float("inf"), 1.0),
        ("beta1", 1.0, 0.0),
        ("temperature", 0, 0.02),
        ("layer_decay", 0, 1.0),
        ("lr_floor", 1.1, 1.0),
        ("context_length", 2, 3),
        ("context_length", 513, 512),
        ("valid_step_interval", -2, -1),
        ("save_step_frequency", -2, 0),
        ("max_steps", 0, 1),
        ("random_erasing", 1.5, 1.0),
        ("seed", -1, 0),
        ("name", "a/b", "a b"),
        ("name", "..", "..."),
        ("precision", "fp8", "bf16"),
        ("sampler", "random", "debias"),
        ("loss", "mse", "dual-softmax"),
    ],
)
def test_bounds(name: str, bad: Any, good: Any) -> None:
    assert problem(**{name: bad})
    assert getattr(config(**{name: good}), name) == good


def test_text_from_flags_and_numbers_from_yaml_become_what_the_field_is() -> None:
    made = config(lr="5e-5", use_augment="true", max_steps="7", name=2024, val_data="a b")
    assert (made.lr, made.use_augment, made.max_steps, made.name) == (5e-5, True, 7, "2024")
    assert made.val_data == Path("a b")


def test_towers_by_name_or_folder() -> None:
    assert tower_names("vision") == vision_models()
    assert tower_names("text") == text_models()
    assert config(vision_model="hf:/some/folder").vision_model == "hf:/some/folder"
    assert "no such tower (did you mean ViT-B-16?); known: " in problem(vision_model="ViT-B16")
    assert "no such tower" in problem(text_model="hf:")
    assert "RBT3-chinese" in problem(text_model="x")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"early_stop": 3}, "--early-stop needs --val-data"),
        ({"distillation": True}, "--distillation needs --teacher-model-name"),
        ({"freeze_vision": True, "freeze_text": True}, "nothing to train"),
        ({"model": "lite", "vision_model": "RN50"}, "leave out --vision-model"),
        ({"model": "lite", "text_model": "RBT3-chinese"}, "leave out --vision-model"),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, Any], named: str) -> None:
    assert named in problem(**values)


def test_settings_that_go_together() -> None:
    config(early_stop=3, val_data="lmdb/valid")
    config(distillation=True, teacher_model_name="ViT-L-14")
    config(model="lite", freeze_vision=True)
    config(model="None", vision_model="RN50")


@pytest.mark.parametrize(
    ("tower", "expected"),
    [
        ("RN50", (5e-4, 0.9, 0.999, 1e-8)),
        ("ViT-B-16", (5e-4, 0.9, 0.98, 1e-6)),
        ("ViT-L-14-336", (4e-4, 0.9, 0.98, 1e-6)),
        ("ViT-H-14", (5e-4, 0.9, 0.98, 1e-6)),
    ],
)
def test_resolved_fills_in_what_chinese_clip_takes(tower: str, expected: tuple[float, ...]) -> None:
    made = config(vision_model=tower).resolved()
    assert (made.lr, made.beta1, made.beta2, made.eps) == expected
    assert config(model="x.pt").resolved(tower).lr == expected[0]


def test_resolved_keeps_what_was_given() -> None:
    made = config(lr=1e-5, eps=1e-3).resolved()
    assert (made.lr, made.eps, made.beta2) == (1e-5, 1e-3, 0.98)
    assert made.resolved() == made
