"""Pictures as a model wants them, and a frozen model to learn from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.image import PreprocessConfig
from cnclip.model.dual_encoder import DualEncoder


class Pixels:
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


class Teacher:
    """The image tower of a trained model, which looks at the student's very pictures (crops, mixtures and
    all), resized and normalised in its own way."""

    def __init__(self, model: DualEncoder, student: Pixels, autocast: torch.dtype | None = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.student, self.autocast = student, autocast
        self.pixels = Pixels(model.config.preprocess, student.device)
        self.size = model.config.preprocess.size

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """images (B, 3, R, R) as the student sees them -> unit vectors (B, D of the teacher)."""
        raw = self.student.restore(images)
        if raw.shape[-1] != self.size:
            raw = F.interpolate(raw, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        with torch.autocast(raw.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return self.model.encode_image(self.pixels.normalize(raw))
