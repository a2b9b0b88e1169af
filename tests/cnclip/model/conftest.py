"""Tiny models of every tower, with weights that are random but fixed and not degenerate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cnclip.image import PreprocessConfig
from cnclip.model.config import ModelConfig, TextConfig, VisionConfig, named_config
from cnclip.model.dual_encoder import DualEncoder

TEXT = TextConfig(
    text_hidden_size=128,
    text_intermediate_size=256,
    text_max_position_embeddings=64,
    text_num_attention_heads=2,
    text_num_hidden_layers=2,
)
VIT = VisionConfig(embed_dim=32, image_resolution=48, vision_layers=2, vision_width=128, vision_patch_size=16)
RESNET = VisionConfig(
    embed_dim=32, image_resolution=64, vision_layers=(1, 2, 1, 1), vision_width=8, tower="resnet"
)


def make_model(config: ModelConfig, seed: int = 0) -> DualEncoder:
    """A model whose every weight and BatchNorm statistic is drawn anew, so that no term can hide."""
    torch.manual_seed(seed)
    model = DualEncoder(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or (name.endswith("bias") and tensor.ndim == 1):
            tensor.normal_(std=0.1)
        elif tensor.ndim == 1 and name.endswith("weight"):  # LayerNorm, BatchNorm
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("dense.weight", "query.weight", "key.weight")):
            tensor.normal_(std=0.08)
    return model.eval()


def config_of(vision: VisionConfig, text: TextConfig = TEXT) -> ModelConfig:
    names = {"vit": "vit-128x2-16", "resnet": "resnet-8x(1, 2, 1, 1)"}
    return ModelConfig(
        names[vision.tower], "bert-128x2", vision, text, PreprocessConfig(size=vision.image_resolution)
    )


@pytest.fixture(scope="session")
def vit_model() -> DualEncoder:
    return make_model(config_of(VIT))


@pytest.fixture(scope="session")
def resnet_model() -> DualEncoder:
    return make_model(config_of(RESNET))


@pytest.fixture(scope="session")
def lite_model() -> DualEncoder:
    config = named_config("EfficientNet-Lite0", "RBT-tiny-chinese")
    vision = replace(config.vision, image_resolution=64)
    return make_model(replace(config, vision=vision, preprocess=replace(config.preprocess, size=64)))


def images_for(config: ModelConfig, count: int = 3) -> torch.Tensor:
    """Noise pictures (B, 3, R, R)."""
    side = config.vision.image_resolution
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def ids_for(config: ModelConfig) -> torch.Tensor:
    """Token ids (3, 9) with padding of different lengths."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, config.text.vocab_size, (3, 9), generator=generator)
    ids[0, 4:] = 0
    ids[2, 7:] = 0
    return ids
