"""Folders of transformers' VisionTextDualEncoder: theirs read by us, ours read by them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

import cnclip
from cnclip.errors import InputError, WeightsError
from cnclip.model.convert import convert
from cnclip.model.dual_folder import save_dual_encoder
from cnclip.model.save import save_safetensors
from cnclip.model.weights import load_checkpoint, load_model
from run_scripts.cli import main
from tests.cnclip.model.zoo_folders import (
    TEXTS,
    image_folder,
    random_model,
    text_folder,
    write_preprocessor,
    write_tokenizer,
)

SAME = 0.99999
PAIRS = [
    ("vit", "roberta"),
    ("clip_vision_model", "bert"),
    ("swin", "clip_text_model"),
    ("beit", "xlm-roberta"),
]


def lowest_cosine(a: Any, b: Any) -> float:
    return float(F.cosine_similarity(torch.as_tensor(a).double(), torch.as_tensor(b).double()).min())


def pictures() -> list[Image.Image]:
    noise = torch.randint(
        0, 255, (3, 40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return [Image.fromarray(pixels.numpy()) for pixels in noise]


@torch.no_grad()
def theirs(folder: Path) -> tuple[Tensor, Tensor]:
    """Image and text embeddings by transformers alone, from pictures and texts on."""
    model = VisionTextDualEncoderModel.from_pretrained(folder).eval()
    processor = VisionTextDualEncoderProcessor.from_pretrained(folder)
    inputs = processor(text=list(TEXTS), images=pictures(), return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    out = model(**inputs)
    return out.image_embeds, out.text_embeds


def write_theirs(folder: Path, image: str, text: str) -> None:
    vision, words = random_model(image), random_model(text, seed=1)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, words.config, projection_dim=24
    )
    torch.manual_seed(0)
    model: PreTrainedModel = VisionTextDualEncoderModel(config, vision, words)
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    write_preprocessor(folder)
    write_tokenizer(folder)


@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_theirs_read_by_us(image: str, text: str, tmp_path: Path) -> None:
    write_theirs(tmp_path, image, text)
    encoder = cnclip.load(tmp_path, device="cpu", dtype="float32")
    images, texts = theirs(tmp_path)
    assert lowest_cosine(encoder.encode_images(pictures()), images) >= SAME
    assert lowest_cosine(encoder.encode_texts(TEXTS), texts) >= SAME
    assert encoder.dim == 24 and encoder.logit_scale == pytest.approx(20.0855, rel=1e-4)


@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_ours_read_by_them(image: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line, its proof, and the folder after it went through one of our files."""
    image_folder(tmp_path / "image", image)
    text_folder(tmp_path / "text", text)
    towers = ["--vision", f"hf:{tmp_path / 'image'}", "--text", f"hf:{tmp_path / 'text'}"]
    command = ["models", "save-dual-encoder", *towers, "--projection-dim", "24", str(tmp_path / "joined")]
    assert main(command) == 0
    proof = re.search(r"images ([\d.]+), texts ([\d.]+); fingerprint [0-9a-f]{64}", capsys.readouterr().out)
    assert proof and min(float(proof[1]), float(proof[2])) >= SAME
    encoder = cnclip.load(tmp_path / "joined", device="cpu", dtype="float32")
    model = load_model(tmp_path / "joined")
    with torch.no_grad():  # as fine-tuning would
        model.text_projection.add_(0.1)
        model.logit_scale.fill_(4.0)
    save_safetensors(model, tmp_path / "tuned.safetensors")
    result = convert(tmp_path / "tuned.safetensors", tmp_path / "back")
    assert result.source_fingerprint == result.target_fingerprint != encoder.fingerprint
    images, texts = theirs(tmp_path / "back")
    tuned = cnclip.load(tmp_path / "tuned.safetensors", device="cpu", dtype="float32")
    assert lowest_cosine(tuned.encode_images(pictures()), images) >= SAME
    assert lowest_cosine(tuned.encode_texts(TEXTS), texts) >= SAME
    assert tuned.logit_scale == pytest.approx(54.598, rel=1e-4)


def test_the_towers_inside_are_those_of_the_folders(tmp_path: Path) -> None:
    image, text = image_folder(tmp_path / "image"), text_folder(tmp_path / "text")
    save_dual_encoder(f"hf:{tmp_path / 'image'}", f"hf:{tmp_path / 'text'}", 16, tmp_path / "joined")
    model = VisionTextDualEncoderModel.from_pretrained(tmp_path / "joined")
    for tower, before in ((model.vision_model, image), (model.text_model, text)):
        for name, tensor in before.state_dict().items():
            torch.testing.assert_close(tower.state_dict()[name], tensor)
    assert model.config.projection_dim == 16 and json.loads((tmp_path / "joined/config.json").read_text())


def test_either_tower_of_a_dual_encoder_can_be_taken(tmp_path: Path) -> None:
    write_theirs(tmp_path / "dual", "vit", "roberta")
    result = save_dual_encoder(f"hf:{tmp_path / 'dual'}", f"hf:{tmp_path / 'dual'}", 16, tmp_path / "joined")
    assert min(result.image_cosine, result.text_cosine) >= SAME
    before, after = (
        VisionTextDualEncoderModel.from_pretrained(tmp_path / name) for name in ("dual", "joined")
    )
    for tower in ("vision_model", "text_model"):
        for name, tensor in getattr(before, tower).state_dict().items():
            torch.testing.assert_close(getattr(after, tower).state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n != "logit_scale"}, "'logit_scale' is missing"),
        (
            lambda s: {**s, "visual_projection.weight": torch.zeros(24)},
            "'visual_projection.weight' is",
        ),
        (lambda s: {**s, "text_projection.weight": torch.zeros(24, 8)}, "1 misshapen"),
        (lambda s: {n: t for n, t in s.items() if "text_model.pooler" not in n}, "2 missing"),
    ],
)
def test_broken_folders(change: Any, message: str, tmp_path: Path) -> None:
    write_theirs(tmp_path, "vit", "roberta")
    save_file(change(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(tmp_path / "image")
    text_folder(tmp_path / "text", "distilbert")
    towers = (f"hf:{tmp_path / 'image'}", f"hf:{tmp_path / 'text'}")
    with pytest.raises(InputError, match="distilbert has no pooled output"):
        save_dual_encoder(*towers, 16, tmp_path / "joined")
    with pytest.raises(InputError, match="two hf: towers with pooled outputs only"):
        save_dual_encoder(towers[0], "RBT-tiny-chinese", 16, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
    with pytest.raises(InputError, match="text: exists already"):
        save_dual_encoder(*towers, 16, tmp_path / "text")
    arguments = ["models", "save-dual-encoder", "--vision", towers[0], "--text", towers[1]]
    with pytest.raises(SystemExit):
        main([*arguments, "--projection-dim", "0", str(tmp_path / "joined")])
    assert "'0' is not a number of dimensions" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "joined")]) == 2
