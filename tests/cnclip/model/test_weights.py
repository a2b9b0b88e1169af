"""Every naming Chinese-CLIP's checkpoints come in loads to the same model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cnclip.errors import WeightsError
from cnclip.model.config import ModelConfig
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_pt, save_safetensors
from cnclip.model.weights import build_model, load_checkpoint, load_model, resize_positions
from cnclip.text import tokenize
from tests.cnclip.model.conftest import config_of, ids_for, images_for, make_model

State = dict[str, Tensor]


def embeddings(model: DualEncoder) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return model.encode_image(images_for(model.config)), model.encode_text(ids_for(model.config))


def assert_same_model(one: DualEncoder, other: DualEncoder) -> None:
    for a, b in zip(embeddings(one), embeddings(other), strict=True):
        torch.testing.assert_close(a, b)


def prefixed(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def flash(state: State) -> State:
    """As FlashAttention training names them, by its description: q, k and v in one, in both towers."""
    out = {}
    for name, tensor in state.items():
        if ".attn.in_proj_" in name:
            out[name.replace("in_proj_", "Wqkv.")] = tensor
        elif ".attention.self.query." in name:
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            out[name.replace("query", "Wqkv")] = torch.cat(parts)
        elif ".attention.output.dense." in name:
            out[name.replace("attention.output.dense", "attention.self.out_proj")] = tensor
        elif ".attention.self." not in name:
            out[name] = tensor
    return out


def with_leftovers(state: State) -> State:
    return {
        **state,
        "bert.pooler.dense.weight": torch.zeros(128, 128),
        "bert.pooler.dense.bias": torch.zeros(128),
        "bert.embeddings.position_ids": torch.arange(64)[None],
    }


@pytest.mark.parametrize("wrap", [True, False], ids=["in a dict", "plain"])
@pytest.mark.parametrize(
    "rename",
    [dict, prefixed, flash, with_leftovers, lambda s: prefixed(flash(with_leftovers(s)))],
    ids=["as is", "module.", "flash", "leftovers", "all three"],
)
def test_every_naming(
    vit_model: DualEncoder, tmp_path: Path, rename: Callable[[State], State], wrap: bool
) -> None:
    state = rename(dict(vit_model.state_dict()))
    content = (
        {"epoch": 7, "step": 99, "name": "muge", "state_dict": state, "optimizer": {}} if wrap else state
    )
    torch.save(content, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.source_format == "pt"
    assert loaded.info == ({"epoch": 7, "step": 99, "name": "muge"} if wrap else {})
    assert loaded.config == replace(vit_model.config, vision=loaded.config.vision, text=loaded.config.text)
    assert_same_model(build_model(loaded), vit_model)


@pytest.mark.parametrize("fixture", ["vit_model", "resnet_model", "lite_model"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_our_files_bring_their_configuration(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, suffix: str
) -> None:
    model: DualEncoder = request.getfixturevalue(fixture)
    path = tmp_path / f"a{suffix}"
    (save_pt if suffix == ".pt" else save_safetensors)(model, path)
    loaded = load_checkpoint(path)
    assert loaded.config == model.config
    assert_same_model(build_model(loaded), model)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing left beside it


def test_old_zipless_pt(vit_model: DualEncoder, tmp_path: Path) -> None:
    content = {"state_dict": vit_model.state_dict()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert_same_model(load_model(tmp_path / "a.pt"), vit_model)


def test_missing_batch_counters_are_filled_in(resnet_model: DualEncoder, tmp_path: Path) -> None:
    state = {k: v for k, v in resnet_model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    assert_same_model(load_model(tmp_path / "a.pt"), resnet_model)


def test_built_model_owns_its_weights(vit_model: DualEncoder, tmp_path: Path) -> None:
    save_pt(vit_model, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    loaded = load_checkpoint(tmp_path / "a.pt")
    model = build_model(loaded, dtype=torch.bfloat16)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.visual.proj.dtype == torch.bfloat16
    assert model.logit_scale.dtype == torch.float32  # bfloat16 would turn 100 into 98.9
    float_model = build_model(loaded)
    with torch.no_grad():
        float_model.visual.proj.zero_()
    assert loaded.state_dict["visual.proj"].abs().sum() > 0
    assert (tmp_path / "a.pt").read_bytes() == before


def test_chinese_clips_own_reader_finds_what_it_needs(vit_model: DualEncoder, tmp_path: Path) -> None:
    """Its steps: torch.load, checkpoint["state_dict"], strip module. off all names, load strictly."""
    save_pt(vit_model, tmp_path / "a.pt", epoch=2, step=10, name="x", optimizer={"state": {}})
    checkpoint = torch.load(tmp_path / "a.pt", map_location="cpu", weights_only=True)
    assert {k: checkpoint[k] for k in ("epoch", "step", "name")} == {"epoch": 2, "step": 10, "name": "x"}
    state = checkpoint["state_dict"]
    assert next(iter(state)).startswith("module.")
    plain = {k.removeprefix("module."): v for k, v in state.items() if "bert.pooler" not in k}
    fresh = make_model(vit_model.config, seed=5)
    fresh.load_state_dict(plain, strict=True)
    assert_same_model(fresh, vit_model)


def naive_resize(positions: Tensor, grid: int) -> Tensor:
    """Bicubic (a = -0.75) with aligned corners and clamped borders, cell by cell."""

    def kernel(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.25 * t**3 - 2.25 * t**2 + 1
        return -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3 if t < 2 else 0.0

    side = round((len(positions) - 1) ** 0.5)
    cells = positions[1:].reshape(side, side, -1).double()
    out = torch.zeros(grid, grid, cells.shape[-1], dtype=torch.float64)
    for i in range(grid):
        for j in range(grid):
            y, x = i * (side - 1) / (grid - 1), j * (side - 1) / (grid - 1)
            for m in range(int(y) - 1, int(y) + 3):
                for n in range(int(x) - 1, int(x) + 3):
                    cell = cells[min(max(m, 0), side - 1), min(max(n, 0), side - 1)]
                    out[i, j] += kernel(y - m) * kernel(x - n) * cell
    return torch.cat([positions[:1], out.reshape(grid * grid, -1).float()])


@pytest.mark.parametrize(("side", "grid"), [(7, 12), (3, 5), (12, 7), (4, 4)])
def test_positions_interpolate_like_the_naive_version(side: int, grid: int) -> None:
    positions = torch.randn(side**2 + 1, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_positions(positions, grid), naive_resize(positions, grid))
    assert resize_positions(positions.half(), grid).dtype == torch.float16


@pytest.mark.parametrize(
    ("fixture", "resolution"), [("vit_model", 80), ("resnet_model", 96), ("lite_model", 96)]
)
def test_another_resolution(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, resolution: int
) -> None:
    model: DualEncoder = request.getfixturevalue(fixture)
    save_pt(model, tmp_path / "a.pt")
    larger = load_model(tmp_path / "a.pt", resolution=resolution)
    assert larger.config.vision.image_resolution == larger.config.preprocess.size == resolution
    assert embeddings(larger)[0].shape == embeddings(model)[0].shape
    torch.testing.assert_close(embeddings(larger)[1], embeddings(model)[1])
    save_safetensors(larger, tmp_path / "larger.safetensors")
    assert_same_model(load_model(tmp_path / "larger.safetensors"), larger)


def test_an_expected_configuration_sets_the_resolution(vit_model: DualEncoder, tmp_path: Path) -> None:
    save_pt(vit_model, tmp_path / "a.pt")
    config = vit_model.config
    wanted = replace(config, vision=replace(config.vision, image_resolution=96))
    assert (
        load_checkpoint(tmp_path / "a.pt", config=wanted).state_dict["visual.positional_embedding"].shape[0]
        == 37
    )


@pytest.mark.parametrize("resolution", [50, 8])
def test_a_resolution_that_does_not_fit_the_patches(
    vit_model: DualEncoder, tmp_path: Path, resolution: int
) -> None:
    save_pt(vit_model, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=f"resolution {resolution} is not a multiple of 16 pixels"):
        load_checkpoint(tmp_path / "a.pt", resolution=resolution)


def test_golden_embeddings(vit_model: DualEncoder) -> None:
    """Two texts and one picture through a fixed tiny model; a change here changes every stored vector."""
    image = [0.0476355, 0.1077477, 0.1748431, -0.0187642, -0.0127079, 0.2972360, -0.1433820, -0.3726628]
    texts = [[0.4922773, -0.0193130, -0.0950291, -0.0497499], [0.4920149, -0.0414198, -0.1004895, -0.0374711]]
    with torch.inference_mode():
        pictures = vit_model.encode_image(images_for(vit_model.config))
        words = vit_model.encode_text(torch.from_numpy(tokenize(["红色连衣裙", "一只猫"])))
    torch.testing.assert_close(pictures[0, :8], torch.tensor(image), rtol=0, atol=1e-4)
    torch.testing.assert_close(words[:, :4], torch.tensor(texts), rtol=0, atol=1e-4)


def test_padding_changes_nothing(vit_model: DualEncoder) -> None:
    texts = ["猫", "红色连衣裙", "一只在雪地里奔跑的狗"]
    with torch.inference_mode():
        together = vit_model.encode_text(torch.from_numpy(tokenize(texts, pad_to="max")))
        alone = torch.cat([vit_model.encode_text(torch.from_numpy(tokenize(text))) for text in texts])
    torch.testing.assert_close(together, alone)


def test_text_tower_keeps_mean_pooling_in_a_pt(tmp_path: Path, vit_model: DualEncoder) -> None:
    """What names and shapes cannot tell survives in our own .pt."""
    config: ModelConfig = replace(
        vit_model.config,
        text=replace(vit_model.config.text, text_pooling="mean"),
        preprocess=replace(vit_model.config.preprocess, resize_mode="pad", mean=(0.5, 0.5, 0.5)),
    )
    model = make_model(config)
    save_pt(model, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.config == config
    assert_same_model(build_model(loaded), model)


def test_config_of_names_match_inference(
    vit_model: DualEncoder, resnet_model: DualEncoder, tmp_path: Path
) -> None:
    for model in (vit_model, resnet_model):
        torch.save(model.state_dict(), tmp_path / "a.pt")
        assert load_checkpoint(tmp_path / "a.pt").config == config_of(model.config.vision)
