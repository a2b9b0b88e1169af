"""Two pretrained towers give what transformers makes of them, and learn together."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedModel

from cnclip.errors import InputError
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.hf_tower import IMAGE_KINDS, TEXT_KINDS
from cnclip.model.tokens import tokenizer_of
from cnclip.model.zoo import build_zoo_model
from cnclip.text import tokenize
from tests.cnclip.model.conftest import VIT as OUR_VIT
from tests.cnclip.model.conftest import config_of, images_for, make_model
from tests.cnclip.model.zoo_folders import (
    IMAGE_CONFIGS,
    TEXT_CONFIGS,
    TEXTS,
    image_folder,
    random_model,
    randomised,
    text_folder,
    write_preprocessor,
    write_tokenizer,
)

SAME = 0.99999


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.detach().double(), b.detach().double()).min())


def hf(path: Path) -> str:
    return f"hf:{path}"


def token_ids(model: DualEncoder, texts: tuple[str, ...] = TEXTS) -> Tensor:
    return torch.from_numpy(tokenizer_of(model.config)(texts, 30))


@torch.no_grad()
def their_text(model: PreTrainedModel, folder: Path, pooling: str) -> Tensor:
    """Their states of TEXTS by their own tokenizer and padding, pooled."""
    words = AutoTokenizer.from_pretrained(folder)(list(TEXTS), padding=True, return_tensors="pt")
    mask = words["attention_mask"]
    out = model(input_ids=words["input_ids"], attention_mask=mask)
    if pooling == "pooler":
        return out.pooler_output
    if pooling == "cls":
        return out.last_hidden_state[:, 0]
    return (out.last_hidden_state * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def their_image(model: PreTrainedModel, images: Tensor, pooling: str) -> Tensor:
    out = model(pixel_values=images)
    return out.pooler_output.flatten(1) if pooling == "pooler" else out.last_hidden_state[:, 0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """image/ (ViT) and text/ (RoBERTa)."""
    path = tmp_path_factory.mktemp("zoo")
    image_folder(path / "image")
    text_folder(path / "text")
    return path


@pytest.fixture(scope="module")
def zoo_model(folders: Path) -> DualEncoder:
    return build_zoo_model(hf(folders / "image"), hf(folders / "text"), 24)


def test_every_kind_is_tested() -> None:
    assert IMAGE_KINDS.keys() == IMAGE_CONFIGS.keys()
    assert TEXT_KINDS.keys() == TEXT_CONFIGS.keys()


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("kind", IMAGE_CONFIGS)
def test_image_towers_equal_theirs(kind: str, pooler: bool, folders: Path, tmp_path: Path) -> None:
    theirs = image_folder(tmp_path / "image", kind)
    model = build_zoo_model(hf(tmp_path / "image"), hf(folders / "text"), 24, pooler=pooler)
    images = images_for(model.config)
    pooling = "pooler" if pooler else IMAGE_KINDS[kind].pooling
    expected = their_image(theirs, images, pooling) @ model.visual.proj
    assert cosine(model.encode_image(images), expected) >= SAME
    check_gradients(model.train(), images_for(model.config), token_ids(model))


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("kind", TEXT_CONFIGS)
def test_text_towers_equal_theirs(kind: str, pooler: bool, folders: Path, tmp_path: Path) -> None:
    theirs = text_folder(tmp_path / "text", kind)
    names = (hf(folders / "image"), hf(tmp_path / "text"), 24)
    if pooler and not TEXT_KINDS[kind].has_pooler:
        with pytest.raises(InputError, match=f"{kind} has no pooled output"):
            build_zoo_model(*names, pooler=True)
        return
    model = build_zoo_model(*names, pooler=pooler)
    pooling = "pooler" if pooler else TEXT_KINDS[kind].pooling
    expected = their_text(theirs, tmp_path / "text", pooling) @ model.text_projection
    assert cosine(model.encode_text(token_ids(model)), expected) >= SAME
    check_padding_does_not_matter(model)
    check_gradients(model.train(), images_for(model.config), token_ids(model))


def check_padding_does_not_matter(model: DualEncoder) -> None:
    """Alone, beside longer texts, and with more padding than needed."""
    ids = token_ids(model)
    with torch.no_grad():
        together = model.encode_text(ids)
        wide = model.encode_text(F.pad(ids, (0, 5)))
        alone = torch.cat([model.encode_text(token_ids(model, (text,))) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    torch.testing.assert_close(together, wide, atol=2e-6, rtol=0)


def check_gradients(model: DualEncoder, images: Tensor, ids: Tensor) -> None:
    out = model(images, ids)
    (
        out["logit_scale"] * (out["image_features"] @ out["text_features"][: len(images)].T).tanh()
    ).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_whole_clip_folders_give_either_tower(tmp_path: Path) -> None:
    """A CLIPModel folder holds both; the tower's own section and weights are taken."""
    sections = {
        "vision_config": IMAGE_CONFIGS["clip_vision_model"],
        "text_config": TEXT_CONFIGS["clip_text_model"],
    }
    clip = randomised(CLIPModel(CLIPConfig(**sections, projection_dim=16)))
    clip.save_pretrained(tmp_path)
    write_preprocessor(tmp_path)
    write_tokenizer(tmp_path)
    model = build_zoo_model(hf(tmp_path), hf(tmp_path), 24)
    images = images_for(model.config)
    expected = their_image(clip.vision_model, images, "pooler") @ model.visual.proj
    assert cosine(model.encode_image(images), expected) >= SAME
    expected = their_text(clip.text_model, tmp_path, "pooler") @ model.text_projection
    assert cosine(model.encode_text(token_ids(model)), expected) >= SAME


def old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def test_old_pickles_with_heads_and_old_names(folders: Path, tmp_path: Path) -> None:
    """pytorch_model.bin of a pretraining model: prefix, cls.*, gamma and beta, index buffers."""
    bert = text_folder(tmp_path, "bert")
    state = {f"bert.{old_name(name)}": tensor for name, tensor in bert.state_dict().items()}
    state |= {"cls.predictions.bias": torch.zeros(64), "bert.embeddings.position_ids": torch.arange(40)[None]}
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = build_zoo_model(hf(folders / "image"), hf(tmp_path), 24)
    expected = their_text(bert, tmp_path, "cls") @ model.text_projection
    assert cosine(model.encode_text(token_ids(model)), expected) >= SAME


def test_a_lacking_pooler_begins_at_random_and_says_so(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As roberta-base, which was published without one."""
    text_folder(tmp_path)
    AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).save_pretrained(tmp_path)
    build_zoo_model(hf(folders / "image"), hf(tmp_path), 24)
    assert "begin at random" not in caplog.text
    model = build_zoo_model(hf(folders / "image"), hf(tmp_path), 24, pooler=True)
    assert "begin at random" in caplog.text
    assert model.bert.get_parameter("model.pooler.dense.weight").isfinite().all()


def test_sentence_encoders_take_the_mean(folders: Path, tmp_path: Path) -> None:
    theirs = text_folder(tmp_path, "xlm-roberta")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    model = build_zoo_model(hf(folders / "image"), hf(tmp_path), 24)
    expected = their_text(theirs, tmp_path, "mean") @ model.text_projection
    assert cosine(model.encode_text(token_ids(model)), expected) >= SAME
    check_padding_does_not_matter(model)


def test_a_tokenizer_from_a_plain_vocabulary(folders: Path, tmp_path: Path) -> None:
    """Old BERT folders have a vocab.txt only."""
    random_model("bert", pad_token_id=0).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "红", "色", "dog", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    model = build_zoo_model(hf(folders / "image"), hf(tmp_path), 24)
    ids = tokenizer_of(model.config)(["红色 Dogs", "猫"], 30)
    expected = AutoTokenizer.from_pretrained(tmp_path)(["红色 Dogs", "猫"])["input_ids"]
    assert [[i - 1 for i in row if i] for row in ids.tolist()] == expected == [[2, 5, 6, 7, 8, 3], [2, 1, 3]]


def test_token_contract(zoo_model: DualEncoder, caplog: pytest.LogCaptureFixture) -> None:
    """int64, zero is padding on the right and nothing else; long texts are cut behind their last token."""
    words = tokenizer_of(zoo_model.config)
    ids = words(TEXTS, 8)
    assert ids.dtype == np.int64 and ids.shape == (4, 8) and "1 of 4 texts cut to 8 tokens" in caplog.text
    assert (ids[:, 0] == 1).all()  # <s> is 0 to RoBERTa
    assert [row[row > 0][-1] for row in ids] == [3] * 4  # </s>
    assert all((row[(row > 0).sum() :] == 0).all() for row in ids)
    assert words([], 8).shape == (0, 0)
    with pytest.raises(ValueError, match="at least 3"):
        words(TEXTS, 2)
    ordinary = tokenizer_of(config_of(OUR_VIT))
    np.testing.assert_array_equal(ordinary(TEXTS, 8), tokenize(TEXTS, 8))


def test_zoo_towers_beside_our_own(folders: Path) -> None:
    model = build_zoo_model("EfficientNet-Lite0", hf(folders / "text"), 24)
    assert model.config.name == "EfficientNet-Lite0@hf:text" and model.config.vision.embed_dim == 24
    assert model.encode_text(token_ids(model)).shape == (4, 24)
    assert model.encode_image(images_for(model.config, 1)).shape == (1, 24)
    model = build_zoo_model(hf(folders / "image"), "RBT-tiny-chinese", 24)
    assert model.config.name == "hf:image@RBT-tiny-chinese"
    np.testing.assert_array_equal(tokenizer_of(model.config)(TEXTS, 30), tokenize(TEXTS, 30))
    assert model.encode_text(token_ids(model)).shape == (4, 24)


class Kept:
    """How many numbers the forward pass keeps for the backward pass."""

    numbers = 0

    def pack(self, tensor: Tensor) -> Tensor:
        self.numbers += tensor.numel()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor


@pytest.mark.parametrize("towers", ["ours", "theirs"])
def test_grad_checkpointing_changes_no_gradient(towers: str, zoo_model: DualEncoder) -> None:
    model = copy.deepcopy(zoo_model) if towers == "theirs" else make_model(config_of(OUR_VIT))
    images, ids = images_for(model.config), token_ids(model)
    gradients = []
    for enabled in (False, True, False):
        model.set_grad_checkpointing(enabled)
        model.train().zero_grad()
        kept = Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            torch.manual_seed(0)
            out = model(images, ids)
        (out["image_features"][0] @ out["text_features"][0]).backward()
        gradients.append(([p.grad.clone() for p in model.parameters() if p.grad is not None], kept.numbers))
    (plain, much), (recomputed, little), (again, as_before) = gradients
    assert len(plain) == len(recomputed) == len(again) and little < much / 2 and as_before == much
    for a, b in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(a, b)


def test_mask_ratio_is_for_our_vit_only(zoo_model: DualEncoder, vit_model: DualEncoder) -> None:
    images = images_for(zoo_model.config)
    with pytest.raises(InputError, match="mask_ratio needs one of our ViT image towers, not hf:image"):
        zoo_model(images, token_ids(zoo_model), mask_ratio=0.5)
    images = images_for(vit_model.config)
    torch.manual_seed(0)
    masked = vit_model.encode_image(images, mask_ratio=0.5)
    assert not torch.allclose(masked, vit_model.encode_image(images))


def test_mixup_of_texts(zoo_model: DualEncoder, folders: Path, tmp_path: Path) -> None:
    ids = token_ids(zoo_model)
    plain = zoo_model.encode_text(ids)
    torch.testing.assert_close(zoo_model.encode_text(ids, mix=(torch.arange(4), 0.3)), plain)
    other = torch.tensor([1, 0, 3, 2])
    assert cosine(zoo_model.encode_text(ids, mix=(other, 0.5)), plain) < 0.999
    text_folder(tmp_path, "clip_text_model")
    model = build_zoo_model(hf(folders / "image"), hf(tmp_path), 24)
    with pytest.raises(InputError, match="not possible with a clip_text_model tower"):
        model.encode_text(token_ids(model), mix=(other, 0.5))


def test_without_transformers_the_extra_is_named(
    zoo_model: DualEncoder, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for act in (
        lambda: build_zoo_model(hf(folders / "image"), "RBT-tiny-chinese"),
        lambda: DualEncoder(replace(zoo_model.config)),
    ):
        with pytest.raises(InputError, match=r"hf: towers need transformers; pip install 'cnclip\[zoo\]'"):
            act()
