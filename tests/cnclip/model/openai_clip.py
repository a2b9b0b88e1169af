"""OpenAI's CLIP as its published state dict describes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OpenAIBlock(nn.Module):
    """What OpenAI's state dict says of one block, on torch's own attention: an oracle beside transformers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        out: Tensor = x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))
        return out


class OpenAIVision(nn.Module):
    def __init__(self, width: int = 128, grid: int = 3) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width))
        self.proj = nn.Parameter(torch.randn(width, 32))
        self.conv1 = nn.Conv2d(3, width, 16, 16, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(OpenAIBlock(width) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


def openai_state() -> tuple[OpenAIVision, dict[str, Tensor]]:
    """An image tower and the half-precision state dict of a whole CLIP around it."""
    torch.manual_seed(3)
    vision = OpenAIVision()
    state = {f"visual.{name}": tensor.detach().half() for name, tensor in vision.state_dict().items()}
    state |= {
        "token_embedding.weight": torch.zeros(9, 4),
        "transformer.resblocks.0.ln_1.weight": torch.ones(4),
    }
    state |= {"text_projection": torch.zeros(4, 32), "positional_embedding": torch.zeros(7, 4)}
    state |= {"ln_final.weight": torch.ones(4), "logit_scale": torch.tensor(4.6052)}
    state |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    return vision, state
