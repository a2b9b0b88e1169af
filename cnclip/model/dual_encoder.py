"""The dual encoder: an image tower and a text tower that meet in one space."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnclip.errors import InputError
from cnclip.model.bert import Bert, BertEncoder
from cnclip.model.config import ModelConfig, VisionConfig
from cnclip.model.efficientnet import EfficientNetLite
from cnclip.model.hf_tower import HFText, HFVision
from cnclip.model.resnet import ModifiedResNet
from cnclip.model.vit import Transformer, VisionTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # natural logarithm; Radford et al. 2021
MAX_LOGIT_SCALE = math.log(100.0)

_TOWERS: dict[str, Callable[[VisionConfig], nn.Module]] = {
    "vit": VisionTransformer,
    "resnet": ModifiedResNet,
    "efficientnet": EfficientNetLite,
    "hf": HFVision,
}


class DualEncoder(nn.Module):
    """CN-CLIP. Parameter names are Chinese-CLIP's: visual.*, bert.*, text_projection, logit_scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vision.tower not in _TOWERS:
            raise InputError(f"{config.vision_name}: unknown tower {config.vision.tower!r}")
        self.config = config
        self.visual = _TOWERS[config.vision.tower](config.vision)
        self.bert = HFText(config.text) if config.text.text_tower == "hf" else Bert(config.text)
        width = config.text.text_hidden_size
        self.text_projection = nn.Parameter(torch.randn(width, config.vision.embed_dim) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def encode_image(self, images: Tensor, *, normalize: bool = True, mask_ratio: float = 0.0) -> Tensor:
        """images (B, 3, R, R) normalised floats -> embeddings (B, D), of unit length by default.

        mask_ratio: share of patches left out (FLIP). Raises InputError if this tower cannot.
        """
        if mask_ratio and not isinstance(self.visual, VisionTransformer):
            raise InputError(f"mask_ratio needs one of our ViT image towers, not {self.config.vision_name}")
        x: Tensor = self.visual(images, mask_ratio) if mask_ratio else self.visual(images)
        return F.normalize(x.float(), dim=-1) if normalize else x

    def encode_text(
        self, ids: Tensor, *, normalize: bool = True, mix: tuple[Tensor, float] | None = None
    ) -> Tensor:
        """ids int64 (B, L), zero = padding -> embeddings (B, D), of unit length by default.

        mix: rows to mix each text with and the own share (mixup; see Bert).
        """
        x = self.bert(ids, mix) @ self.text_projection
        return F.normalize(x.float(), dim=-1) if normalize else x

    def forward(
        self,
        images: Tensor,
        ids: Tensor,
        *,
        mask_ratio: float = 0.0,
        text_mix: tuple[Tensor, float] | None = None,
    ) -> dict[str, Tensor]:
        """Both sides of a batch: {"image_features" (B, D), "text_features" (T, D), "logit_scale" ()}.

        Args (training only):
            mask_ratio: see encode_image.
            text_mix: `mix` of encode_text.
        """
        return {
            "image_features": self.encode_image(images, mask_ratio=mask_ratio),
            "text_features": self.encode_text(ids, mix=text_mix),
            "logit_scale": self.logit_scale.exp(),
        }

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Recompute transformer layers in the backward pass: less memory, more time, the same gradients.

        Convolutional towers are left as they are.
        """
        for module in self.modules():
            if isinstance(module, Transformer | BertEncoder):
                module.grad_checkpointing = enabled
            elif isinstance(module, HFVision | HFText):
                module.set_grad_checkpointing(enabled)
