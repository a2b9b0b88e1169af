"""The ViT tower against a naive version built from torch's own attention module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cnclip.errors import InputError
from cnclip.model.config import VisionConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.vit import VisionTransformer
from tests.cnclip.model.conftest import VIT, images_for


def naive_vit(model: VisionTransformer, images: Tensor, heads: int) -> Tensor:
    """One picture at a time, patch by patch, attention from nn.MultiheadAttention. Returns (B, D)."""
    width, patch = model.conv1.weight.shape[0], model.conv1.kernel_size[0]
    out = []
    for image in images:
        tokens = [model.class_embedding]
        for top in range(0, image.shape[1], patch):
            for left in range(0, image.shape[2], patch):
                window = image[:, top : top + patch, left : left + patch]
                tokens.append((model.conv1.weight * window).sum((1, 2, 3)))
        x = torch.stack(tokens) + model.positional_embedding
        x = nn.functional.layer_norm(x, (width,), model.ln_pre.weight, model.ln_pre.bias, 1e-5)
        for block in model.transformer.resblocks:
            attention = nn.MultiheadAttention(width, heads)
            attention.load_state_dict(block.attn.state_dict())
            y = nn.functional.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias, 1e-5)
            x = x + attention(y, y, y, need_weights=False)[0]
            y = nn.functional.layer_norm(x, (width,), block.ln_2.weight, block.ln_2.bias, 1e-5)
            y = y @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
            y = y / (1 + torch.exp(-1.702 * y))
            x = x + y @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
        first = nn.functional.layer_norm(x[0], (width,), model.ln_post.weight, model.ln_post.bias, 1e-5)
        out.append(first @ model.proj)
    return torch.stack(out)


@torch.inference_mode()
def test_equals_the_naive_version(vit_model: DualEncoder) -> None:
    images = images_for(vit_model.config)
    expected = naive_vit(vit_model.visual, images, heads=2)
    torch.testing.assert_close(vit_model.visual(images), expected, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(vit_model: DualEncoder) -> None:
    images = images_for(vit_model.config)
    tower, grads = vit_model.visual, []
    for on in (False, True):
        tower.transformer.grad_checkpointing = on
        tower.zero_grad()
        tower(images).square().sum().backward()
        grads.append(tower.conv1.weight.grad.clone())
    tower.transformer.grad_checkpointing = False
    tower.zero_grad(set_to_none=True)
    torch.testing.assert_close(grads[0], grads[1])


class Recorder(nn.Module):
    """Stands in for the transformer and keeps what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


@torch.inference_mode()
@pytest.mark.parametrize(("ratio", "kept"), [(0.5, 4), (0.75, 2), (0.0, 9)])
def test_masking_keeps_whole_patches_with_their_positions(ratio: float, kept: int) -> None:
    torch.manual_seed(0)
    tower = VisionTransformer(VIT)
    tower.ln_pre, tower.transformer = nn.Identity(), Recorder()
    images = torch.randn(6, 3, 48, 48)
    tower(images)
    whole = tower.transformer.seen
    tower(images, mask_ratio=ratio)
    masked = tower.transformer.seen
    assert masked.shape == (6, 1 + kept, 128)
    torch.testing.assert_close(masked[:, 0], whole[:, 0])
    chosen = []
    for some, every in zip(masked[:, 1:], whole[:, 1:], strict=True):
        distances = torch.cdist(some, every)
        assert distances.min(1).values.max() < 1e-4  # each kept token is one of the picture's own
        chosen.append(tuple(sorted(distances.argmin(1).tolist())))
        assert len(set(chosen[-1])) == kept  # and none is kept twice
    if ratio:
        assert len(set(chosen)) > 1  # other patches for other pictures


@pytest.mark.parametrize("layers", [(3, 4, 6, 3)])
def test_refuses_a_configuration_of_another_tower(layers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="vision_layers"):
        VisionTransformer(VisionConfig(32, 48, layers, 128, 16))
