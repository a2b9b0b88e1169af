"""CLIP's ResNet with Chinese-CLIP's parameter names.

Source: Radford et al. 2021: a three-convolution stem, average pooling before every strided step
(anti-aliasing) and attention pooling at the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnclip.errors import InputError
from cnclip.model.config import VisionConfig

_EXPANSION = 4
_STRIDE = 32  # pixels per side of one cell of the last feature map


class Bottleneck(nn.Module):
    def __init__(self, cin: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        cout = planes * _EXPANSION
        self.conv1 = nn.Conv2d(cin, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        nn.init.zeros_(self.bn3.weight)  # each block starts as the identity
        self.downsample: nn.Sequential | None = None
        if stride > 1 or cin != cout:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(cin, cout, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.avgpool(F.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean of a feature map attends to the mean and to every cell: (B, C, G, G) -> (B, embed_dim)."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width) * width**-0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(proj.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(2).transpose(1, 2)  # (B, G*G, C)
        cells = torch.cat([cells.mean(1, keepdim=True), cells], dim=1)
        cells = cells + self.positional_embedding.to(cells.dtype)
        # Only the first position's output is used, so only its query is computed.
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, C/H)
            for y in (self.q_proj(cells[:, :1]), self.k_proj(cells), self.v_proj(cells))
        )
        pooled = F.scaled_dot_product_attention(q, k, v).flatten(1)  # (B, C), heads side by side
        out: Tensor = self.c_proj(pooled)
        return out


class ModifiedResNet(nn.Module):
    """Pictures (B, 3, R, R), normalised, to embeddings (B, embed_dim), not normalised."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        layers, width = config.vision_layers, config.vision_width
        if isinstance(layers, int) or len(layers) != 4:
            raise InputError("a ResNet needs four vision_layers numbers")
        half = width // 2
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        features = width * 32
        heads = features // config.vision_head_width
        self.attnpool = AttentionPool(config.image_resolution // _STRIDE, features, heads, config.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.attnpool(x)
        return out


def _stage(cin: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(planes * _EXPANSION, planes) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(cin, planes, stride), *rest)
