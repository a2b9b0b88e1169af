"""Memory and speed of one optimizer step: whole batches against the same batch in sub-batches (--accum-freq).

    python -m tests.benchmarks.bench_accum [--vision ViT-B-16 --text RoBERTa-wwm-ext-base-chinese] [--part 64]

Each row is a process of its own. Memory is the peak resident set above that of the process with the model
loaded; gradients and optimizer state, which every batch size needs, count as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cnclip.model.config import named_config
from cnclip.model.device import pick_dtype, tune_malloc
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.training.contrastive import Contrastive
from cnclip.training.loop import FitConfig, optimizer_of
from cnclip.training.parallel import Parallel
from cnclip.training.step import Precision, train_step
from cnclip.training.step_times import peak_memory_mib

CPU = torch.device("cpu")


def random_batch(rows: int, side: int) -> dict[str, Any]:
    """Noise pictures with texts of 3 to 10 tokens."""
    g = torch.Generator().manual_seed(0)
    text = torch.randint(1, 20_000, (rows, 10), generator=g)
    text[torch.arange(10)[None, :] >= torch.randint(3, 11, (rows, 1), generator=g)] = 0
    return {
        "image": torch.randint(0, 256, (rows, side, side, 3), dtype=torch.uint8, generator=g).permute(
            0, 3, 1, 2
        ),
        "text": text,
        "valid": torch.ones(rows, dtype=torch.bool),
        "relevance": torch.eye(rows, dtype=torch.bool),
    }


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One warm-up step and `--steps` timed ones of `--batch` pairs in `--sub` sub-batches."""
    tune_malloc()
    model = DualEncoder(named_config(args.vision, args.text))
    model.set_grad_checkpointing(args.grad_checkpointing)
    before = peak_memory_mib(CPU) or 0.0
    batch = random_batch(args.batch, model.config.preprocess.size)
    precision = Precision("bf16" if pick_dtype(None, CPU) == torch.bfloat16 else "fp32")
    objective = Contrastive(
        Parallel(model), Normalizer(model.config.preprocess, CPU), loss="info-nce", sub_batches=args.sub
    )
    optimizer = optimizer_of(model, FitConfig(10, 1e-4))
    seconds = []
    for step in range(args.steps + 1):
        started = time.perf_counter()
        train_step(model, batch, objective, optimizer, lr=1e-4, precision=precision, seed=step)
        seconds.append(time.perf_counter() - started)
    return {"mib": (peak_memory_mib(CPU) or 0.0) - before, "per_s": args.batch / min(seconds[1:])}


def child(args: argparse.Namespace, batch: int, sub: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench_accum",
        "--child",
        "--batch",
        str(batch),
        "--sub",
        str(sub),
    ]
    command += ["--vision", args.vision, "--text", args.text, "--steps", str(args.steps)]
    command += ["--grad-checkpointing"] if args.grad_checkpointing else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vision", default="EfficientNet-Lite0")
    parser.add_argument("--text", default="RBT-tiny-chinese")
    parser.add_argument("--part", type=int, default=64, help="pairs of a sub-batch")
    parser.add_argument("--most", type=int, default=1024, help="largest batch")
    parser.add_argument("--whole-most", type=int, default=256, help="largest batch to try in one piece")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--grad-checkpointing", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sub", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(measure(args)))
        return 0
    base = child(args, args.part, 1)
    table = Table("batch", "sub-batches", "memory, MiB", "x memory", "pairs/s", title=f"{args.vision}, CPU")
    console = Console()
    table.add_row(str(args.part), "1", f"{base['mib']:.0f}", "1.00", f"{base['per_s']:.1f}")
    batch = 2 * args.part
    while batch <= args.most:
        for sub in (1, batch // args.part):
            if sub > 1 or batch <= args.whole_most:
                got = child(args, batch, sub)
                ratio = got["mib"] / base["mib"]
                table.add_row(
                    str(batch), str(sub), f"{got['mib']:.0f}", f"{ratio:.2f}", f"{got['per_s']:.1f}"
                )
        batch *= 2
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
