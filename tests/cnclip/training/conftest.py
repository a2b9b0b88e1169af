"""A tiny dual encoder and a tiny labelled world: coloured squares with Chinese colour names."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnclip.data.dataset import PairDataset
from cnclip.data.lmdb_build import build_lmdb
from cnclip.image import PreprocessConfig
from cnclip.model.config import ModelConfig, TextConfig, VisionConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_safetensors

COLOURS = {"红色": (220, 30, 30), "绿色": (30, 200, 40), "蓝色": (30, 40, 210), "黄色": (230, 220, 40)}
SHADES = 6


def build_tiny_model() -> DualEncoder:
    """The same ViT + BERT of about 0.7 M weights each time."""
    torch.manual_seed(7)
    vision = VisionConfig(16, 32, 2, 32, vision_patch_size=16, vision_head_width=16)
    text = TextConfig(
        text_hidden_size=32,
        text_intermediate_size=64,
        text_num_attention_heads=2,
        text_num_hidden_layers=1,
        text_max_position_embeddings=16,
    )
    return DualEncoder(ModelConfig("tiny", "tiny", vision, text, PreprocessConfig(size=32)))


@pytest.fixture
def tiny_model() -> Callable[[], DualEncoder]:
    """See build_tiny_model."""
    return build_tiny_model


@pytest.fixture(scope="session")
def colour_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MUGE files of a split named `train`: four colour names, six noisy shades of each."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows, texts = [], []
    for number, (name, rgb) in enumerate(COLOURS.items()):
        ids = []
        for shade in range(SHADES):
            pixels = np.clip(np.array(rgb) + rng.normal(0, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG")
            ids.append(number * 100 + shade)
            rows.append(f"{ids[-1]}\t{base64.urlsafe_b64encode(buffer.getvalue()).decode()}")
        texts.append(json.dumps({"text_id": number, "text": name, "image_ids": ids}, ensure_ascii=False))
    (folder / "train_imgs.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "train_texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def colours(colour_data: Path) -> PairDataset:
    return PairDataset.from_muge(colour_data, "train")


@pytest.fixture(scope="session")
def split(colour_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lmdb")
    build_lmdb(colour_data, ["train"], folder)
    return folder / "train"


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_safetensors(build_tiny_model(), path)
    return path


@pytest.fixture
def command(split: Path, start: Path, tmp_path: Path) -> list[str]:
    return (
        f"--train-data {split} --val-data {split} --model {start} --logs {tmp_path}/logs --name run "
        "--batch-size 8 --lr 0.002 --warmup 5 --wd 0.001 --precision fp32 --num-workers 0 --device cpu "
        "--no-tensorboard --log-interval 1"
    ).split()
