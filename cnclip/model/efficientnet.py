"""EfficientNet-Lite image tower: EfficientNet without squeeze-and-excitation and with ReLU6, made for CPUs.

Source: Tan & Le 2019 and the EfficientNet-Lite variant of TensorFlow's model garden; padding is TensorFlow's
"SAME" (extra pixel at the bottom right), since the public weights were trained with it.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from cnclip.model.config import VisionConfig

# (repeats, kernel, stride, expansion, in, out) of each stage at multiplier 1.0
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280
_BN_EPS, _BN_MOMENTUM = 1e-3, 0.01


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding; symmetric wherever that is the same thing."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(cin, cout, kernel, stride, padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            pads = []
            for side in (x.shape[3], x.shape[2]):
                stride, kernel = self.stride[0], self.kernel_size[0]
                total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
                pads += [total // 2, total - total // 2]
            x = F.pad(x, pads)
        return super().forward(x)


def _conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        SameConv2d(cin, cout, kernel, stride, groups),
        nn.BatchNorm2d(cout, eps=_BN_EPS, momentum=_BN_MOMENTUM),
    ]


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; with a skip where the shape stays."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = cin * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_conv_bn(cin, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*_conv_bn(hidden, hidden, kernel, stride, groups=hidden), nn.ReLU6(inplace=True)]
        layers += _conv_bn(hidden, cout, 1)
        self.layers = nn.Sequential(*layers)
        self.skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.skip else y


def _round_channels(channels: int, multiplier: float, divisor: int = 8) -> int:
    if multiplier == 1.0:
        return channels
    scaled = channels * multiplier
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


class EfficientNetLite(nn.Module):
    """Pictures (B, 3, R, R), normalised, to embeddings (B, embed_dim), not normalised."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(3, _STEM_CHANNELS, 3, 2), nn.ReLU6(inplace=True))
        blocks: list[nn.Module] = []
        for index, (repeats, kernel, stride, expansion, cin, cout) in enumerate(_STAGES):
            # The Lite variants scale neither the stem nor the repeats of the first and last stage.
            fixed = index in (0, len(_STAGES) - 1)
            count = repeats if fixed else math.ceil(repeats * config.depth_multiplier)
            width_in = cin if index == 0 else _round_channels(cin, config.width_multiplier)
            width_out = _round_channels(cout, config.width_multiplier)
            for repeat in range(count):
                first = repeat == 0
                blocks.append(
                    InvertedResidual(
                        width_in if first else width_out, width_out, kernel, stride if first else 1, expansion
                    )
                )
        self.blocks = nn.Sequential(*blocks)
        last = _round_channels(_STAGES[-1][-1], config.width_multiplier)
        self.head = nn.Sequential(*_conv_bn(last, _HEAD_CHANNELS, 1), nn.ReLU6(inplace=True))
        self.dropout = nn.Dropout(0.2)
        self.proj = nn.Linear(_HEAD_CHANNELS, config.embed_dim)
        self.frozen_blocks = 0

    def freeze(self, blocks: int) -> None:
        """Stop the stem and the first `blocks` blocks from learning, their batch statistics included.

        The early, wide feature maps cost most of a training step and hold little that is task-specific.
        """
        self.frozen_blocks = blocks
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *list(self.blocks)[: self.frozen_blocks]] if self.frozen_blocks else []

    def train(self, mode: bool = True) -> EfficientNetLite:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, 1280) before the projection."""
        out: Tensor = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(self.dropout(self.features(x)))
        return out
