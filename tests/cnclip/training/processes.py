"""Run by test_processes.py under torchrun and alone: a few steps in every setting, results into a file.

python -m tests.cnclip.training.processes OUT.pt SUB_BATCHES
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch
from torch import nn

from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.training.contrastive import Contrastive
from cnclip.training.distributed import World, join_world
from cnclip.training.loop import FitConfig, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.step import Precision, train_step
from cnclip.training.teacher import Teacher
from tests.cnclip.training.conftest import build_tiny_model
from tests.cnclip.training.test_contrastive import make_batch

ROWS, STEPS = 16, 3  # rows of the global batch
LOSSES = ("multi-positive", "info-nce", "dual-softmax")
SETTINGS: dict[str, dict[str, Any]] = {
    **{
        f"{loss} mixup {mixup} dropout {dropout}": {"loss": loss, "mixup_beta": mixup, "dropout": dropout}
        for loss, mixup, dropout in itertools.product(LOSSES, (0.0, 0.1), (False, True))
    },
    "teacher": {"teacher": True, "dropout": True},
    "masked": {"mask_ratio": 0.5, "dropout": True},
    "sharded": {"sharded": True, "dropout": True},
    "lamb": {"optimizer": "lamb", "dropout": True},
    "own negatives": {"aggregate": False},
    "frozen": {"freeze": True, "dropout": True},
    "a picture missing": {"missing": 3, "dropout": True},
}


def local_batch(world: World, step: int, missing: int | None) -> dict[str, Any]:
    """This process's rows of a global batch that all processes agree on."""
    batch = make_batch(ROWS, seed=step)
    if missing is not None:
        batch["valid"][missing] = False
        batch["image"][missing] = 0
    rows = ROWS // world.size
    mine = slice(world.rank * rows, (world.rank + 1) * rows)
    return {name: value if name == "relevance" else value[mine] for name, value in batch.items()}


def run(world: World, sub_batches: int, setting: dict[str, Any]) -> dict[str, Any]:
    """Losses and gradient norms of each step, and the weights after the last."""
    setting = dict(setting)
    model = build_tiny_model()
    if not setting.pop("dropout", False):
        _switch_off_dropout(model)
    if setting.pop("freeze", False):
        model.visual.requires_grad_(False)
    pixels = Normalizer(model.config.preprocess, world.device)
    if setting.pop("teacher", False):
        setting["teacher"] = Teacher(build_tiny_model(), pixels)
    sharded, missing = setting.pop("sharded", False), setting.pop("missing", None)
    parallel = Parallel(model, world, sharded=sharded)
    config = FitConfig(STEPS, 1e-3, optimizer=setting.pop("optimizer", "adamw"))
    objective = Contrastive(parallel, pixels, sub_batches=sub_batches, **setting)
    optimizer = optimizer_of(model, config)
    losses, norms = [], []
    for step in range(STEPS):
        batch = local_batch(world, step, missing)
        values = train_step(
            model, batch, objective, optimizer, lr=1e-3, precision=Precision(), seed=step, max_grad_norm=0.5
        )
        losses.append(world.mean({"loss": values["loss"]})["loss"])
        norms.append(values["grad_norm"])
    weights = {name: value.clone() for name, value in parallel.state_dict().items()}  # rank 0 has them whole
    moments = parallel.optimizer_state(optimizer)
    return {"losses": losses, "norms": norms, "weights": weights, "moments": len(moments.get("state", ()))}


def _switch_off_dropout(model: DualEncoder) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_p"):
            module.dropout_p = 0.0


def main() -> None:
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        results = {name: run(world, int(sys.argv[2]), setting) for name, setting in SETTINGS.items()}
        if world.is_main:
            torch.save(results, sys.argv[1])
        world.wait()


if __name__ == "__main__":
    main()
