"""Broken, unsafe and foreign files: one clear line that names the file, and nothing is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cnclip.errors import WeightsError
from cnclip.model.config import named_config
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import config_entry, save_hf, save_pt, save_safetensors
from cnclip.model.weights import load_checkpoint

State = dict[str, Tensor]


def message(path: Path, **options: Any) -> str:
    """The one line load_checkpoint refuses `path` with."""
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path, **options)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 500
    return text


class Bomb:
    """Leaves a mark on disk if anything unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["pt", "old pt", "pickle"])
def test_pickle_bombs_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "a.pt", tmp_path / "mark"
    content = {"state_dict": {"a": torch.ones(2)}, "extra": Bomb(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "pt")
    assert re.search(r"would run code \((posix|nt)\.mkdir\)", message(path))
    assert not mark.exists()


def test_a_bomb_inside_a_hugging_face_folder(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"a": Bomb(mark)}, tmp_path / "pytorch_model.bin")
    assert "would run code" in message(tmp_path)
    assert not mark.exists()


def test_even_harmless_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    assert "argparse.Namespace" in message(tmp_path / "a.pt")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_anywhere(vit_model: DualEncoder, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    (save_pt if suffix == ".pt" else save_safetensors)(vit_model, path)
    os.truncate(path, int(path.stat().st_size * share))
    assert re.search("truncated or damaged.*again", message(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"hello, this is a text", "neither a PyTorch checkpoint nor safetensors"),
        (b"<!doctype html><html>404", "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 40, "truncated or damaged"),
        (b"\x80\x02}q\x00.", "damaged.*again"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_of_another_kind(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "a.safetensors" and expected.startswith("neither"):
        expected = "truncated or damaged"
    assert re.search(expected, message(tmp_path / name))


@pytest.mark.parametrize(
    "header", [b"{", b'{"a":1}', b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999]}}', b"not json"]
)
def test_safetensors_with_a_bad_header(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    assert "truncated or damaged" in message(path)


def test_safetensors_with_a_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**50).to_bytes(8, "little") + b"{}")
    assert "truncated or damaged" in message(path)


@pytest.mark.parametrize("length", [0x280, 0x3C20])
def test_safetensors_whose_length_looks_like_another_format(tmp_path: Path, length: int) -> None:
    """640 starts like a pickle, 15,392 like a web page after a blank."""
    path = tmp_path / "a.safetensors"
    header = b'{"__metadata__":{}}'.ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header)
    assert "holds no weights" in message(path)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "holds a list, not a dict"),
        ({"state_dict": 3}, "'state_dict' is a int"),
        ({"state_dict": {"visual.proj": 3}}, "'visual.proj' is a int, not a weight"),
        ({"state_dict": {}}, "holds no weights"),
        ({"model": {"visual.proj": torch.ones(2)}}, "'model' is a dict, not a weight"),
        ({"fc.weight": torch.ones(2, 2)}, r"no image tower \(visual"),
    ],
)
def test_pt_of_another_shape(tmp_path: Path, content: Any, expected: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert re.search(expected, message(tmp_path / "a.pt"))


def edited(state: State, name: str, tensor: Tensor | None) -> State:
    return {**{k: v for k, v in state.items() if k != name}, **({} if tensor is None else {name: tensor})}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda s: edited(s, "visual.ln_post.bias", None), r"1 missing \(visual\.ln_post\.bias\)"),
        (lambda s: edited(s, "visual.proj", None), r"'visual\.proj' is missing"),
        (lambda s: {**s, "visual.extra": torch.ones(2)}, r"1 unexpected \(visual\.extra\)"),
        (
            lambda s: {k.replace("ln_1", "norm_1"): v for k, v in s.items()},
            r"4 missing \(visual\S+ln_1.weight, \S+, \S+ and 1 more\); 4 unexpected \(visual\S+norm_1",
        ),
        (
            lambda s: edited(s, "visual.ln_pre.weight", torch.ones(64)),
            r"1 misshapen \(visual\.ln_pre\.weight \(64,\) instead of \(128,\)\)",
        ),
        (
            lambda s: edited(s, "text_projection", s["text_projection"].T),
            r"text_projection \(32, 128\) instead of \(128, 32\)",
        ),
        (lambda s: edited(s, "visual.positional_embedding", torch.ones(9, 128)), "not 1 \\+ a square number"),
        (lambda s: edited(s, "visual.conv1.weight", torch.ones(128)), "4 dimensions expected"),
        (lambda s: edited(s, "visual.proj", s["visual.proj"].int()), r"not floating point \(visual\.proj"),
        (lambda s: edited(s, "logit_scale", torch.tensor(float("nan"))), r"1 not finite \(logit_scale\)"),
        (lambda s: edited(s, "visual.proj", s["visual.proj"] / 0), r"not finite \(visual\.proj\)"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("bert.")}, r"no text tower \(bert"),
        (lambda s: {**s, "module.visual.proj": s["visual.proj"].clone()}, "there twice"),
        (
            lambda s: {**s, "bert.encoder.layer.999999999.output.dense.bias": torch.ones(2)},
            r"missing \(bert\.encoder\.layer\.2",
        ),
        (
            lambda s: {**s, "bert.encoder.layer.0.attention.self.Wqkv.weight": torch.ones(128, 128)},
            "cannot be split in three",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_do_not_fit(
    vit_model: DualEncoder, tmp_path: Path, edit: Callable[[State], State], expected: str, suffix: str
) -> None:
    state = edit(dict(vit_model.state_dict()))
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state}, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    assert re.search(expected, message(path))


def test_another_architecture_than_asked_for(vit_model: DualEncoder, tmp_path: Path) -> None:
    torch.save(vit_model.state_dict(), tmp_path / "a.pt")
    text = message(tmp_path / "a.pt", config=named_config("ViT-B-16", "RBT3-chinese"))
    assert "looks like vit-128x2-16@bert-128x2, not ViT-B-16@RBT3-chinese" in text
    assert "--vision-model vit-128x2-16 --text-model bert-128x2" in text


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("not json", "is not JSON"),
        ("[]", "holds no model configuration"),
        ('{"schema": 99, "config": {}}', "schema 99, this version reads 1"),
        ('{"schema": 1, "config": {}}', "missing or bad field 'vision_name'"),
    ],
)
def test_bad_metadata(vit_model: DualEncoder, tmp_path: Path, entry: str, expected: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file(dict(vit_model.state_dict()), path, metadata={"cnclip": entry})
    assert expected in message(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text_num_hidden_layers": 10**9}, "its configuration says .*, its weights look like"),
        ({"text_num_attention_heads": 7}, "text_hidden_size must be a multiple of"),
    ],
)
def test_metadata_that_contradicts_the_weights(
    vit_model: DualEncoder, tmp_path: Path, change: dict[str, int], expected: str
) -> None:
    entry = config_entry(vit_model.config)
    entry["config"]["text"].update(change)
    path = tmp_path / "a.safetensors"
    metadata = {"cnclip": json.dumps(entry)}
    save_file(dict(vit_model.state_dict()), path, metadata=metadata)
    assert re.search(expected, message(path))


@pytest.fixture
def hf_folder(vit_model: DualEncoder, tmp_path: Path) -> Path:
    save_hf(vit_model, tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.safetensors", None, r"no model\.safetensors or pytorch_model\.bin"),
        ("config.json", None, r"config\.json: no such file"),
        ("config.json", "{", r"config\.json: not valid JSON"),
        ("config.json", "[]", r"config\.json: a list, not a JSON object"),
        ("config.json", '{"model_type": "clip"}', "model_type 'clip' is not 'chinese_clip'"),
        ("config.json", '{"vision_config": {"hidden_act": "gelu"}}', "hidden_act 'gelu' is not supported"),
        (
            "config.json",
            '{"vision_config": {"num_attention_heads": 7}}',
            "num_attention_heads 7 does not divide",
        ),
        ("config.json", '{"text_config": 3}', "'text_config' is not an object"),
        ("preprocessor_config.json", '{"resample": 1}', "resample 1 is not supported"),
        ("preprocessor_config.json", '{"image_mean": [1]}', "three values each"),
        ("preprocessor_config.json", '{"image_std": ["a", 1, 1]}', "not a list of numbers"),
    ],
)
def test_hugging_face_folders(hf_folder: Path, name: str, content: str | None, expected: str) -> None:
    if content is None:
        (hf_folder / name).unlink()
    else:
        (hf_folder / name).write_text(content)
    assert re.search(expected, message(hf_folder))


def test_a_folder_that_only_holds_a_chinese_clip_pt(tmp_path: Path) -> None:
    (tmp_path / "clip_cn_rn50.pt").write_bytes(b"PK\x03\x04")
    assert f"give {tmp_path / 'clip_cn_rn50.pt'} itself" in message(tmp_path)


def test_shards_outside_the_folder_are_refused(hf_folder: Path) -> None:
    (hf_folder / "model.safetensors").unlink()
    index = {"weight_map": {"visual_projection.weight": "../../secret.safetensors"}}
    (hf_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lies outside the folder" in message(hf_folder)


def test_hugging_face_weights_with_a_part_missing(hf_folder: Path) -> None:
    weights = load_file(hf_folder / "model.safetensors")
    del weights["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    save_file(weights, hf_folder / "model.safetensors")
    assert "q_proj, k_proj and v_proj" in message(hf_folder)
