"""Files are written whole or not at all."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cnclip.errors import InputError
from cnclip.model import save
from cnclip.model.atomic import replacing
from cnclip.model.config import ModelConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_hf, save_pt, save_safetensors
from tests.cnclip.model.conftest import make_model


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half of the ne")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("writer", [save_pt, save_safetensors])
def test_the_real_message_of_a_full_disk_is_one_line(
    vit_model: DualEncoder, tmp_path: Path, writer: Callable[[DualEncoder, Path], None]
) -> None:
    """A limit on the size of files stands in for the full disk; the old file stays."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            writer(vit_model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("writer", [save_pt, save_safetensors])
def test_full_disk_is_one_clear_line(
    vit_model: DualEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: Callable[[DualEncoder, Path], None],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "save_file", full)
    monkeypatch.setattr(save.torch, "save", full)
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"a\.bin: cannot be written \(No space left on device\)"):
        writer(vit_model, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_a_file(vit_model: DualEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_pt(vit_model, tmp_path / "file" / "a.pt")


def test_safetensors_metadata(vit_model: DualEncoder, tmp_path: Path) -> None:
    save_safetensors(
        vit_model, tmp_path / "a.safetensors", dtype=torch.float16, metadata={"licence": "Apache-2.0"}
    )
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("visual.proj").dtype == torch.float16
    assert metadata["licence"] == "Apache-2.0"
    entry = json.loads(metadata["cnclip"])
    assert entry["schema"] == 1
    assert ModelConfig.from_dict(entry["config"]) == vit_model.config


def test_values_that_float16_cannot_hold(vit_model: DualEncoder, tmp_path: Path) -> None:
    model = make_model(vit_model.config)
    with torch.no_grad():
        model.visual.proj[0, 0] = 1e6
    with pytest.raises(InputError, match=r"'visual\.proj' has values that float16 cannot hold"):
        save_safetensors(model, tmp_path / "a.safetensors", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_what_a_hugging_face_folder_cannot_express(
    vit_model: DualEncoder, resnet_model: DualEncoder, lite_model: DualEncoder, tmp_path: Path
) -> None:
    config = vit_model.config
    padded = replace(config, preprocess=replace(config.preprocess, resize_mode="pad"))
    mean = replace(config, text=replace(config.text, text_pooling="mean"))
    for model in (resnet_model, lite_model, make_model(padded), make_model(mean)):
        with pytest.raises(InputError):
            save_hf(model, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
