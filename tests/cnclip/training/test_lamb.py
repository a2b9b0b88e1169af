"""LAMB against its paper."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from cnclip.training.lamb import Lamb

Array = npt.NDArray[np.float64]


def lamb_twin(
    weights: list[Array], grads: list[list[Array]], lrs: list[float], decays: list[float]
) -> list[Array]:
    """You et al. 2020, algorithm 2, line by line; the trust ratio only where there is decay."""
    weights = [w.copy() for w in weights]
    for i, (w, decay) in enumerate(zip(weights, decays, strict=True)):
        m, v = np.zeros_like(w), np.zeros_like(w)
        for t, lr in enumerate(lrs, start=1):
            g = grads[t - 1][i]
            m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g**2
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-6) + decay * w
            w_norm, r_norm = np.linalg.norm(w), np.linalg.norm(r)
            w -= lr * (w_norm / r_norm if decay and w_norm and r_norm else 1.0) * r
    return weights


def take_steps(optimizer: Lamb, grads: list[list[Array]], lrs: list[float]) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for row, lr in zip(grads, lrs, strict=True):
        for p, g in zip(params, row, strict=True):
            p.grad = torch.tensor(g)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


SHAPES = [(5, 7), (3, 2, 4), (6,), (4, 4), ()]
DECAYS = [0.01, 0.2, 0.0, 0.01, 0.0]
LRS = [1e-3, 5e-3, 1e-2, 2e-3, 7e-3]


@pytest.fixture
def world() -> tuple[list[Array], list[list[Array]]]:
    """Weights (the fourth all zeros: no trust ratio at its first step) and five rounds of gradients."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in SHAPES]
    weights[3][:] = 0
    return weights, [[rng.normal(size=shape) for shape in SHAPES] for _ in LRS]


def test_lamb_against_the_paper(world: tuple[list[Array], list[list[Array]]]) -> None:
    weights, grads = world
    params = [nn.Parameter(torch.tensor(w)) for w in weights]
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(params, DECAYS, strict=True)]
    optimizer = Lamb(groups, betas=(0.9, 0.98), eps=1e-6)
    take_steps(optimizer, grads, LRS)
    for p, expected in zip(params, lamb_twin(weights, grads, LRS, DECAYS), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_lamb_updates_many_tensors_at_once_alike(world: tuple[list[Array], list[list[Array]]]) -> None:
    """The call accelerators get: all tensors of a group together."""
    weights, grads = world
    params = [nn.Parameter(torch.tensor(w)) for w in weights]
    optimizer = Lamb(params, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05)
    group = optimizer.param_groups[0]
    for row, group["lr"] in zip(grads, LRS, strict=True):
        for p, g in zip(params, row, strict=True):
            p.grad = torch.tensor(g)
        with torch.no_grad():
            optimizer._update(params, group)
    for p, expected in zip(params, lamb_twin(weights, grads, LRS, [0.05] * len(weights)), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_lamb_without_gradient_or_size_moves_nothing() -> None:
    still, zero = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.zeros(2, 2))
    optimizer = Lamb([still, zero], lr=1.0, weight_decay=0.1)
    zero.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 3)) and torch.equal(zero, torch.zeros(2, 2))
    assert still not in optimizer.state
