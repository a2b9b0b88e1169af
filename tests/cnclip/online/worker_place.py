"""Everything around an online worker of the tiny world."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnclip.online.source import ImageSource
from cnclip.online.versions import ModelVersions, Version
from cnclip.online.worker import Worker, WorkerSettings
from cnclip.online.worker_state import Said, WorkerState
from cnclip.training.config import TrainConfig
from tests.cnclip.online.world import NEW, Shop, square

PURPLE, ORANGE = NEW


@dataclass(frozen=True)
class Feedback:
    id: int
    time: float
    query: str
    item_id: str
    relevant: bool = True
    image_sha256: str | None = None


@dataclass
class FakeInbox:
    """Items are pictures by name; an item of which there is no picture is gone."""

    said: list[Feedback] = field(default_factory=list)
    log: list[tuple[int, str]] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    items: dict[str, bytes] = field(default_factory=dict)

    def opinions(self, since: int) -> list[Feedback]:
        return [one for one in self.said if one.id > since]

    def logged(self, since: int) -> list[tuple[int, str]]:
        return [row for row in self.log if row[0] > since]

    def queries(self) -> list[str]:
        taken, self.fresh = self.fresh, []
        return taken

    def picture_of(self, said: Said) -> bytes | None:
        return self.items.get(said.item_id)

    def praise(self, query: str, *items: str, relevant: bool = True) -> None:
        for item in items:
            number = len(self.said) + 1
            self.said.append(Feedback(number, 1000.0 + number, query, item, relevant))


@dataclass
class Place:
    """Everything that outlives a worker, and how to make one."""

    folder: Path
    lmdb: Path
    inbox: FakeInbox = field(default_factory=FakeInbox)
    shop: Any = field(default_factory=Shop)
    opened: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def versions(self) -> ModelVersions:
        return ModelVersions(self.folder / "models")

    @property
    def home(self) -> Path:
        return self.folder / "models" / "tiny" / "worker"

    @contextlib.contextmanager
    def _open(self) -> Iterator[ImageSource]:
        self.opened += 1
        yield self.shop

    @contextlib.contextmanager
    def worker(self, parent: Callable[[], Version | None] | None = None) -> Iterator[Worker]:
        values: dict[str, Any] = {
            "train_data": self.lmdb / "train", "val_data": self.lmdb / "valid", "precision": "fp32",
            "model": str(self.folder / "base.safetensors"), "device": "cpu", "online_lr": 5e-3, "seed": 3,
            "online_replay": 16, "online_canary": 8, "online_tolerance": 1.0, "online_budget": 5,
            "online_min_pairs": 2, "online_scope": "all", "online_keep": 0, **self.settings,
        }  # fmt: skip
        settings = WorkerSettings(TrainConfig(**values), "tiny", self.home, 16)
        state = WorkerState(self.home / "state.sqlite")
        newest = parent or (lambda: self.versions.latest("tiny"))
        try:
            yield Worker(settings, state, self.versions, self.inbox, self._open, newest)
        finally:
            state.close()

    def labels(self) -> list[str]:
        return [version.label for version in self.versions.list()]

    def taught(self, label: str) -> list[dict[str, Any]]:
        """The pictures that taught a version."""
        version = self.versions.get(*label.split("/"))
        record = json.loads((version.folder / "round.json").read_text(encoding="utf-8"))
        return [row for row in record["pictures"] if row["outcome"] == "used"]


def praise_both(place: Place) -> None:
    """Two pictures of each new colour."""
    for name in NEW:
        place.inbox.praise(name, *(f"{name}{n}" for n in range(2)))


@contextlib.contextmanager
def memory_of(place: Place) -> Iterator[WorkerState]:
    """What the worker remembers, while none is at work."""
    state = WorkerState(place.home / "state.sqlite")
    try:
        yield state
    finally:
        state.close()


def praised_items() -> dict[str, bytes]:
    """Pictures of items 紫色0 to 紫色3 and 橙色0 to 橙色3."""
    items = {}
    for number, name in enumerate(NEW):
        rng = np.random.default_rng(number + 50)
        items |= {f"{name}{n}": square(NEW[name], rng) for n in range(4)}
    return items
