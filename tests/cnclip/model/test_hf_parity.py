"""Hugging Face's ChineseCLIP and ours give the same embeddings from the same folder, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from cnclip.model.config import named_config
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_hf
from cnclip.model.weights import build_model, load_checkpoint, load_model
from tests.cnclip.model.conftest import ids_for, images_for, make_model

FLOAT32, BFLOAT16 = 0.99999, 0.999


@torch.inference_mode()
def theirs(model: ChineseCLIPModel, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings by their towers and projections, free of how get_text_features pools."""
    mask = ids.ne(0).long()
    states = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    pooled = model.vision_model(pixel_values=images).pooler_output
    return (
        F.normalize(model.visual_projection(pooled), dim=-1),
        F.normalize(model.text_projection(states), dim=-1),
    )


@torch.inference_mode()
def ours(model: DualEncoder, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return model.encode_image(images), model.encode_text(ids)


def lowest_cosine(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    return min(float((x.double() * y.double()).sum(-1).min()) for x, y in zip(a, b, strict=True))


def check_both_ways(model: DualEncoder, folder: Path) -> None:
    """Ours -> folder -> transformers -> folder -> ours."""
    images, ids = images_for(model.config), ids_for(model.config)
    save_hf(model, folder / "ours")
    hf_model = ChineseCLIPModel.from_pretrained(folder / "ours").eval()
    expected = theirs(hf_model, images, ids)
    assert lowest_cosine(ours(model, images, ids), expected) >= FLOAT32
    hf_model.save_pretrained(folder / "theirs")
    loaded = load_checkpoint(folder / "theirs")
    back = build_model(loaded)
    assert lowest_cosine(ours(back, images, ids), expected) >= FLOAT32
    assert back.logit_scale == model.logit_scale
    assert loaded.config.vision == model.config.vision
    assert loaded.config.text == model.config.text
    half = build_model(loaded, dtype=torch.bfloat16)
    assert lowest_cosine(ours(half, images.bfloat16(), ids), expected) >= BFLOAT16


def test_tiny_vit(vit_model: DualEncoder, tmp_path: Path) -> None:
    check_both_ways(vit_model, tmp_path)


@pytest.mark.slow
def test_real_vit_b_16(tmp_path: Path) -> None:
    check_both_ways(make_model(named_config("ViT-B-16", "RoBERTa-wwm-ext-base-chinese")), tmp_path)


def hf_tiny(**vision: int) -> ChineseCLIPModel:
    torch.manual_seed(0)
    config = ChineseCLIPConfig(
        text_config={"vocab_size": 21128, "hidden_size": 96, "intermediate_size": 128}
        | {"num_hidden_layers": 2, "num_attention_heads": 12, "max_position_embeddings": 64},
        vision_config={"hidden_size": 80, "intermediate_size": 320, "num_hidden_layers": 2, "patch_size": 8}
        | {"num_attention_heads": 5, "image_size": 32}
        | vision,
        projection_dim=24,
    )
    model = ChineseCLIPModel(config).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            tensor.normal_(std=0.1)
        elif "norm" in name.lower():
            tensor.uniform_(0.5, 1.5)
    return model


def test_head_counts_come_from_their_config(tmp_path: Path) -> None:
    hf_model = hf_tiny()
    hf_model.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert (model.config.vision.vision_head_width, model.config.text.text_num_attention_heads) == (16, 12)
    images, ids = images_for(model.config), ids_for(model.config)
    assert lowest_cosine(ours(model, images, ids), theirs(hf_model, images, ids)) >= FLOAT32


def test_pytorch_bin_with_old_index_buffers(tmp_path: Path) -> None:
    """Folders of older library versions: a pickle, with position_ids and a pooler nobody uses."""
    hf_model = hf_tiny()
    hf_model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    extras = {
        "text_model.embeddings.position_ids": torch.arange(64)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.pooler.dense.weight": torch.zeros(96, 96),
    }
    torch.save({**hf_model.state_dict(), **extras}, tmp_path / "pytorch_model.bin")
    loaded = load_checkpoint(tmp_path)
    assert set(loaded.dropped) == set(extras)
    model = build_model(loaded)
    images, ids = images_for(model.config), ids_for(model.config)
    assert lowest_cosine(ours(model, images, ids), theirs(hf_model, images, ids)) >= FLOAT32


def test_sharded_folder(tmp_path: Path) -> None:
    hf_model = hf_tiny()
    hf_model.save_pretrained(tmp_path, max_shard_size="3MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model = load_model(tmp_path)
    images, ids = images_for(model.config), ids_for(model.config)
    assert lowest_cosine(ours(model, images, ids), theirs(hf_model, images, ids)) >= FLOAT32


def test_their_processor_reads_our_preprocessing(vit_model: DualEncoder, tmp_path: Path) -> None:
    save_hf(vit_model, tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert values["size"] == {"height": 48, "width": 48}
    assert values["do_center_crop"] is False
    assert load_checkpoint(tmp_path).config.preprocess == vit_model.config.preprocess
