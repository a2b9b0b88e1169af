"""Steps that can be taken back, moments that are carried over, weights that are drawn back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cnclip.data.dataset import PairDataset
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.tokens import tokenizer_of
from cnclip.online.batch import Meanings
from cnclip.online.replay import Memory
from cnclip.online.steps import OnlineSteps, Snapshot, carry_moments
from cnclip.training.parallel import Parallel
from cnclip.training.step import NonFiniteError, Precision
from tests.cnclip.online.world import KNOWN, maker

Taught = Callable[[], tuple[DualEncoder, torch.optim.Optimizer]]


def replay_batch(model: DualEncoder, train: PairDataset, n: int = 16, seed: int = 0) -> tuple[dict, int]:
    memory = Memory([train], 8, 3)
    made = maker(model, memory)
    rows, parts = made.division(0, n)
    return made.batch([], memory.draw(rows, [seed]), Meanings.none(memory), [seed]), parts


def length(model: DualEncoder, before: list[torch.Tensor]) -> float:
    moved = [(p.detach() - b).square().sum() for p, b in zip(model.parameters(), before, strict=True)]
    return float(torch.stack(moved).sum().sqrt())


def test_a_snapshot_brings_back_weights_buffers_and_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 3, 8, 8)).square().sum().backward()
        optimizer.step()

    step()
    saved = {n: t.clone() for n, t in model.state_dict().items()}
    moments = {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state_dict()["state"].items()}
    snapshot = Snapshot(model, optimizer)
    assert snapshot.distance() == 0.0
    step(), step()
    assert snapshot.distance() > 0.0
    assert not torch.equal(model[1].running_mean, saved["1.running_mean"])
    snapshot.restore()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    now = optimizer.state_dict()["state"]
    assert all(torch.equal(now[k][n], v) for k, s in moments.items() for n, v in s.items())


def test_carried_moments_make_the_first_step_no_leap(taught: Taught, train: PairDataset) -> None:
    """Without moments Adam's first step is one learning rate in every coordinate, wherever the gradient is
    small or large."""
    lengths = {}
    for name in ("carried", "warmed", "none"):
        model, optimizer = taught()
        run = optimizer if name == "carried" else None
        with OnlineSteps(Parallel(model), Precision(), "all", run=run) as steps:
            if name == "warmed":
                before = [p.detach().clone() for p in model.parameters()]
                steps.warm_up((replay_batch(model, train, seed=n) for n in range(4)), 1)
                assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
            assert steps.experience == {"carried": 60, "warmed": 4, "none": 0}[name]
            before = [p.detach().clone() for p in model.parameters()]
            steps.step(*replay_batch(model, train, seed=99), lr=1e-3, seed=1)
        lengths[name] = length(model, before)
        if name == "none":
            n = sum(p.numel() for p in model.parameters() if p.grad is not None)
            touched = sum(int((p.grad != 0).sum()) for p in model.parameters() if p.grad is not None)
            assert lengths[name] == pytest.approx(1e-3 * touched**0.5, rel=0.1), n
    assert lengths["carried"] < lengths["none"] and lengths["warmed"] < lengths["none"]


def test_the_source_of_moments_stays_as_it_is(taught: Taught, train: PairDataset) -> None:
    model, optimizer = taught()
    before = {p: {n: v.clone() for n, v in s.items()} for p, s in optimizer.state.items()}
    with OnlineSteps(Parallel(model), Precision(), "text", run=optimizer) as steps:
        steps.step(*replay_batch(model, train), lr=1e-3, seed=1)
        learning = {id(p) for group in steps.optimizer.param_groups for p in group["params"]}
    assert all(torch.equal(optimizer.state[p][n], v) for p, s in before.items() for n, v in s.items())
    assert learning == {
        id(p) for n, p in model.named_parameters() if n.startswith(("bert.", "text_projection"))
    }
    target = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
    carry_moments(optimizer, target)
    assert not target.state


def test_the_pull_draws_weights_back(taught: Taught, train: PairDataset) -> None:
    ends = {}
    for pull in (0.0, 30.0):
        model, optimizer = taught()
        anchors = {n: p.detach().clone() for n, p in model.named_parameters()}
        start = list(anchors.values())
        with OnlineSteps(
            Parallel(model), Precision(), "all", run=optimizer, anchors=anchors, pull=pull
        ) as steps:
            for n in range(12):
                steps.step(*replay_batch(model, train, seed=n), lr=2e-3, seed=n)
        ends[pull] = length(model, start)
    assert ends[30.0] < 0.7 * ends[0.0]


def test_known_texts_are_kept_where_they_are(taught: Taught, train: PairDataset) -> None:
    """Replay alone lets them move; the same gradient reaches every process, so it needs no exchange."""
    cosines = {}
    for keep in (0.0, 100.0):
        model, optimizer = taught()
        ids = torch.from_numpy(tokenizer_of(model.config)(list(KNOWN), 16))
        with torch.no_grad():
            before = model.eval().encode_text(ids)
        steps = OnlineSteps(
            Parallel(model), Precision(), "text", run=optimizer, known=(ids, before), keep=keep
        )
        with steps:
            for n in range(12):
                values = steps.step(*replay_batch(model, train, seed=n), lr=3e-3, seed=n)
        assert ("kept" in values) == (keep > 0)
        with torch.no_grad():
            cosines[keep] = float((model.eval().encode_text(ids) * before).sum(1).min())
    assert 1 - cosines[100.0] < 0.5 * (1 - cosines[0.0])


def test_a_loss_that_is_not_finite_moves_nothing(taught: Taught, train: PairDataset) -> None:
    model, optimizer = taught()
    with torch.no_grad():
        model.logit_scale.fill_(float("nan"))
    before = [p.detach().clone() for p in model.parameters()]
    steps = OnlineSteps(Parallel(model), Precision(), "all", run=optimizer)
    with steps, pytest.raises(NonFiniteError):
        steps.step(*replay_batch(model, train), lr=1e-3, seed=1)
    weights = zip(model.parameters(), before, strict=True)
    assert all(torch.equal(p, b) for p, b in weights if p is not model.logit_scale)
