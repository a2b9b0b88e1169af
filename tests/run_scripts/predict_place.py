"""A DATAPATH with three tiny models of their own architectures, an unlabelled and a labelled split."""

from __future__ import annotations

from pathlib import Path

import torch

from cnclip.image import PreprocessConfig
from cnclip.model.config import ModelConfig, TextConfig, VisionConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_pt
from tests.cnclip.data.muge_files import image_line, picture, text_line, write_lines

N_IMAGES, N_TEXTS = 15, 6


def tiny(size: int, width: int, embed_dim: int) -> DualEncoder:
    """A ViT and a BERT of their own resolution, width and dimension."""
    torch.manual_seed(size)
    vision = VisionConfig(embed_dim, size, 1, width, vision_patch_size=16, vision_head_width=16)
    text = TextConfig(
        text_hidden_size=32,
        text_intermediate_size=64,
        text_num_attention_heads=2,
        text_num_hidden_layers=1,
        text_max_position_embeddings=16,
    )
    return DualEncoder(ModelConfig("tiny", "tiny", vision, text, PreprocessConfig(size=size), 16))


def save_models(folder: Path) -> Path:
    """`model-1.pt` to `model-3.pt`."""
    for number, shape in enumerate(((32, 32, 16), (48, 16, 8), (32, 48, 24)), 1):
        save_pt(tiny(*shape), folder / f"model-{number}.pt")
    return folder


def write_datapath(base: Path, resume: Path) -> Path:
    """An unlabelled test split, a labelled valid split, and the models of `resume`."""
    folder = base / "datasets" / "MUGE"
    folder.mkdir(parents=True)
    (base / "resume").symlink_to(resume)
    for split, labelled in (("test", False), ("valid", True)):
        write_lines(folder / f"{split}_imgs.tsv", (image_line(100 + i, picture(i)) for i in range(N_IMAGES)))
        texts = [text_line(i, f"第{i}条", [100 + 2 * i, 101 + i] if labelled else []) for i in range(N_TEXTS)]
        write_lines(folder / f"{split}_texts.jsonl", texts)
    return base
