"""The EfficientNet-Lite tower: TensorFlow's padding and BatchNorm folding against naive versions."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.efficientnet import SameConv2d
from cnclip.model.encoder import fold_batch_norm
from tests.cnclip.model.test_resnet import batch_norm


def naive_same_conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """TensorFlow's rule by hand: ceil(n / stride) outputs, the odd pixel of padding at the bottom right."""
    side, kernel = x.shape[-1], weight.shape[-1]
    outputs = -(-side // stride)
    total = max((outputs - 1) * stride + kernel - side, 0)
    before = total // 2
    padded = torch.zeros(*x.shape[:2], side + total, side + total)
    padded[..., before : before + side, before : before + side] = x
    out = torch.zeros(x.shape[0], weight.shape[0], outputs, outputs)
    for i in range(outputs):
        for j in range(outputs):
            window = padded[..., i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            out[:, :, i, j] = torch.einsum("bchw,ochw->bo", window, weight)
    return out


@pytest.mark.parametrize("side", [7, 8, 11, 14])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@torch.inference_mode()
def test_same_padding(side: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = SameConv2d(2, 3, kernel, stride)
    x = torch.randn(2, 2, side, side)
    torch.testing.assert_close(conv(x), naive_same_conv(x, conv.weight, stride), rtol=1e-4, atol=1e-5)


def naive_lite(tower: nn.Module, x: Tensor) -> Tensor:
    """Every layer by its rule, BatchNorm written out. Returns (B, D)."""

    def run(layers: nn.Module, x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                x = batch_norm(x, layer)
            elif isinstance(layer, nn.ReLU6):
                x = x.clamp(0, 6)
            else:
                side, kernel, stride = x.shape[-1], layer.kernel_size[0], layer.stride[0]
                total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
                x = F.pad(x, [total // 2, total - total // 2] * 2)
                x = F.conv2d(x, layer.weight, stride=stride, groups=layer.groups)
        return x

    x = run(tower.stem, x)
    for block in tower.blocks:
        y = run(block.layers, x)
        x = x + y if y.shape == x.shape and block.skip else y
    return run(tower.head, x).mean((2, 3)) @ tower.proj.weight.T + tower.proj.bias


@torch.inference_mode()
def test_equals_the_naive_version(lite_model: DualEncoder) -> None:
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    ours, expected = lite_model.visual(images), naive_lite(lite_model.visual, images)
    assert F.cosine_similarity(ours, expected).min() > 0.99999
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_folding_batch_norm_changes_nothing(lite_model: DualEncoder) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(lite_model.visual)
    fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, SameConv2d) for module in folded.modules()) == sum(
        isinstance(module, SameConv2d) for module in lite_model.visual.modules()
    )
    torch.testing.assert_close(folded(images), lite_model.visual(images), rtol=1e-3, atol=1e-3)
    assert F.cosine_similarity(folded(images), lite_model.visual(images)).min() > 0.99999
