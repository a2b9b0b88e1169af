"""The tiny world, built once; every test gets its own copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnclip.data.dataset import PairDataset
from cnclip.model.dual_encoder import DualEncoder
from tests.cnclip.online.world import build_world, taught_model

Taught = tuple[DualEncoder, torch.optim.Optimizer]


@pytest.fixture(scope="session")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def train(lmdb: Path) -> PairDataset:
    return PairDataset(lmdb / "train")


@pytest.fixture
def valid(lmdb: Path) -> PairDataset:
    return PairDataset(lmdb / "valid")


@pytest.fixture(scope="session")
def _taught(lmdb: Path) -> Taught:
    return taught_model(PairDataset(lmdb / "train"))


@pytest.fixture
def taught(_taught: Taught) -> Callable[[], Taught]:
    """A model that knows four colours, with its optimizer, as often as asked for."""
    return lambda: copy.deepcopy(_taught)
