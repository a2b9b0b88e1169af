"""`cnclip evaluate`: full-gallery retrieval metrics of a model on a labelled split."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from cnclip.data.dataset import PairDataset
    from cnclip.evaluation.evaluator import Embedded, Embedder

EXIT_OK = 0
_SHOWN_PROBLEMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip evaluate`."""
    parser.add_argument("--model", default="lite", help="a name, a checkpoint or a folder (default: lite)")
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="an LMDB root, one split of it, or a folder with {split}_imgs.tsv and {split}_texts.jsonl",
    )
    parser.add_argument("--split", default="valid", help="default: valid")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--per-query",
        type=int,
        default=0,
        metavar="N",
        help="also show the N worst queries and their pictures",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="pictures at once (default: 64)"
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: the best there is)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fastest that is safe"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print. Raises InputError on bad data, WeightsError on a bad model."""
    from rich.console import Console

    import cnclip
    from cnclip.data.dataset import open_split
    from cnclip.errors import InputError
    from cnclip.evaluation.evaluator import per_query, score
    from cnclip.model.device import tune_malloc

    if args.batch_size < 1:
        raise InputError(f"--batch-size: must be at least 1, not {args.batch_size}")
    if args.per_query < 0:
        raise InputError(f"--per-query: must be at least 0, not {args.per_query}")
    refused: list[str] = []
    dataset = open_split(args.data, args.split, on_error=refused.append)
    tune_malloc()
    encoder = cnclip.load(args.model, device=args.device, dtype=args.dtype)
    embedded = _embed(encoder, dataset, args.batch_size, Console(file=sys.stderr))
    report = score(embedded)
    if refused:
        report.setdefault("left_out", {})["rows that could not be read"] = len(refused)
    worst = per_query(embedded, worst=args.per_query) if args.per_query > 0 else []
    _warn(refused + embedded.problems)
    if args.json:
        content = {**report, "per_query": worst} if worst else report
        sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    else:
        _print_tables(report, worst, Console(file=sys.stdout))
    return EXIT_OK


def _embed(encoder: Embedder, dataset: PairDataset, batch_size: int, console: Console) -> Embedded:
    from rich.progress import Progress

    from cnclip.evaluation.evaluator import embed

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("embedding pictures", total=len(dataset.image_ids))

        def show(_what: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return embed(encoder, dataset, batch_size=batch_size, progress=show)


def _warn(problems: list[str]) -> None:
    for line in problems[:_SHOWN_PROBLEMS]:
        sys.stderr.write(f"left out: {line}\n")
    if len(problems) > _SHOWN_PROBLEMS:
        sys.stderr.write(f"… and {len(problems) - _SHOWN_PROBLEMS} more\n")


def _print_tables(report: dict[str, Any], worst: list[dict[str, Any]], console: Console) -> None:
    from cnclip.evaluation.report import metrics_table, queries_table

    console.print(metrics_table(report))
    for what, count in report.get("left_out", {}).items():
        console.print(f"left out: {count} {what}")
    if worst:
        console.print(queries_table(worst))
