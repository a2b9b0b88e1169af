from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.losses import multi_positive_info_nce
from cnclip.training.optim import build_optimizer, has_decay
from cnclip.training.step import Direct, NonFiniteError, Precision, train_step

Build = Callable[[], DualEncoder]


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(4, 3, 32, 32, generator=g),
        "text": torch.randint(1, 1000, (4, 6), generator=g),
        "relevance": torch.eye(4, dtype=torch.bool),
    }


def contrast(model: DualEncoder, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = model(batch["image"], batch["text"])
    features = out["image_features"], out["text_features"]
    accuracy = (features[0] @ features[1].T).argmax(1).eq(torch.arange(len(features[0]))).float().mean()
    return {
        "loss": multi_positive_info_nce(*features, out["logit_scale"], batch["relevance"]),
        "acc": accuracy,
    }


def test_steps_learn_and_report(tiny_model: Build) -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, weight_decay=0.01)
    runs = [
        train_step(model, batch(), Direct(contrast), optimizer, lr=3e-3, precision=Precision())
        for _ in range(30)
    ]
    assert runs[-1]["loss"] < 0.5 * runs[0]["loss"]
    assert {"loss", "acc", "grad_norm"} == runs[0].keys()
    assert runs[-1]["acc"] == 1.0


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(tiny_model: Build, where: str) -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, weight_decay=0.01)
    train_step(model, batch(), Direct(contrast), optimizer, lr=1e-3, precision=Precision())
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    moments = {k: v["exp_avg"].clone() for k, v in optimizer.state_dict()["state"].items()}

    def broken(model: DualEncoder, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        loss = contrast(model, batch)["loss"]
        if where == "loss":
            return {"loss": loss * math.nan}
        return {"loss": loss + 0 * torch.sqrt(model.text_projection * 0).sum()}  # sqrt'(0) is infinite

    with pytest.raises(NonFiniteError, match="not taken"):
        train_step(model, batch(), Direct(broken), optimizer, lr=1e-3, precision=Precision())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in optimizer.state_dict()["state"].items())


def test_batch_statistics_survive_a_step_that_is_not_finite() -> None:
    norm = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    poison = {"x": torch.full((4, 3), math.inf)}
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    with pytest.raises(NonFiniteError):
        train_step(
            norm,
            poison,
            Direct(lambda m, b: {"loss": m(b["x"]).sum()}),
            optimizer,
            lr=0.1,
            precision=Precision(),
        )
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_logit_scale_is_clamped(tiny_model: Build) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    optimizer = build_optimizer(model, weight_decay=0.0)
    train_step(model, batch(), Direct(contrast), optimizer, lr=1e-9, precision=Precision())
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(100))


def test_gradient_norm_is_bounded() -> None:
    """With SGD the weight moves by lr * clipped gradient."""
    layer = nn.Linear(1, 1, bias=False)
    before = float(layer.weight.detach())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    metrics = train_step(
        layer,
        {},
        Direct(lambda model, _: {"loss": (1000 * model.weight).sum()}),
        optimizer,
        lr=0.1,
        precision=Precision(),
        max_grad_norm=2.0,
    )
    assert metrics["grad_norm"] == pytest.approx(1000)
    assert before - float(layer.weight.detach()) == pytest.approx(0.2, rel=1e-4)


def test_decay_and_learning_rate_groups(tiny_model: Build) -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, weight_decay=0.5, lr_scales={"visual": 2.0, "visual.proj": 5.0})
    by_parameter = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    groups = {name: by_parameter[id(p)] for name, p in model.named_parameters()}
    assert len(groups) == len(by_parameter)
    assert groups["visual.proj"]["lr_scale"] == 5.0 and groups["visual.conv1.weight"]["lr_scale"] == 2.0
    assert groups["text_projection"]["lr_scale"] == 1.0 and groups["text_projection"]["weight_decay"] == 0.5
    for name in (
        "logit_scale",
        "visual.ln_pre.weight",
        "bert.embeddings.LayerNorm.weight",
        "visual.class_embedding",
    ):
        assert groups[name]["weight_decay"] == 0.0, name
    assert not has_decay("x.bias", nn.Parameter(torch.zeros(2, 2)))
