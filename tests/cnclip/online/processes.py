"""Run by test_processes.py under torchrun and alone: rounds on the tiny world, results into a file.

python -m tests.cnclip.online.processes OUT LMDB
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cnclip.data.dataset import PairDataset
from cnclip.training.distributed import World, join_world
from tests.cnclip.online.world import SETTINGS, Shop, make_round, make_task, taught_model

SCENES = {
    "good": (Shop(), {}),
    "text": (Shop(), {"scope": "text", "keep": 5.0}),
    "wrong": (Shop(wrong=("紫色", "橙色")), {"gate": False, "tolerance": 0.0}),
}


def run(world: World, lmdb: Path, scene: str) -> dict[str, Any]:
    """Three rounds: decisions, numbers, and this process's weights."""
    shop, changes = SCENES[scene]
    train, valid = PairDataset(lmdb / "train"), PairDataset(lmdb / "valid")
    model, optimizer = taught_model(train)
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    # Alone, in two sub-batches: dropout then draws what it draws in two processes.
    rows = 64 if world.size > 1 else 13
    online = make_round(model, train, shop if world.is_main else None, settings, world, rows)
    records = []
    for number in range(3):
        task = make_task(online, valid, number)
        if not world.is_main:  # only rank 0 knows what the gallery looks like
            task = replace(task, guarded=replace(task.guarded, hashes=[]))
        records.append(online.take(task, optimizer).record)
    return {
        "decisions": [record["decision"] for record in records],
        "why": [record["why"] for record in records],
        "losses": [step["loss"] for record in records for step in record["steps"]],
        "outcomes": [[picture["outcome"] for picture in record["pictures"]] for record in records],
        "balance": online.balance.totals,
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
    }


def main() -> None:
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        results = {scene: run(world, Path(sys.argv[2]), scene) for scene in SCENES}
        torch.save(results, f"{sys.argv[1]}.{world.rank}")
        world.wait()


if __name__ == "__main__":
    main()
