"""Conversions between all formats keep the model, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cnclip.errors import InputError
from cnclip.model.convert import convert
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_pt
from cnclip.model.weights import load_checkpoint


@pytest.fixture
def source(vit_model: DualEncoder, tmp_path: Path) -> Path:
    save_pt(vit_model, tmp_path / "source.pt", epoch=4, step=50, name="muge")
    return tmp_path / "source.pt"


def test_round_trip_through_all_formats(source: Path, tmp_path: Path) -> None:
    first = convert(source, tmp_path / "a.safetensors")
    second = convert(tmp_path / "a.safetensors", tmp_path / "hf")
    third = convert(tmp_path / "hf", tmp_path / "b.pt")
    assert [r.target_format for r in (first, second, third)] == ["safetensors", "huggingface", "pt"]
    for result in (first, second, third):
        assert min(result.image_cosine, result.text_cosine) > 0.999999
        assert result.target_fingerprint == first.source_fingerprint


def test_counters_of_a_pt_survive(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "b.pt", dtype=torch.float16)
    loaded = load_checkpoint(tmp_path / "b.pt")
    assert loaded.info == {"epoch": 4, "step": 50, "name": "muge"}
    assert loaded.state_dict["visual.proj"].dtype == torch.float16


def test_bfloat16_changes_the_fingerprint_and_little_else(source: Path, tmp_path: Path) -> None:
    result = convert(source, tmp_path / "b.safetensors", dtype=torch.bfloat16)
    assert result.target_fingerprint != result.source_fingerprint
    assert min(result.image_cosine, result.text_cosine) > 0.999


def test_another_resolution(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "big.safetensors", resolution=96)
    assert load_checkpoint(tmp_path / "big.safetensors").config.preprocess.size == 96


def test_an_existing_target_needs_overwrite(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.write_text("mine")
    with pytest.raises(InputError, match="exists already; use --force"):
        convert(source, target)
    assert target.read_text() == "mine"
    convert(source, target, overwrite=True)
    load_checkpoint(target)


@pytest.mark.parametrize("name", ["a.onnx", "a.bin"])
def test_unknown_formats(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"write to a \.pt file"):
        convert(source, tmp_path / name)


def test_onto_itself(source: Path) -> None:
    with pytest.raises(InputError, match="is the source itself"):
        convert(source, source, overwrite=True)
