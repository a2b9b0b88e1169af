"""Pretrained weights for one tower, in every form they are published in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, CLIPConfig, CLIPModel

from cnclip.errors import InputError, WeightsError
from cnclip.model.config import TextConfig, VisionConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_hf, save_pt
from cnclip.model.tower_weights import load_image_tower, load_text_tower
from cnclip.model.weights import resize_positions
from cnclip.model.zoo import build_zoo_model
from tests.cnclip.model.conftest import RESNET, TEXT, VIT, config_of, ids_for, images_for, make_model
from tests.cnclip.model.openai_clip import openai_state
from tests.cnclip.model.zoo_folders import image_folder, randomised, text_folder

State = dict[str, Tensor]


def fresh(vision: VisionConfig = VIT, text: TextConfig = TEXT) -> DualEncoder:
    return make_model(config_of(vision, text), seed=7)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.detach().double(), b.detach().double()).min())


def others(model: DualEncoder, tower: str) -> State:
    """A copy of all weights but a tower's."""
    own = (f"{tower}.", "logit_scale")
    return {n: t.clone() for n, t in model.state_dict().items() if not n.startswith(own) or n == own[1]}


def check_only(tower: str, model: DualEncoder, before: State, *, scale: bool = False) -> None:
    """Nothing but the tower (and the logit scale where the file has one) has changed."""
    after = others(model, tower)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({"logit_scale"} if scale else set())


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 48, "patch_size": 16}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    sections = {"vision_config": vision, "text_config": text | {"vocab_size": 50, "eos_token_id": 2}}
    return randomised(CLIPModel(CLIPConfig(**sections, projection_dim=32)))


@torch.no_grad()
def clip_images(clip: CLIPModel, images: Tensor) -> Tensor:
    projected: Tensor = clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)
    return projected


@pytest.mark.parametrize("form", ["folder", "model.safetensors", "pytorch_model.bin", "bare.safetensors"])
def test_hugging_face_clip(clip: CLIPModel, form: str, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    path = tmp_path if form == "folder" else tmp_path / form
    if form == "pytorch_model.bin":
        torch.save(load_file(tmp_path / "model.safetensors"), path)
    elif form == "bare.safetensors":
        (tmp_path / "model.safetensors").rename(path)
    model = fresh()
    before = others(model, "visual")
    load_image_tower(model, path)
    images = images_for(model.config)
    assert cosine(model.encode_image(images), clip_images(clip, images)) >= 0.99999
    check_only("visual", model, before, scale=True)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}}])
def test_openai_state_dict(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    vision, state = openai_state()
    torch.save(wrap(state), tmp_path / "ViT.pt")
    model = fresh()
    before = others(model, "visual")
    load_image_tower(model, tmp_path / "ViT.pt")
    images = images_for(model.config)
    assert cosine(model.encode_image(images), vision(images)) >= 0.9999  # the file is in half precision
    assert model.logit_scale.item() == pytest.approx(4.6052) and model.visual.proj.dtype == torch.float32
    check_only("visual", model, before, scale=True)


def test_positions_are_interpolated(tmp_path: Path) -> None:
    _, state = openai_state()
    torch.save(state, tmp_path / "ViT.pt")
    model = fresh(replace(VIT, image_resolution=96))
    load_image_tower(model, tmp_path / "ViT.pt")
    expected = resize_positions(state["visual.positional_embedding"], 6).float()
    torch.testing.assert_close(model.visual.positional_embedding.detach(), expected)


def test_chinese_clip_checkpoints_give_either_tower(tmp_path: Path) -> None:
    for vision in (VIT, RESNET):
        source, model = make_model(config_of(vision)), fresh(vision)
        source.logit_scale.data.fill_(3.0)
        save_pt(source, tmp_path / "clip.pt")
        before = others(model, "visual")
        load_image_tower(model, tmp_path / "clip.pt")
        check_only("visual", model, before, scale=True)
        before = others(model, "bert")
        load_text_tower(model, tmp_path / "clip.pt")
        check_only("bert", model, before)
        images, ids = images_for(model.config), ids_for(model.config)
        torch.testing.assert_close(model.encode_image(images), source.encode_image(images))
        torch.testing.assert_close(model.bert(ids), source.bert(ids))
    save_hf(make_model(config_of(VIT)), tmp_path / "folder")
    model = fresh()
    load_image_tower(model, tmp_path / "folder")
    load_text_tower(model, tmp_path / "folder")
    source, ids = make_model(config_of(VIT)), ids_for(model.config)
    torch.testing.assert_close(model.bert(ids), source.bert(ids))


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=21128, max_position_embeddings=64, **sizes)
    return randomised(BertForMaskedLM(config))


def as_published(bert: BertForMaskedLM) -> State:
    """Names of the first BERT files: gamma and beta, heads, pooler."""
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = dict(bert.state_dict())
    for now, then in old.items():
        state = {name.replace(now, then): tensor for name, tensor in state.items()}
    state |= {f"bert.pooler.dense.{part}": torch.zeros(128) for part in ("weight", "bias")}
    state |= {"cls.seq_relationship.bias": torch.zeros(2), "bert.embeddings.position_ids": torch.arange(64)}
    return state


def bare(state: State) -> State:
    return {name.removeprefix("bert."): tensor for name, tensor in state.items() if name.startswith("bert.")}


@pytest.mark.parametrize("form", ["folder", "as published", "bare", "bare folder"])
def test_hugging_face_bert(bert: BertForMaskedLM, form: str, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    path = tmp_path if "folder" in form else tmp_path / "pytorch_model.bin"
    if form == "bare folder":
        bert.bert.save_pretrained(tmp_path)
    elif form != "folder":
        state = as_published(bert)
        torch.save(bare(state) if form == "bare" else state, path)
    model = fresh()
    before = others(model, "bert")
    load_text_tower(model, path)
    ids = ids_for(model.config)
    with torch.no_grad():
        expected = bert.bert(ids, attention_mask=ids.ne(0).long()).last_hidden_state[:, 0]
    assert cosine(model.bert(ids), expected) >= 0.99999
    check_only("bert", model, before)


LAYER = "encoder.layer.1.output.dense.weight"
TEXT_BREAKS: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (lambda s: {n: t for n, t in s.items() if LAYER not in n}, rf"1 missing \({LAYER}\)"),
    "unexpected": (
        lambda s: {**s, "bert.encoder.layer.9.x": torch.zeros(1)},
        r"1 unexpected \(encoder.layer.9",
    ),
    "misshapen": (lambda s: {**s, f"bert.{LAYER}": torch.zeros(3)}, "1 misshapen"),
    "not finite": (lambda s: {**s, f"bert.{LAYER}": s[f"bert.{LAYER}"] / 0}, "1 not finite"),
    "another kind": (lambda _: {"a": torch.zeros(1)}, "37 missing"),
}


@pytest.mark.parametrize("case", TEXT_BREAKS)
def test_text_weights_that_do_not_fit(bert: BertForMaskedLM, case: str, tmp_path: Path) -> None:
    change, message = TEXT_BREAKS[case]
    torch.save(change(dict(bert.state_dict())), tmp_path / "bert.bin")
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_text_tower(model, tmp_path / "bert.bin")
    assert str(tmp_path / "bert.bin") in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_same_shapes_another_meaning(clip: CLIPModel, bert: BertForMaskedLM, tmp_path: Path) -> None:
    model = fresh()
    clip.save_pretrained(tmp_path / "clip")
    rewrite(tmp_path / "clip/config.json", lambda v: v["vision_config"].update(hidden_act="gelu"))
    with pytest.raises(WeightsError, match="its hidden_act is 'gelu', the model's 'quick_gelu'"):
        load_image_tower(model, tmp_path / "clip")
    bert.save_pretrained(tmp_path / "bert")
    rewrite(tmp_path / "bert/config.json", lambda v: v.update(num_attention_heads=4))
    with pytest.raises(WeightsError, match="its num_attention_heads is 4, the model's 2"):
        load_text_tower(model, tmp_path / "bert/model.safetensors")


def test_image_weights_that_do_not_fit(tmp_path: Path) -> None:
    model = fresh()
    _, state = openai_state()
    torch.save({n: t for n, t in state.items() if n != "visual.proj"}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: does not fit vit-128x2-16: weights 1 missing \(proj\)"):
        load_image_tower(model, tmp_path / "a.pt")
    torch.save({**state, "visual.extra": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"1 unexpected \(extra\)"):
        load_image_tower(model, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="does not fit"):
        load_image_tower(fresh(RESNET), tmp_path / "a.pt")
    save_file({"bert.x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"no image tower \(visual\.\* or vision_model\.\*\) in it"):
        load_image_tower(model, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_image_tower(model, tmp_path / "c.pt")


def test_openai_s_own_download_is_refused_with_the_alternative(tmp_path: Path) -> None:
    """A TorchScript archive: opening it means running the code in it."""
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "ViT-B-16.pt"))
    message = r"ViT-B-16\.pt: a TorchScript archive.*running code.*Hugging Face folder.*state_dict"
    with pytest.raises(WeightsError, match=message):
        load_image_tower(fresh(), tmp_path / "ViT-B-16.pt")


def test_zoo_towers_have_their_own_weights(tmp_path: Path) -> None:
    image_folder(tmp_path / "image")
    text_folder(tmp_path / "text")
    model = build_zoo_model(f"hf:{tmp_path / 'image'}", f"hf:{tmp_path / 'text'}", 16)
    with pytest.raises(InputError, match="the image tower hf:image brings its own weights"):
        load_image_tower(model, tmp_path / "a.pt")
    with pytest.raises(InputError, match="the text tower hf:text brings its own weights"):
        load_text_tower(model, tmp_path / "a.pt")
