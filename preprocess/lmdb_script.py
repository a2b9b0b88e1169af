"""What the scripts that write LMDB shards have in common: flags, bars, the table, exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from cnclip.data.lmdb_build import OnProgress
    from cnclip.data.lmdb_report import SplitReport

EXIT_OK, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130
SHOWN_PROBLEMS = 20


def add_build_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that builds shards (see `cnclip.data.lmdb_report.BuildOptions`)."""
    parser.add_argument("--force", action="store_true", help="replace splits that are already there")
    parser.add_argument("--strict", action="store_true", help="stop at the first broken row, exit code 2")
    parser.add_argument(
        "--check-images",
        choices=("header", "decode", "off"),
        default="header",
        help="open each picture (default), decode all of it (slower, finds truncated ones), or neither",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def build_with_bars(
    splits: Sequence[str], amount: ProgressColumn, build: Callable[[OnProgress], list[SplitReport]]
) -> list[SplitReport]:
    """Run `build` below a bar for each split. amount: the column that says how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    # Where stderr is a file, a bar would leave an empty line in it.
    with Progress(*columns, console=console, disable=not console.is_interactive) as progress:
        tasks = {split: progress.add_task(split, total=None) for split in splits}

        def show(split: str, done: int, size: int) -> None:
            progress.update(tasks[split], completed=done, total=size)

        return build(show)


def show_reports(reports: Sequence[SplitReport], *, as_json: bool) -> None:
    """Print what was built to standard output: a table with the first broken rows, or JSON."""
    from rich.console import Console

    if as_json:
        content = [report.to_dict() for report in reports]
        sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    else:
        _print_table(reports, Console(file=sys.stdout))


def _print_table(reports: Sequence[SplitReport], console: Console) -> None:
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


def run_script(
    name: str,
    doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Parse and run; returns the exit code (2 on bad input, in one line). doc: of the module."""
    parser = argparse.ArgumentParser(prog=name, description=(doc or "").split("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args(argv)
    from cnclip.errors import CnclipError

    try:
        return run(args)
    except CnclipError as error:
        sys.stderr.write(f"{name}: error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; the same command goes on from here\n")
        return EXIT_INTERRUPTED
