"""What online learning is worth, and what it does with bad pictures.

    CNCLIP_SHOP_DATA=… python -m tests.benchmarks.bench_online --work DIR [--seeds 3] [--arms A,B]

A `lite` is trained without the photos of twelve kinds of the shop data (`--base FILE`: one that is there).
A practice shop sells pictures of those kinds, and the crawler fetches up to five for each of their queries.
Then an ordinary fine-tune on the training photos that are left validates every other step, and each
validation is a round of online learning on its 141 queries: those of the withheld kinds have pictures, the
others none. Nobody labels anything: the model sees a query and what the shop shows for it.

Every arm differs from the first in one thing. Arms that DIR/results.jsonl has are not run again, so that the
command can be stopped and given again. Measured is the validation split, of which the shop sells nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import cnclip
from cnclip.data.dataset import PairDataset
from cnclip.evaluation.evaluator import embed
from cnclip.model.device import tune_malloc
from cnclip.online.verdict import split_change
from cnclip.text import normalize
from tests.benchmarks import online_data

ROUNDS = 8
METRICS = ("mAP", "R@10")


@dataclass(frozen=True)
class Arm:
    """cache: which pictures. flags: beside the usual ones."""

    cache: str = "clean"
    flags: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "online learning": Arm(),
    "no online learning": Arm(flags={"online_learning": "false"}),
    "without replay": Arm(flags={"online_replay": 0}),
    "without replay and keeping texts": Arm(flags={"online_replay": 0, "online_keep": 0}),
    "without gate": Arm(flags={"online_gate": "false"}),
    "all weights learn": Arm(flags={"online_scope": "all"}),
    "20 % wrong pictures": Arm("wrong"),
    "20 % wrong pictures (no gate)": Arm("wrong", {"online_gate": "false"}),
    "20 % placeholders": Arm("placeholders"),
    "20 % placeholders (no gate)": Arm("placeholders", {"online_gate": "false"}),
    "all pictures wrong": Arm("all-wrong"),
}


def prepare(shop: Path, work: Path, base: Path | None) -> tuple[Path, list[str]]:
    """Everything the arms need, made once. Returns the base model and the withheld queries."""
    data = work / "data"
    if not (data / "withheld.json").exists():
        online_data.withhold(shop, data)
    withheld = json.loads((data / "withheld.json").read_text(encoding="utf-8"))
    if not (data / "lmdb").exists():
        online_data.run("run_scripts.cli", "build-lmdb", "--data-dir", data, "--splits", "train,valid")
    if base is None:
        base = work / "base.safetensors"
        if not base.exists():
            online_data.train_base(data, shop, work / "base", base)
    caches, stock = work / "caches", work / "stock"
    if not stock.exists():
        online_data.stock_shop(shop, withheld, stock)
    if not (caches / "clean").exists():
        online_data.crawl(withheld, stock, caches / "clean")
    wrong = online_data.wrong_pictures(data, caches / "clean")
    for name, share, instead in (
        ("wrong", online_data.WRONG_SHARE, wrong),
        ("placeholders", online_data.WRONG_SHARE, online_data.placeholder),
        ("all-wrong", 1.0, wrong),
    ):
        if not (caches / name).exists():
            online_data.spoil(caches / "clean", caches / name, share, instead)
    return base, withheld


def train(arm: Arm, seed: int, base: Path, work: Path, name: str) -> Path:
    """One fine-tune, by the command that users type. Returns its folder."""
    lmdb, logs = work / "data" / "lmdb", work / "runs"
    flags: dict[str, Any] = {
        "train_data": lmdb / "train", "val_data": lmdb / "valid", "model": base, "logs": logs, "name": name,
        "restart": "true", "seed": seed, "use_augment": "true", "augment": "light", "num_workers": 0,
        "wd": 0.02, "lr": 2e-5, "warmup": 1, "max_steps": 2 * ROUNDS, "valid_step_interval": 2,
        "skip_initial_validation": "true", "no_tensorboard": "true", "online_learning": "true",
        "online_cache": "true", "online_dir": work / "caches" / arm.cache, "online_pictures": 5,
        **arm.flags,
    }  # fmt: skip
    if flags["online_learning"] == "false":
        del flags["online_cache"]
    words = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
    online_data.run("run_scripts.cli", "train", *words)
    return logs / name


def scores(model: Path, valid: PairDataset, withheld: list[str]) -> dict[str, dict[str, float]]:
    """Metrics of the withheld queries and of all others, text to image, over the full gallery."""
    embedded = embed(cnclip.load(model, dtype="float32"), valid)
    found = split_change(embedded, None, {normalize(text) for text in withheld})
    return {name: dict(part.before) for name, part in zip(("withheld", "others"), found, strict=True) if part}


def decisions(run: Path) -> dict[str, int]:
    path = run / "online" / "rounds.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    pictures = [picture["outcome"] for row in rows for picture in row["pictures"]]
    return {
        "kept": sum(row["decision"] == "kept" for row in rows),
        "rolled back": sum(row["decision"] == "rolled back" for row in rows),
        "used": sum(outcome == "used" for outcome in pictures),
        "refused": sum(outcome != "used" for outcome in pictures),
    }


def report(rows: list[dict[str, Any]]) -> None:
    table = Table(title="text to image, mean (least to most of the seeds); base → after", show_lines=True)
    for column in ("arm", "seeds", "kept / taken back", "pictures used / refused"):
        table.add_column(column)
    for group in ("withheld", "others"):
        for metric in METRICS:
            table.add_column(f"{group} {metric}", justify="right")
    for arm in ARMS:
        found = [row for row in rows if row["arm"] == arm]
        if not found:
            continue
        mean = {n: np.mean([row["rounds"][n] for row in found]) for n in found[0]["rounds"]}
        cells = [
            f"{mean['kept']:.1f} / {mean['rolled back']:.1f}",
            f"{mean['used']:.0f} / {mean['refused']:.0f}",
        ]
        for group in ("withheld", "others"):
            for metric in METRICS:
                before = found[0]["before"][group][metric]
                after = [row["after"][group][metric] for row in found]
                spread = f" ({min(after):.3f} to {max(after):.3f})" if len(after) > 1 else ""
                cells.append(f"{before:.3f} → {np.mean(after):.3f}{spread}")
        table.add_row(arm, str(len(found)), *cells)
    Console(width=190).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="a model that was trained without the withheld kinds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=",".join(ARMS), help="names, with commas between")
    args = parser.parse_args()
    tune_malloc()
    shop, work = Path(os.environ["CNCLIP_SHOP_DATA"]), args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    base, withheld = prepare(shop, work, args.base and args.base.absolute())
    valid, results = PairDataset(work / "data" / "lmdb" / "valid"), work / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    before = scores(base, valid, withheld)
    for seed in range(args.seeds):
        for number, arm in enumerate(ARMS):
            if arm not in args.arms.split(",") or any(r["arm"] == arm and r["seed"] == seed for r in rows):
                continue
            run = train(ARMS[arm], seed, base, work, f"arm{number}-seed{seed}")
            after = scores(run / "checkpoints" / "epoch_latest.pt", valid, withheld)
            row = {"arm": arm, "seed": seed, "before": before, "after": after, "rounds": decisions(run)}
            rows.append(row)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            report(rows)
    report(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
