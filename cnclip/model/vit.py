"""Vision Transformer with Chinese-CLIP's parameter names, on scaled_dot_product_attention.

Source: Dosovitskiy et al. 2021; pre-LayerNorm on the tokens, QuickGELU and the projection as in CLIP
(Radford et al. 2021); random patch masking as in FLIP (Li et al. 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnclip.errors import InputError
from cnclip.model.config import VisionConfig


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Multi-head self-attention; parameters named and packed as in nn.MultiheadAttention, batch first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3W)
        q, k, v = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)  # (B, H, L, W/H)
        out: Tensor = self.out_proj(y.transpose(1, 2).reshape(batch, length, width))
        return out


class ResidualBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class VisionTransformer(nn.Module):
    """Pictures to embeddings.

    Args (forward):
        images: (B, 3, R, R) normalised floats, R = config.image_resolution.
        mask_ratio: share of patches left out at random, per picture, 0 <= ratio < 1 (FLIP; training only).

    Returns: (B, embed_dim), not normalised.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        layers, width, patch = config.vision_layers, config.vision_width, config.vision_patch_size
        if not isinstance(layers, int) or patch is None:
            raise InputError("a ViT needs one vision_layers number and a vision_patch_size")
        scale = width**-0.5
        self.grid = config.image_resolution // patch
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, width // config.vision_head_width)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))

    def forward(self, images: Tensor, mask_ratio: float = 0.0) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (B, G*G, W)
        positions = self.positional_embedding.to(patches.dtype)
        patches = patches + positions[1:]
        if mask_ratio > 0:
            patches = _drop_patches(patches, mask_ratio)
        first = (self.class_embedding.to(patches.dtype) + positions[0]).expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1))
        x = self.ln_post(self.transformer(x)[:, 0])
        out: Tensor = x @ self.proj
        return out


def _drop_patches(patches: Tensor, ratio: float) -> Tensor:
    """Keep a random int(L * (1 - ratio)) of the L patches, other ones for every picture."""
    batch, length, width = patches.shape
    kept = int(length * (1 - ratio))
    order = torch.rand(batch, length, device=patches.device).argsort(dim=1)[:, :kept]
    return patches.gather(1, order[:, :, None].expand(-1, -1, width))
