"""Architectures are recognised from shapes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cnclip.model.config import LITE_TEXT, LITE_VISION, ModelConfig, named_config, text_models, vision_models
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.infer import infer_config, same_architecture


def shapes_of(config: ModelConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return DualEncoder(config).state_dict()


@pytest.mark.parametrize("vision", vision_models())
def test_every_named_image_tower(vision: str) -> None:
    config = named_config(vision, "RBT3-chinese")
    assert infer_config(shapes_of(config)) == config


@pytest.mark.parametrize("text", text_models())
def test_every_named_text_tower(text: str) -> None:
    config = named_config("ViT-B-32", text)
    assert infer_config(shapes_of(config)) == config


def test_all_pairs_differ() -> None:
    configs = [named_config(v, "RBT3-chinese") for v in vision_models()]
    configs += [named_config("ViT-B-16", t) for t in text_models()]
    for i, one in enumerate(configs):
        for other in configs[i + 1 :]:
            same = same_architecture(one, other)
            assert same == (
                {one.vision_name, other.vision_name} <= {"ViT-L-14", "ViT-L-14-336"} or one == other
            )


@pytest.mark.parametrize(("vision", "resolution"), [("ViT-B-16", 384), ("ViT-L-14", 448), ("RN50", 288)])
def test_another_resolution_keeps_the_name(vision: str, resolution: int) -> None:
    config = named_config(vision, "RBT3-chinese")
    config = replace(
        config,
        vision=replace(config.vision, image_resolution=resolution),
        preprocess=replace(config.preprocess, size=resolution),
    )
    assert infer_config(shapes_of(config)) == config


@pytest.mark.parametrize(("width", "depth"), [(1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)])
def test_larger_lite_towers(width: float, depth: float) -> None:
    config = named_config(LITE_VISION, LITE_TEXT)
    vision = replace(config.vision, width_multiplier=width, depth_multiplier=depth, embed_dim=128)
    assert infer_config(shapes_of(replace(config, vision=vision))).vision == vision


def test_unknown_sizes_get_a_telling_name() -> None:
    config = named_config("ViT-B-16", "RBT3-chinese")
    odd = replace(
        config,
        vision=replace(config.vision, vision_layers=6),
        text=replace(config.text, text_num_hidden_layers=5),
    )
    found = infer_config(shapes_of(odd))
    assert found.name == "vit-768x6-16@bert-768x5"
    assert (found.vision, found.text) == (odd.vision, odd.text)
