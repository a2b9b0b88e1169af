"""MUGE files → LMDB shards; the same flags as Chinese-CLIP's script of this name, and `cnclip build-lmdb`.

Input, for each split, in `--data_dir`:
    {split}_imgs.tsv      image_id<TAB>base64 of an encoded picture, either alphabet
    {split}_texts.jsonl   {"text_id": 7, "text": "红色连衣裙", "image_ids": [3, 5]}; [] where unlabelled
Output: `{lmdb_dir}/{split}/imgs` (and imgs-00001, … when large) and `{lmdb_dir}/{split}/pairs`, as
`cnclip.data.lmdb_store` describes, and a table of rows in, out and dropped by reason.

    python preprocess/build_lmdb_dataset.py --data_dir ${DATAPATH}/datasets/MUGE --splits train,valid,test

A killed run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # started as a file: let `cnclip` be found
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from rich.console import Console

    from cnclip.data.lmdb_report import BuildOptions, SplitReport

EXIT_OK, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130
SHOWN_PROBLEMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags; the spellings of Chinese-CLIP's script work too."""
    parser.add_argument(
        "--data-dir",
        "--data_dir",
        required=True,
        metavar="DIR",
        help="where {split}_imgs.tsv and _texts.jsonl are",
    )
    parser.add_argument(
        "--splits", required=True, metavar="A,B", help="splits to build, comma-separated: train,valid,test"
    )
    parser.add_argument(
        "--lmdb-dir", "--lmdb_dir", metavar="DIR", help="where to write (default: DATA_DIR/lmdb)"
    )
    parser.add_argument("--force", action="store_true", help="replace splits that are already there")
    parser.add_argument("--strict", action="store_true", help="stop at the first broken row, exit code 2")
    parser.add_argument(
        "--check-images",
        choices=("header", "decode", "off"),
        default="header",
        help="open each picture (default), decode all of it (slower, finds truncated ones), or neither",
    )
    parser.add_argument(
        "--shard-gb",
        type=float,
        default=8.0,
        metavar="N",
        help="start another shard after N GiB (default: 8)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Build and report. Raises InputError as `cnclip.data.lmdb_build.build_lmdb` does."""
    from rich.console import Console

    from cnclip.data.lmdb_report import BuildOptions
    from cnclip.errors import InputError

    if not args.shard_gb > 0:
        raise InputError(f"--shard-gb: must be above 0, not {args.shard_gb}")
    options = BuildOptions(
        force=args.force,
        strict=args.strict,
        check_images=args.check_images,
        shard_bytes=max(1, int(args.shard_gb * 2**30)),
    )
    splits = [name.strip() for name in args.splits.split(",") if name.strip()]
    reports = _build(args, splits, options, Console(file=sys.stderr))
    for report in reports:
        if not report.pairs:
            sys.stderr.write(
                f"warning: {report.split}: 0 pairs: no text names a picture of it, so that nothing can be"
                " learnt from it or scored on it\n"
            )
    if args.json:
        content = [report.to_dict() for report in reports]
        sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    else:
        print_reports(reports, Console(file=sys.stdout))
    return EXIT_OK


def _build(
    args: argparse.Namespace, splits: list[str], options: BuildOptions, console: Console
) -> list[SplitReport]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from cnclip.data.lmdb_build import build_lmdb

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # Where stderr is a file, a bar would leave an empty line in it.
    with Progress(*columns, console=console, disable=not console.is_interactive) as progress:
        tasks = {split: progress.add_task(split, total=None) for split in splits}

        def show(split: str, done: int, size: int) -> None:
            progress.update(tasks[split], completed=done, total=size)

        return build_lmdb(args.data_dir, splits, args.lmdb_dir, options=options, on_progress=show)


def print_reports(reports: Sequence[SplitReport], console: Console) -> None:
    """The first broken rows, and a table of rows in, out and dropped by reason."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="rows")
    for name in ("split", "what"):
        table.add_column(name)
    for name in ("in", "out", "dropped"):
        table.add_column(name, justify="right")
    table.add_column("reason", overflow="fold")
    for report in reports:
        for what, tally in (("pictures", report.images), ("texts", report.texts)):
            dropped = sum(tally.dropped.values())
            table.add_row(report.split, what, str(tally.read), str(tally.kept), str(dropped))
            for reason, count in sorted(tally.dropped.items(), key=lambda item: -item[1]):
                table.add_row("", "", "", "", str(count), escape(reason))
            for note, count in tally.noted.items():
                table.add_row("", "", "", "", "", escape(f"{count} {note}"), style="dim")
        size = f"{report.image_bytes / 2**20:.1f} MiB in {report.shards} shard(s)"
        resumed = f", resumed after row {report.resumed_at}" if report.resumed_at else ""
        table.add_row("", "pairs", "", str(report.pairs), "", f"{size}, {report.seconds:.1f} s{resumed}")
    problems = [line for report in reports for line in report.problems]
    for line in problems[:SHOWN_PROBLEMS]:
        console.print(escape(line), soft_wrap=True, highlight=False)
    if len(problems) > SHOWN_PROBLEMS:
        console.print("… more of the same; the table counts all of them")
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code (2 on bad input, in one line)."""
    parser = argparse.ArgumentParser(
        prog="build_lmdb_dataset.py", description=(__doc__ or "").split("\n\n")[0]
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    from cnclip.errors import CnclipError

    try:
        return run(args)
    except CnclipError as error:
        sys.stderr.write(f"build_lmdb_dataset.py: error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("build_lmdb_dataset.py: interrupted; the same command goes on from here\n")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
