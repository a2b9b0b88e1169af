"""The ResNet tower against a naive version with torch's multi_head_attention_forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnclip.errors import InputError
from cnclip.model.config import named_config
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.resnet import AttentionPool, ModifiedResNet
from tests.cnclip.model.conftest import VIT, images_for, make_model


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var, weight, bias = (
        t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / torch.sqrt(var + norm.eps) * weight + bias


def naive_attention_pool(pool: AttentionPool, x: Tensor, heads: int) -> Tensor:
    cells = x.reshape(*x.shape[:2], -1).permute(2, 0, 1)  # (G*G, B, C)
    cells = torch.cat([cells.mean(0, keepdim=True), cells]) + pool.positional_embedding[:, None]
    out, _ = F.multi_head_attention_forward(
        query=cells,
        key=cells,
        value=cells,
        embed_dim_to_check=cells.shape[-1],
        num_heads=heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        training=False,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    return out[0]


def naive_resnet(model: ModifiedResNet, x: Tensor, heads: int) -> Tensor:
    """Straight from the paper's description, from the weights by name. Returns (B, D)."""
    w = dict(model.named_modules())
    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = batch_norm(F.conv2d(x, w[f"conv{i}"].weight, stride=stride, padding=1), w[f"bn{i}"]).clamp(min=0)
    x = F.avg_pool2d(x, 2)
    for stage in range(1, 5):
        for index in range(len(w[f"layer{stage}"])):
            block = f"layer{stage}.{index}"
            stride = 2 if index == 0 and stage > 1 else 1
            y = batch_norm(F.conv2d(x, w[f"{block}.conv1"].weight), w[f"{block}.bn1"]).clamp(min=0)
            y = batch_norm(F.conv2d(y, w[f"{block}.conv2"].weight, padding=1), w[f"{block}.bn2"]).clamp(min=0)
            y = batch_norm(F.conv2d(F.avg_pool2d(y, stride), w[f"{block}.conv3"].weight), w[f"{block}.bn3"])
            if index == 0:
                x = F.conv2d(F.avg_pool2d(x, stride), w[f"{block}.downsample.0"].weight)
                x = batch_norm(x, w[f"{block}.downsample.1"])
            x = (x + y).clamp(min=0)
    return naive_attention_pool(model.attnpool, x, heads)


@torch.inference_mode()
def test_equals_the_naive_version(resnet_model: DualEncoder) -> None:
    images = images_for(resnet_model.config)
    expected = naive_resnet(resnet_model.visual, images, heads=4)
    torch.testing.assert_close(resnet_model.visual(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_real_rn50_equals_the_naive_version() -> None:
    model = make_model(named_config("RN50", "RBT3-chinese"))
    images = images_for(model.config, count=2)
    ours, expected = model.visual(images), naive_resnet(model.visual, images, heads=32)
    assert F.cosine_similarity(ours, expected).min() > 0.99999
    bf16 = model.visual.to(torch.bfloat16)(images.bfloat16()).float()
    assert F.cosine_similarity(bf16, expected).min() > 0.999


def test_parameter_names_are_chinese_clips(resnet_model: DualEncoder) -> None:
    names = set(resnet_model.state_dict())
    assert {
        "visual.conv3.weight",
        "visual.bn3.running_var",
        "visual.layer2.0.downsample.0.weight",
        "visual.layer2.0.downsample.1.num_batches_tracked",
        "visual.attnpool.positional_embedding",
        "visual.attnpool.q_proj.bias",
    } <= names
    assert not any(".downsample.-1." in name for name in names)
    assert hasattr(resnet_model.visual.layer2[0].downsample, "-1")


def test_refuses_a_configuration_of_another_tower() -> None:
    with pytest.raises(InputError, match="four vision_layers"):
        ModifiedResNet(VIT)
