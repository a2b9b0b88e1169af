"""The command line of `cnclip ensemble fit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError
from cnclip.flags import FlagParser
from cnclip.prediction.topk_cli import NORMALIZE_CHOICES, NORMALIZE_HELP

if TYPE_CHECKING:
    from rich.table import Table

    from cnclip.prediction.fit_job import Fitted
    from cnclip.prediction.matrix import ScoreMatrix

_METRICS = ("mean_recall", "mAP", "R@1", "R@5", "R@10")
_METHOD_NAMES = {"single": "the best member alone", "equal": "equal weights", "learned": "learned weights"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip ensemble`."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", required=True, parser_class=FlagParser
    )
    summary = "learn weights on a labelled split, for predict ensemble --weights FILE"
    fit = actions.add_parser("fit", help=summary, description=summary)
    fit.add_argument("--out", metavar="FILE", type=Path, required=True, help="the weights go here, as JSON")
    what = fit.add_argument_group("members")
    what.add_argument(
        "--models", metavar="MODEL", nargs="+", default=[], help="files in DATAPATH/resume, paths, or names"
    )
    what.add_argument(
        "--matrices",
        metavar="FILE",
        nargs="+",
        type=Path,
        default=[],
        help="score matrices instead of models",
    )
    data = fit.add_argument_group("labelled split")
    data.add_argument("--datapath", metavar="DIR", type=Path, help="with datasets/NAME, resume and npy_save")
    data.add_argument("--dataset", metavar="NAME", default="MUGE", help="DATAPATH/datasets/NAME (MUGE)")
    data.add_argument(
        "--data", metavar="DIR", type=Path, help="an LMDB root, a split of it, or a folder of MUGE files"
    )
    data.add_argument("--split", default="valid", help="default: valid")
    data.add_argument(
        "--labels", metavar="FILE", type=Path, help="a *_texts.jsonl (default: that of the split)"
    )
    data.add_argument(
        "--npy-save", metavar="DIR", type=Path, help="score matrices are kept here (DATAPATH/npy_save/SPLIT)"
    )
    how = fit.add_argument_group("how")
    how.add_argument(
        "--metric", choices=_METRICS, default="mean_recall", help="what has to get better (mean_recall)"
    )
    how.add_argument("--normalize", choices=NORMALIZE_CHOICES, default="zscore", help=NORMALIZE_HELP)
    how.add_argument("--folds", metavar="N", type=int, default=5, help="of the cross-validation (5)")
    how.add_argument("--seed", metavar="N", type=int, default=0, help="of its folds (0)")
    how.add_argument("--batch-size", metavar="N", type=int, default=64, help="pictures at once (64)")
    how.add_argument("--device", help="cpu, cuda, … (default: the best there is)")
    how.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fastest that is safe"
    )


def run(args: argparse.Namespace) -> int:
    """Learn, print a table, write the weights. Raises InputError on bad data."""
    from rich.console import Console

    from cnclip.prediction.fit_job import fit_ensemble
    from cnclip.prediction.weights import write_weights

    if bool(args.models) == bool(args.matrices):
        raise InputError("either --models or --matrices must be given")
    matrices, labels = _from_matrices(args) if args.matrices else _from_models(args)
    fitted = fit_ensemble(
        matrices, labels, metric=args.metric, how=args.normalize, folds=args.folds, seed=args.seed
    )
    write_weights(args.out, fitted.weights)
    console = Console(file=sys.stdout)
    console.print(results_table(fitted, args.metric))
    for line in summary_lines(fitted, args.metric):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{args.out}\n")
    return 0


def _from_matrices(args: argparse.Namespace) -> tuple[list[ScoreMatrix], dict[str, list[str]]]:
    from cnclip.prediction.labels import read_labels
    from cnclip.prediction.matrix import open_matrix

    if args.labels is None:
        raise InputError("--labels: must be given with --matrices")
    return [open_matrix(path) for path in args.matrices], read_labels(args.labels)


def _from_models(args: argparse.Namespace) -> tuple[list[ScoreMatrix], dict[str, list[str]]]:
    from cnclip.model.device import tune_malloc
    from cnclip.prediction.bars import bars
    from cnclip.prediction.extract import tell
    from cnclip.prediction.job import Job, model_matrix
    from cnclip.prediction.labels import read_labels
    from cnclip.prediction.loading import find_model, load_model
    from cnclip.prediction.split import open_prediction_split

    base: Path | None = args.datapath
    data = args.data or (base / "datasets" / args.dataset if base else None)
    folder = args.npy_save or (base / "npy_save" / args.split if base else None)
    if data is None or folder is None:
        raise InputError("--datapath, or both --data and --npy-save, must be given")
    if args.batch_size < 1:
        raise InputError(f"--batch-size: must be at least 1, not {args.batch_size}")
    names = [find_model(name, base / "resume" if base else None) for name in args.models]
    refused: list[str] = []
    split = open_prediction_split(data, args.split, text_data=args.labels, on_error=refused.append)
    tell(refused)
    tune_malloc()
    with bars() as progress:
        job = Job(split=split, results=folder, matrices=folder, batch_size=args.batch_size, progress=progress)
        matrices = [
            model_matrix(job, load_model(name, device=args.device, dtype=args.dtype), number)
            for number, name in enumerate(names, 1)
        ]
    if args.labels is not None:
        return matrices, read_labels(args.labels)
    return matrices, {str(row.text_id): row.image_ids for row in split.texts}


def results_table(fitted: Fitted, metric: str) -> Table:
    """Each member alone, equal and chosen weights: the metric learnt for with its bounds, and a few more, in
    percent."""
    from rich.markup import escape
    from rich.table import Table

    details = fitted.weights.details
    title = (
        f"{details['n_queries']} labelled texts, {details['n_gallery']} pictures, {metric} with 95 % bounds"
    )
    table = Table(title=title)
    table.add_column("member")
    others = [name for name in ("R@1", "R@10", "mean_recall", "mAP") if name != metric]
    for name in ("weight", metric, *others):
        table.add_column(name, justify="right")
    shares = [f"{member.weight:.3f}" for member in fitted.weights.members]
    for result, share in zip(fitted.results, [*shares, "", ""], strict=True):
        mean, low, high = (100 * bound for bound in result.interval())
        name = f"{result.name} ({fitted.fit.chosen})" if result is fitted.results[-1] else result.name
        row = [f"{100 * result.metrics[other]:.2f}" for other in others]
        table.add_row(escape(name), share, f"{mean:.2f} ({low:.2f}–{high:.2f})", *row)
    return table


def summary_lines(fitted: Fitted, metric: str) -> list[str]:
    """What was chosen and why, which members are left out, and what it gains."""
    lines = [f"{metric} on queries that had no say in the weights:"]
    for name, interval in fitted.held_out.items():
        mark = "  <- chosen" if name == fitted.fit.chosen else ""
        mean, low, high = (100 * bound for bound in interval)
        lines.append(f"  {_METHOD_NAMES[name]}: {mean:.2f} ({low:.2f}–{high:.2f}){mark}")
    dropped = [member.model for member in fitted.weights.members if not member.weight]
    if dropped:
        lines.append(f"dropped, they do not help: {', '.join(dropped)}")
    mean, low, high = (100 * bound for bound in fitted.gain)
    best = fitted.results[fitted.best].name
    lines.append(f"against {best} alone: {mean:+.2f} ({low:+.2f} to {high:+.2f}), on the queries learnt from")
    return lines
