"""Decoded pictures as the image tower wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from cnclip.image import PreprocessConfig


class Normalizer:
    """uint8 pictures to a model's input, on its device: (value / 255 - mean) / std."""

    def __init__(self, preprocess: PreprocessConfig, device: torch.device) -> None:
        self.device = device
        mean, std = (
            torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std)
        )
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def normalize(self, raw: Tensor) -> Tensor:
        """uint8 (n, 3, R, R) to float32 of the same shape and memory layout."""
        return torch.addcmul(self.shift, raw.to(self.device, non_blocking=True).float(), self.scale)

    def restore(self, images: Tensor) -> Tensor:
        """The inverse of `normalize`, as floats 0..255."""
        return (images - self.shift) / self.scale
