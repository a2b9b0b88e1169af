"""What loss and sampler are worth where captions repeat: the shop photos, 173 queries for 5,708 photos.

    CNCLIP_SHOP_DATA=… python -m tests.benchmarks.bench_losses --out results.jsonl [--seeds 3] [--epochs 1]

Every arm starts from EfficientNet-Lite0's ImageNet weights (extra `lite`) and a new small text tower, sees
the same number of pairs, and is measured over the full gallery of the validation split. Arms that `--out`
has already are not run again, so the command can be stopped and given again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cnclip.data.dataset import PairDataset
from cnclip.data.sampler import SamplerName
from cnclip.model.config import named_config
from cnclip.model.device import tune_malloc
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.efficientnet import EfficientNetLite
from cnclip.model.pixels import Normalizer
from cnclip.training.contrastive import Contrastive, LossName
from cnclip.training.data import PairBatches
from cnclip.training.distributed import World
from cnclip.training.lite import load_imagenet_tower
from cnclip.training.lite_recipe import _imagenet_weights
from cnclip.training.loop import FitConfig, fit
from cnclip.training.parallel import Parallel
from cnclip.training.step import Precision
from cnclip.training.validation import measure_split

ARMS: dict[str, tuple[LossName, SamplerName]] = {
    "InfoNCE, shuffled (Chinese-CLIP's way)": ("info-nce", "shuffle"),
    "InfoNCE, distinct": ("info-nce", "distinct"),
    "multi-positive, shuffled": ("multi-positive", "shuffle"),
    "multi-positive, distinct (default)": ("multi-positive", "distinct"),
    "multi-positive, debiased": ("multi-positive", "debias"),
}
METRICS = ("R@1", "R@5", "R@10", "mean_recall", "mAP", "P@10")


def by_source(dataset: PairDataset, folder: Path) -> list[PairDataset]:
    """The photos' two origins, groceries and clothes, as data sets of their own."""
    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    clothes = {query for queries in classes["clothing"].values() for query in queries}
    parts = []
    for wanted in (True, False):
        part = copy.copy(dataset)
        part.__dict__.pop("pairs", None)
        part.texts = [row for row in dataset.texts if (row.text in clothes) == wanted]
        parts.append(part)
    return parts


def start(size: int, seed: int) -> DualEncoder:
    config = named_config("EfficientNet-Lite0", "RBT-tiny-chinese")
    vision = replace(config.vision, image_resolution=size)
    config = replace(config, vision=vision, preprocess=replace(config.preprocess, size=size))
    torch.manual_seed(seed)
    model = DualEncoder(config)
    assert isinstance(model.visual, EfficientNetLite)
    load_imagenet_tower(model.visual, _imagenet_weights())
    model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def run(arm: str, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    loss, sampler = ARMS[arm]
    model, train = start(args.size, seed), PairDataset.from_muge(folder, "train")
    sources = by_source(train, folder) if sampler == "debias" else [train]
    batches = PairBatches(
        sources,
        model.config.preprocess,
        args.batch_size,
        augmentation="light",
        sampler=sampler,
        seed=seed,
    )
    steps = args.epochs * (len(train) // args.batch_size)
    config = FitConfig(
        steps, 4e-4, warmup=30, weight_decay=0.02, seed=seed,
        lr_scales={"visual.proj": 4.0, "bert": 2.0, "text_projection": 4.0, "logit_scale": 4.0},
    )  # fmt: skip
    world = World()
    parallel = Parallel(model, world)
    objective = Contrastive(parallel, Normalizer(model.config.preprocess, world.device), loss=loss)
    fit(model, batches, objective, config, Precision("bf16"))
    result = measure_split(parallel, PairDataset.from_muge(folder, "valid"), bf16=True).result
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "duplicates": batches.duplicate_rate(batches=steps),
        **result,
    }


def report(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "arm", "seeds", "pairs with a double in the batch", *METRICS, title="text to image, mean ± deviation"
    )
    for arm in ARMS:
        found = [row for row in rows if row["arm"] == arm]
        if found:
            cells = []
            for name in METRICS:
                values = [row["text_to_image"][name] for row in found]
                cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=min(1, len(values) - 1)):.3f}")
            table.add_row(arm, str(len(found)), f"{np.mean([r['duplicates'] for r in found]):.0%}", *cells)
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    tune_malloc()
    folder = Path(os.environ["CNCLIP_SHOP_DATA"])
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for seed in range(args.seeds):
        for arm in ARMS:
            if not any(row["arm"] == arm and row["seed"] == seed for row in rows):
                rows.append(run(arm, seed, folder, args))
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
                report(rows)
    report(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
