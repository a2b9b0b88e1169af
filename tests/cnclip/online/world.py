"""A tiny world to learn online in: a model that knows four colours is asked for two more."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnclip.data.dataset import PairDataset
from cnclip.data.lmdb_build import build_lmdb
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.model.tokens import tokenizer_of
from cnclip.online.batch import BatchMaker
from cnclip.online.fetching import PatientSource
from cnclip.online.gate import Guarded
from cnclip.online.plan import distinct, gallery_hashes
from cnclip.online.replay import Memory
from cnclip.online.round import OnlineRound, Task
from cnclip.online.settings import OnlineSettings
from cnclip.online.source import Answer, FreshPicture, Miss
from cnclip.training.contrastive import Contrastive
from cnclip.training.data import PairBatches, TrainingView
from cnclip.training.distributed import ALONE, World
from cnclip.training.loop import FitConfig, fit, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.run_state import RunState
from cnclip.training.step import Precision
from cnclip.training.validation import Measured, measure_split
from tests.cnclip.training.conftest import build_tiny_model

KNOWN = {"红色": (220, 30, 30), "绿色": (30, 200, 40), "蓝色": (30, 40, 210), "黄色": (230, 220, 40)}
NEW = {"紫色": (150, 30, 200), "橙色": (240, 130, 20)}
COLOURS = {**KNOWN, **NEW}
SETTINGS = OnlineSettings(
    scope="all", pictures=5, budget_s=5, lr=5e-3, replay=16, keep=0.0, canary=8, tolerance=0.02, seed=3
)


def square(rgb: tuple[int, int, int], rng: np.random.Generator, side: int = 80) -> bytes:
    """A JPEG of one colour with blotches that make each unlike all others."""
    blotches = rng.normal(0, 18, (10, 10, 3)).repeat(side // 10, 0).repeat(side // 10, 1)
    pixels = np.clip(np.array(rgb) + blotches, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_split(folder: Path, split: str, colours: Mapping[str, tuple[int, int, int]], each: int) -> None:
    """MUGE files with `each` pictures of every colour."""
    rng = np.random.default_rng([len(split), each])
    rows, texts = [], []
    for number, (name, rgb) in enumerate(colours.items()):
        ids = [number * 100 + shade for shade in range(each)]
        rows += [f"{i}\t{base64.urlsafe_b64encode(square(rgb, rng)).decode()}" for i in ids]
        texts.append(json.dumps({"text_id": number, "text": name, "image_ids": ids}, ensure_ascii=False))
    (folder / f"{split}_imgs.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / f"{split}_texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")


def build_world(folder: Path) -> Path:
    """LMDB splits `train` (what is known) and `valid` (with what is new)."""
    write_split(folder, "train", KNOWN, 24)
    write_split(folder, "valid", COLOURS, 8)
    build_lmdb(folder, ["train", "valid"], folder / "lmdb")
    return folder / "lmdb"


def taught_model(train: PairDataset) -> tuple[DualEncoder, torch.optim.Optimizer]:
    """A model that knows the four colours, and the optimizer that taught it."""
    model = build_tiny_model()
    batches = PairBatches([train], model.config.preprocess, 16, seed=1)
    config = FitConfig(60, 2e-3, warmup=5, seed=1)
    parallel = Parallel(model)
    objective = Contrastive(parallel, Normalizer(model.config.preprocess, torch.device("cpu")))
    state = RunState(parallel, optimizer_of(model, config), Precision(), {})
    fit(model, batches, objective, config, Precision(), state=state)
    return model, state.optimizer


@dataclass
class Shop:
    """A source with `each` pictures of every colour of `sells`; `wrong` sells the next colour instead."""

    sells: Sequence[str] = tuple(NEW)
    each: int = 5
    wrong: Sequence[str] = ()
    seed: int = 5
    asked: list[tuple[list[str], list[int]]] = field(default_factory=list)

    name = "test shop"

    def prefetch(self, queries: Sequence[str]) -> None:
        pass

    def fetch(self, queries: Sequence[str], numbers: Sequence[int], deadline: float) -> dict[str, Answer]:
        assert deadline > 0
        self.asked.append((list(queries), list(numbers)))
        return {query: self._pictures(query, numbers) or Miss("empty") for query in queries}

    def _pictures(self, query: str, numbers: Sequence[int]) -> list[FreshPicture]:
        if query not in self.sells:
            return []
        names = list(COLOURS)
        shown = names[(names.index(query) + 2) % len(names)] if query in self.wrong else query
        rng = np.random.default_rng([self.seed, names.index(query)])
        drawn = [square(COLOURS[shown], rng) for _ in range(self.each)]
        return [
            FreshPicture(query, n, drawn[n - 1], {"source": self.name}) for n in numbers if n <= self.each
        ]


def maker(model: DualEncoder, memory: Memory, world: World = ALONE, rows: int = 64) -> BatchMaker:
    config = model.config
    view = TrainingView(config.preprocess)
    return BatchMaker(memory, view, tokenizer_of(config), config.context_length, world, rows)


def make_round(
    model: DualEncoder,
    train: PairDataset,
    source: object | None,
    settings: OnlineSettings = SETTINGS,
    world: World = ALONE,
    rows: int = 64,
) -> OnlineRound:
    memory = Memory([train], settings.canary, settings.seed)
    patient = None if source is None else PatientSource(source)  # type: ignore[arg-type]
    parallel = Parallel(model, world)
    return OnlineRound(parallel, Precision(), settings, patient, memory, maker(model, memory, world, rows))


def make_task(online: OnlineRound, valid: PairDataset, number: int = 0) -> Task:
    def measure(**known: Any) -> Measured:
        return measure_split(online.parallel, valid, **known)

    before = measure_split(online.parallel, valid)
    guarded = Guarded(gallery_hashes(valid), before.embedded.image_vectors)
    texts = distinct([row.text for row in valid.texts])
    return Task(number, texts, guarded, before, measure, {"step": 1, "epoch": 1})
