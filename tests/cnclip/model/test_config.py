from __future__ import annotations

from typing import Any

import pytest

from cnclip.errors import InputError
from cnclip.model.config import ModelConfig, named_config, text_models, vision_models


@pytest.mark.parametrize("vision", vision_models())
@pytest.mark.parametrize("text", text_models())
def test_every_named_pair_survives_a_round_trip(vision: str, text: str) -> None:
    config = named_config(vision, text)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.preprocess.size == config.vision.image_resolution


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("text", "text_num_attention_heads", 0),
        ("text", "text_num_attention_heads", "x"),
        ("text", "text_num_attention_heads", -1),
        ("text", "text_num_attention_heads", 7),
        ("text", "text_hidden_dropout_prob", 2),
        ("text", "text_hidden_dropout_prob", "x"),
        ("text", "text_initializer_range", -1),
        ("text", "text_initializer_range", [1]),
        ("text", "text_pooling", "x"),
        ("text", "text_pooling", {}),
        ("text", "text_hidden_act", None),
        ("text", "no_such_field", 1),
        ("vision", "vision_head_width", 0),
        ("vision", "vision_layers", []),
        ("vision", "embed_dim", True),
        ("vision", "width_multiplier", float("nan")),
        ("preprocess", "mean", []),
        ("preprocess", "std", "xyz"),
        ("preprocess", "std", [0.0, 1.0, 1.0]),
        ("preprocess", "size", "224"),
        ("preprocess", "resize_mode", "stretch"),
    ],
)
def test_a_nonsense_value_is_named(section: str, field: str, value: Any) -> None:
    values = named_config("ViT-B-16", "RBT3-chinese").to_dict()
    values[section][field] = value
    with pytest.raises(InputError, match=field if field != "text_num_attention_heads" else "attention_heads"):
        ModelConfig.from_dict(values, source="header")


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown vision model 'ViT-X'; known: .*ViT-B-16"):
        named_config("ViT-X", "RBT3-chinese")
