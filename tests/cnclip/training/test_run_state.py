"""Going on from another run's checkpoint, Chinese-CLIP's included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnclip.errors import WeightsError
from cnclip.model.dual_encoder import DualEncoder
from cnclip.training.loop import FitConfig, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.run_state import RunState
from cnclip.training.step import Precision

Build = Callable[[], DualEncoder]


def state_of(model: DualEncoder) -> RunState:
    return RunState(Parallel(model), optimizer_of(model, FitConfig(10, 1e-3)), Precision(), {})


def moments(state: RunState) -> dict[str, torch.Tensor]:
    names = {id(p): name for name, p in state.parallel.model.named_parameters()}
    return {names[id(p)]: values["exp_avg"] for p, values in state.optimizer.state.items()}


@pytest.fixture
def theirs(tiny_model: Build, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint as Chinese-CLIP's training writes it after a step, and its moments by parameter name."""
    model = tiny_model()
    named = [(f"module.{name}", p) for name, p in model.named_parameters()]
    free = [p for n, p in named if "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    rest = [p for n, p in named if not ("bn" in n or "ln" in n or "bias" in n or "logit_scale" in n)]
    optimizer = torch.optim.AdamW(
        [{"params": free, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}], lr=1e-4
    )
    torch.manual_seed(1)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    path = tmp_path / "epoch3.pt"
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    saved = {"epoch": 3, "step": 77, "name": "x", "state_dict": weights, "optimizer": optimizer.state_dict()}
    torch.save(saved, path)
    return path, {n.removeprefix("module."): optimizer.state[p]["exp_avg"] for n, p in named}


def test_moments_of_chinese_clip_find_their_weights(
    tiny_model: Build, theirs: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    path, expected = theirs
    state = state_of(tiny_model())
    assert state.take_over(path, optimizer=True) == 77
    got = moments(state)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name
    weight = state.parallel.model.text_projection
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    for group in state.optimizer.param_groups:
        group["lr"] = 1e-3
    state.optimizer.step()  # moves by its momentum
    assert not torch.equal(before, weight)


def test_own_moments_too(tiny_model: Build, tmp_path: Path) -> None:
    first, second = state_of(tiny_model()), state_of(tiny_model())
    for parameter in first.parallel.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    first.optimizer.step()
    first.save(tmp_path / "a.pt", step=5, epoch=1)
    assert second.take_over(tmp_path / "a.pt", optimizer=True) == 5
    for name, value in moments(first).items():
        assert torch.equal(moments(second)[name], value)
    untouched = state_of(tiny_model())
    assert untouched.take_over(tmp_path / "a.pt", optimizer=False) == 5 and not untouched.optimizer.state


def test_what_does_not_fit_is_said(
    tiny_model: Build, theirs: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, _ = theirs
    saved = torch.load(path, weights_only=True)
    saved["optimizer"]["param_groups"][1]["params"].pop()
    torch.save(saved, tmp_path / "short.pt")
    with pytest.raises(
        WeightsError, match=r"short\.pt: its optimizer state does not fit .*--reset-optimizer"
    ):
        state_of(tiny_model()).take_over(tmp_path / "short.pt", optimizer=True)
    del saved["optimizer"]
    torch.save(saved, tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"none\.pt: holds no optimizer state; add --reset-optimizer"):
        state_of(tiny_model()).take_over(tmp_path / "none.pt", optimizer=True)
