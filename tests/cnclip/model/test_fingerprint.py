"""The fingerprint sees the model, and nothing but the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cnclip.model.config import ModelConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.fingerprint import fingerprint
from cnclip.model.save import save_hf, save_pt, save_safetensors
from cnclip.model.weights import build_model, load_checkpoint
from tests.cnclip.model.conftest import VIT, config_of


def test_same_through_every_format_and_float16(vit_model: DualEncoder, tmp_path: Path) -> None:
    expected = fingerprint(vit_model.state_dict(), vit_model.config)
    save_pt(vit_model, tmp_path / "a.pt", epoch=3)
    save_safetensors(vit_model, tmp_path / "a.safetensors")
    save_safetensors(vit_model, tmp_path / "half.safetensors", dtype=torch.float16)
    save_hf(vit_model, tmp_path / "hf")
    for name in ("a.pt", "a.safetensors", "half.safetensors", "hf"):
        loaded = load_checkpoint(tmp_path / name)
        assert fingerprint(loaded.state_dict, loaded.config) == expected, name
    rebuilt = build_model(load_checkpoint(tmp_path / "a.pt"))
    assert fingerprint(rebuilt.state_dict(), rebuilt.config) == expected


def test_names_dropout_and_order_do_not_matter(vit_model: DualEncoder) -> None:
    config, state = vit_model.config, vit_model.state_dict()
    other = replace(
        config,
        vision_name="my tower",
        text_name="my text",
        text=replace(config.text, text_hidden_dropout_prob=0.0, text_initializer_range=0.5),
    )
    reversed_state = dict(reversed(list(state.items())))
    assert fingerprint(reversed_state, other) == fingerprint(state, config)


def test_batch_counters_do_not_matter(resnet_model: DualEncoder) -> None:
    state = dict(resnet_model.state_dict())
    expected = fingerprint(state, resnet_model.config)
    state["visual.bn1.num_batches_tracked"] = torch.tensor(77)
    assert fingerprint(state, resnet_model.config) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, preprocess=replace(c.preprocess, resize_mode="crop")),
        lambda c: replace(c, preprocess=replace(c.preprocess, mean=(0.5, 0.5, 0.5))),
        lambda c: replace(c, vision=replace(c.vision, vision_head_width=32)),
        lambda c: replace(c, text=replace(c.text, text_pooling="mean")),
        lambda c: replace(c, text=replace(c.text, text_num_attention_heads=4)),
        lambda c: replace(c, context_length=24),
    ],
)
def test_settings_that_change_embeddings_matter(
    vit_model: DualEncoder, change: Callable[[ModelConfig], ModelConfig]
) -> None:
    state, config = vit_model.state_dict(), vit_model.config
    assert fingerprint(state, change(config)) != fingerprint(state, config)


def test_one_changed_weight_matters(vit_model: DualEncoder) -> None:
    state = dict(vit_model.state_dict())
    expected = fingerprint(state, vit_model.config)
    for name in ("logit_scale", "bert.encoder.layer.1.output.dense.bias", "visual.conv1.weight"):
        changed = state[name].clone()
        changed.view(-1)[-1] += 0.01
        assert fingerprint({**state, name: changed}, vit_model.config) != expected, name


def test_swapped_weights_and_shapes_matter(vit_model: DualEncoder) -> None:
    state = dict(vit_model.state_dict())
    expected = fingerprint(state, vit_model.config)
    a, b = "visual.ln_pre.weight", "visual.ln_pre.bias"
    assert fingerprint({**state, a: state[b], b: state[a]}, vit_model.config) != expected
    assert fingerprint({**state, "visual.proj": state["visual.proj"].T}, vit_model.config) != expected


def test_is_stable_between_versions() -> None:
    """Galleries on disk carry it: a change here makes every one of them unusable."""
    config = config_of(VIT)
    weights = {"a.weight": torch.arange(6).reshape(2, 3) / 8, "b": torch.tensor(0.5)}
    expected = "8f7ebd7e0337cddb9e07f9d77cfe44aab15cfe2ad45c0fb44c677f73484b3e5b"
    assert fingerprint(weights, config) == expected
