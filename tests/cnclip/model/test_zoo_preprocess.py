"""Pictures are prepared as the folder's own image processor would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderProcessor

from cnclip.errors import InputError, WeightsError
from cnclip.image import PreprocessConfig, resize_pixels
from cnclip.model.checkpoint_files import read_preprocessor
from cnclip.model.hf_config import hf_preprocessor, preprocess_from_hf
from tests.cnclip.model.zoo_folders import write_preprocessor, write_tokenizer

RULES: dict[str, dict[str, Any]] = {
    "square": {"size": {"height": 48, "width": 48}},
    "old square": {"size": 48, "do_center_crop": False},
    "short side": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 48}}
    | {"crop_size": {"height": 48, "width": 48}, "do_center_crop": True, "resample": 3},
    "old short side": {"image_processor_type": "CLIPImageProcessor", "size": 48}
    | {"crop_size": 48, "do_center_crop": True, "resample": 3},
    "larger square": {"image_processor_type": "DeiTImageProcessor", "size": {"height": 60, "width": 60}}
    | {"crop_size": {"height": 48, "width": 48}, "do_center_crop": True},
    "larger short side": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 60}}
    | {"crop_size": {"height": 48, "width": 48}, "do_center_crop": True, "resample": 3},
    "share": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 48}}
    | {"crop_pct": 0.8},
    "not normalised": {"size": {"height": 48, "width": 48}, "do_normalize": False},
}


def smooth_picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(240, 240), (320, 240), (240, 320)])
def test_pixels_are_those_of_the_processor(rule: str, size: tuple[int, int], tmp_path: Path) -> None:
    write_preprocessor(tmp_path, **RULES[rule])
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config = preprocess_from_hf(values, 48, "a")
    image = smooth_picture(*size)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    pixels = torch.from_numpy(resize_pixels(image, config).copy()).permute(2, 0, 1) / 255
    ours = (pixels - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
    assert theirs.shape == ours.shape == (3, 48, 48)
    difference = (ours - theirs).abs() * torch.tensor(config.std).view(3, 1, 1) * 255
    assert difference.mean() < 1.0  # of 255: their larger picture is rounded once more before the cut


def test_processors_that_save_everything_in_one_file(tmp_path: Path) -> None:
    assert read_preprocessor(tmp_path) is None
    write_preprocessor(tmp_path)
    write_tokenizer(tmp_path)
    image, words = AutoImageProcessor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    VisionTextDualEncoderProcessor(image, words).save_pretrained(tmp_path / "new")
    values = read_preprocessor(tmp_path / "new")
    assert values is not None
    config = preprocess_from_hf(values, 32, "a")
    assert config == PreprocessConfig(32, (0.5, 0.5, 0.5), (0.5, 0.4, 0.3), "squash", "bilinear")


@pytest.mark.parametrize("rule", ["square", "short side", "larger square", "larger short side"])
def test_what_we_write_reads_back(rule: str) -> None:
    base = {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config = preprocess_from_hf({**base, **RULES[rule]}, 48, "a")
    assert preprocess_from_hf(hf_preprocessor(config, "CLIP"), 48, "a") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"height": 48, "width": 32}}, "only a square"),
        ({"size": "large"}, "not a number of pixels"),
        ({"size": {"shortest_edge": 100}, "crop_size": 48, "do_center_crop": True}, "crop_ratio"),
        ({"size": 48, "resample": 1}, "resample 1 is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        preprocess_from_hf(values, 48, "a")


def test_crop_ratio_is_written_only_where_there_is_one() -> None:
    assert "crop_ratio" not in PreprocessConfig().to_dict()
    config = PreprocessConfig(crop_ratio=0.875)
    assert PreprocessConfig.from_dict(config.to_dict()) == config and config.min_side == 256
    with pytest.raises(InputError, match="crop_ratio does not go with"):
        PreprocessConfig(resize_mode="pad", crop_ratio=0.875)
