"""The tiny world, built once; every test gets its own copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnclip.data.dataset import PairDataset
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.save import save_safetensors
from cnclip.online.verdict import Decision
from tests.cnclip.online.worker_place import Place, praised_items
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


@pytest.fixture
def place(tmp_path: Path, lmdb: Path, taught: Callable[[], Taught]) -> Place:
    """For an online worker whose base model knows four colours."""
    save_safetensors(taught()[0], tmp_path / "base.safetensors")
    made = Place(tmp_path, lmdb)
    made.inbox.items |= praised_items()
    return made


@pytest.fixture
def helpful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round counts as one that helped: what is tested is what becomes of it."""
    monkeypatch.setattr("cnclip.online.round.decide", lambda *_: Decision(True, "it helped"))
