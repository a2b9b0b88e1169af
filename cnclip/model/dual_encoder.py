"""The dual encoder: an image tower and a text tower that meet in one space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnclip.errors import InputError
from cnclip.model.bert import Bert
from cnclip.model.config import ModelConfig, VisionConfig
from cnclip.model.efficientnet import EfficientNetLite
from cnclip.model.resnet import ModifiedResNet
from cnclip.model.vit import VisionTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # natural logarithm; Radford et al. 2021
MAX_LOGIT_SCALE = math.log(100.0)

_TOWERS: dict[str, Callable[[VisionConfig], nn.Module]] = {
    "vit": VisionTransformer,
    "resnet": ModifiedResNet,
    "efficientnet": EfficientNetLite,
}


class DualEncoder(nn.Module):
    """CN-CLIP. Parameter names are Chinese-CLIP's: visual.*, bert.*, text_projection, logit_scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vision.tower not in _TOWERS:
            raise InputError(f"{config.vision_name}: unknown tower {config.vision.tower!r}")
        self.config = config
        self.visual = _TOWERS[config.vision.tower](config.vision)
        self.bert = Bert(config.text)
        width = config.text.text_hidden_size
        self.text_projection = nn.Parameter(torch.randn(width, config.vision.embed_dim) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def encode_image(self, images: Tensor, *, normalize: bool = True, **tower_args: Any) -> Tensor:
        """images (B, 3, R, R) normalised floats -> embeddings (B, D), of unit length by default."""
        x: Tensor = self.visual(images, **tower_args)
        return F.normalize(x.float(), dim=-1) if normalize else x

    def encode_text(self, ids: Tensor, *, normalize: bool = True) -> Tensor:
        """ids int64 (B, L), zero = padding -> embeddings (B, D), of unit length by default."""
        x = self.bert(ids) @ self.text_projection
        return F.normalize(x.float(), dim=-1) if normalize else x

    def forward(self, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Both sides of a batch: {"image_features" (B, D), "text_features" (T, D), "logit_scale" ()}."""
        return {
            "image_features": self.encode_image(images),
            "text_features": self.encode_text(ids),
            "logit_scale": self.logit_scale.exp(),
        }
