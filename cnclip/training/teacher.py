"""A frozen model to learn from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer


class Teacher:
    """The image tower of a trained model, which looks at the student's very pictures (crops, mixtures and
    all), resized and normalised in its own way."""

    def __init__(self, model: DualEncoder, student: Normalizer, autocast: torch.dtype | None = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.student, self.autocast = student, autocast
        self.pixels = Normalizer(model.config.preprocess, student.device)
        self.size = model.config.preprocess.size

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """images (B, 3, R, R) as the student sees them -> unit vectors (B, D of the teacher)."""
        raw = self.student.restore(images)
        if raw.shape[-1] != self.size:
            raw = F.interpolate(raw, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        with torch.autocast(raw.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return self.model.encode_image(self.pixels.normalize(raw))
