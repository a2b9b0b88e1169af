"""Models of zoo towers are whole files: they load without the folders they came from."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import cnclip
from cnclip.errors import InputError, WeightsError
from cnclip.model.config import ModelConfig
from cnclip.model.convert import convert
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.encoder import Encoder
from cnclip.model.fingerprint import fingerprint
from cnclip.model.hf_tower import transformers_config
from cnclip.model.save import save_hf, save_pt, save_safetensors
from cnclip.model.weights import build_model, load_checkpoint
from cnclip.model.zoo import build_zoo_model
from tests.cnclip.model.conftest import VIT as OUR_VIT
from tests.cnclip.model.conftest import config_of, images_for
from tests.cnclip.model.zoo_folders import TEXTS, image_folder, text_folder


def build(path: Path, image: str = "vit", text: str = "roberta", **changes: Any) -> DualEncoder:
    image_folder(path / "image", image, **changes)
    text_folder(path / "text", text)
    torch.manual_seed(0)
    return build_zoo_model(f"hf:{path / 'image'}", f"hf:{path / 'text'}", 24)


def identity(model: DualEncoder) -> str:
    return fingerprint(model.state_dict(), model.config)


def picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("image", "text"),
    [("vit", "roberta"), ("swin", "bert"), ("beit", "distilbert"), ("clip_vision_model", "clip_text_model")],
)
def test_round_trip_without_the_folders(suffix: str, image: str, text: str, tmp_path: Path) -> None:
    model = build(tmp_path, image, text)
    encoder = Encoder(model, name="before", fingerprint=identity(model))
    texts, pictures = encoder.encode_texts(TEXTS), encoder.encode_images([picture()])
    (save_pt if suffix == ".pt" else save_safetensors)(model, tmp_path / f"model{suffix}")
    shutil.rmtree(tmp_path / "image")
    shutil.rmtree(tmp_path / "text")
    loaded = cnclip.load(tmp_path / f"model{suffix}", device="cpu", dtype="float32")
    assert loaded.model.config == model.config and loaded.fingerprint == encoder.fingerprint
    assert loaded.dim == 24 and loaded.preprocess.mean == (0.5, 0.5, 0.5)
    np.testing.assert_allclose(loaded.encode_texts(TEXTS), texts, atol=1e-6)
    np.testing.assert_allclose(loaded.encode_images([picture()]), pictures, atol=1e-6)
    half = cnclip.load(tmp_path / f"model{suffix}", device="cpu", dtype="bfloat16")
    assert (half.encode_texts(TEXTS) * texts).sum(1).min() > 0.99
    assert (half.encode_images([picture()]) * pictures).sum(1).min() > 0.99
    assert half.logit_scale == pytest.approx(encoder.logit_scale)


@pytest.mark.parametrize("kind", ["vit", "swin", "clip_vision_model"])
def test_files_name_weights_as_published_folders_do(kind: str, tmp_path: Path) -> None:
    """Whatever the installed transformers calls its modules; so another version reads them."""
    model = build(tmp_path, kind)
    save_safetensors(model, tmp_path / "model.safetensors")
    prefix = "visual.model."
    names = load_file(tmp_path / "model.safetensors")
    ours = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    published = load_file(tmp_path / "image" / "model.safetensors")
    theirs = {name.removeprefix("vision_model.") for name in published}
    assert ours == {name for name in theirs if not name.startswith("pooler.")}


def test_the_fingerprint_sees_what_weights_do_not(tmp_path: Path) -> None:
    model = build(tmp_path)
    config, state = model.config, model.state_dict()
    changed = json.dumps({**json.loads(config.vision.hf_config), "hidden_act": "relu"}, sort_keys=True)
    others = [
        replace(config, vision=replace(config.vision, hf_config=changed)),
        replace(config, text=replace(config.text, text_pooling="mean")),
        replace(config, text=replace(config.text, hf_tokenizer=config.text.hf_tokenizer.replace("红", "黄"))),
    ]
    prints = {fingerprint(state, other) for other in [config, *others]}
    assert len(prints) == 4
    assert fingerprint({n: t.half() for n, t in state.items()}, replace(config)) == fingerprint(state, config)


def test_ordinary_configurations_are_written_as_ever() -> None:
    values = config_of(OUR_VIT).to_dict()
    assert not {name for tower in ("vision", "text") for name in values[tower] if "hf_" in name}
    assert "text_tower" not in values["text"] and "crop_ratio" not in values["preprocess"]


@pytest.mark.parametrize("image", ["vit", "beit", "swin"])
def test_evaluation_in_the_middle_of_training(image: str, tmp_path: Path) -> None:
    """Whatever transformers keeps from the evaluation (BEiT its positions) can be trained through."""
    model = build(tmp_path, image).train()
    before = Encoder.of_training_model(model).encode_images([picture()])
    assert model.training
    model(images_for(model.config), torch.tensor([[1, 5, 3]] * 3))["image_features"].sum().backward()
    np.testing.assert_array_equal(Encoder.of_training_model(model).encode_images([picture()]), before)


def test_conversion(tmp_path: Path) -> None:
    model = build(tmp_path)
    save_pt(model, tmp_path / "model.pt")
    result = convert(tmp_path / "model.pt", tmp_path / "half.safetensors", dtype=torch.float16)
    assert result.image_cosine > 0.9999 and result.text_cosine > 0.9999
    assert result.source_fingerprint == result.target_fingerprint == identity(model)
    with pytest.raises(WeightsError, match="the resolution of an hf: image tower cannot be changed"):
        convert(tmp_path / "model.pt", tmp_path / "large.pt", resolution=64)
    with pytest.raises(InputError, match="two hf: towers with pooled outputs only"):
        save_hf(model, tmp_path / "folder")


def test_a_mixed_model_keeps_its_own_tower_flexible(tmp_path: Path) -> None:
    text_folder(tmp_path / "text")
    config = build_zoo_model("EfficientNet-Lite0", f"hf:{tmp_path / 'text'}", 24).config
    model = DualEncoder(replace(config_of(OUR_VIT), text=config.text)).eval()
    save_safetensors(model, tmp_path / "model.safetensors")
    larger = build_model(load_checkpoint(tmp_path / "model.safetensors", resolution=96))
    assert larger.visual.positional_embedding.shape == (37, 128)
    assert larger.encode_image(images_for(larger.config, 1)).shape == (1, 32)
    with pytest.raises(InputError, match="two hf: towers"):
        save_hf(model, tmp_path / "folder")


def test_expecting_another_model(tmp_path: Path) -> None:
    model = build(tmp_path / "a")
    save_pt(model, tmp_path / "model.pt")
    load_checkpoint(tmp_path / "model.pt", config=model.config)
    other = build(tmp_path / "b", num_hidden_layers=1)
    with pytest.raises(WeightsError, match=r"model\.pt: looks like hf:image@hf:text, not"):
        load_checkpoint(tmp_path / "model.pt", config=other.config)


def edited(**changes: Any) -> Callable[[ModelConfig], ModelConfig]:
    """The image tower's transformers configuration with other values."""

    def edit(config: ModelConfig) -> ModelConfig:
        values = json.dumps({**json.loads(config.vision.hf_config), **changes})
        return replace(config, vision=replace(config.vision, hf_config=values))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(model_type="gpt2"), "model_type 'gpt2' cannot be this tower"),
        (edited(hidden_size="wide"), "bad vit configuration"),
        (edited(num_hidden_layers=10**9), "num_hidden_layers must be at most 1000"),
        (edited(num_hidden_layers=3), "weights 16 missing"),
        (edited(image_size=48), "misshapen"),
        (lambda c: replace(c, vision=replace(c.vision, hf_config="[")), "not a JSON object"),
        (lambda c: replace(c, vision=replace(c.vision, hf_config="[]")), "not a JSON object"),
    ],
)
def test_a_file_with_another_configuration(
    edit: Callable[[ModelConfig], ModelConfig], message: str, tmp_path: Path
) -> None:
    model = build(tmp_path)
    entry = {"schema": 1, "config": json.loads(json.dumps(edit(model.config).to_dict()))}
    torch.save({"state_dict": model.state_dict(), "cnclip": entry}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


def test_nothing_foreign_is_taken_from_a_configuration() -> None:
    """What could fetch code or kernels is left out, also when it comes in a file of ours."""
    text = json.dumps({"model_type": "bert", "_attn_implementation": "kernels-community/x", "auto_map": {}})
    config = transformers_config(text, {"bert": None}, "a")  # type: ignore[dict-item]
    assert config._attn_implementation != "kernels-community/x" and not hasattr(config, "auto_map")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/cnclip-evil-was-here",)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def resave(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Any]]) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(change(state), folder / "pytorch_model.bin")


LAYER = "encoder.layer.1.output.dense.weight"
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda p: shutil.rmtree(p / "text"), "text: no such folder"),
    "config": (lambda p: (p / "text/config.json").unlink(), "config.json: no such file"),
    "kind": (lambda p: rewrite(p / "text/config.json", model_type="t5"), "'t5' cannot be this tower"),
    "no kind": (lambda p: (p / "text/config.json").write_text("{}"), "model_type None cannot be"),
    "size": (
        lambda p: rewrite(p / "image/config.json", image_size=[32, 48]),
        r"image_size \[32, 48\] is not",
    ),
    "preprocessor": (lambda p: (p / "image/preprocessor_config.json").unlink(), "no preprocessor_config"),
    "tokenizer": (lambda p: (p / "text/tokenizer.json").write_text("{}"), "no tokenizer that can be read"),
    "words": (
        lambda p: rewrite(p / "text/config.json", vocab_size=9),
        "the id 30, its weights 9 words",
    ),
    "missing": (
        lambda p: resave(p / "text", lambda s: {n: t for n, t in s.items() if n != LAYER}),
        rf"1 missing \({LAYER}\)",
    ),
    "layers": (lambda p: rewrite(p / "text/config.json", num_hidden_layers=1), "16 unexpected"),
    "shape": (lambda p: rewrite(p / "text/config.json", intermediate_size=64), "6 misshapen"),
    "finite": (
        lambda p: resave(p / "text", lambda s: {**s, LAYER: s[LAYER] * float("nan")}),
        "1 not finite",
    ),
    "code": (
        lambda p: resave(p / "text", lambda s: {**s, "x": Evil()}),
        "refused: opening it",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_broken_folders_are_one_clear_line(case: str, tmp_path: Path) -> None:
    image_folder(tmp_path / "image")
    text_folder(tmp_path / "text")
    action, message = BREAKS[case]
    action(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        build_zoo_model(f"hf:{tmp_path / 'image'}", f"hf:{tmp_path / 'text'}", 24)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not Path("/tmp/cnclip-evil-was-here").exists()


def test_one_tower_is_not_a_model(tmp_path: Path) -> None:
    image_folder(tmp_path)
    with pytest.raises(WeightsError, match=f"one tower alone is given as hf:{tmp_path}"):
        load_checkpoint(tmp_path)
