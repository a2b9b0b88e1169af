"""`cnclip cache`: what crawled pictures there are, whether they are sound, and carrying them elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from cache.picture_cache import PictureCache
    from cache.picture_health import Problem, Stats

EXIT_OK, EXIT_PROBLEMS = 0, 2
_MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `cnclip cache` and its actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("stats", help="count queries, pictures and misses")
    checked = actions.add_parser("verify", help="read every picture; exit code 2 if something is wrong")
    pruned = actions.add_parser("prune", help="remove what is damaged, stale, expired or empty")
    exported = actions.add_parser(
        "export", help="write good pictures to one file, to copy to another machine"
    )
    imported = actions.add_parser("import", help="merge such a file; good pictures that are there stay")
    for action in (shown, checked, pruned, exported):
        action.add_argument(
            "folders", metavar="SPLIT_DIR", nargs="+", type=Path, help="e.g. DATAPATH/valid DATAPATH/test"
        )
    imported.add_argument("file", metavar="FILE", type=Path, help="written by `cnclip cache export`")
    for action in (checked, pruned, exported, imported):
        action.add_argument(
            "--placeholder",
            metavar="FILE",
            type=Path,
            action="append",
            default=[],
            help="a picture that stands for none, as assets/fail.jpg of Online-CNCLIP: copies without a "
            "sidecar count as damaged; may be repeated",
        )
    for action in (shown, checked, pruned, exported, imported):
        action.add_argument("--json", action="store_true", help="print JSON")
    pruned.add_argument("--dry-run", action="store_true", help="only say what would go")
    pruned.add_argument(
        "--older-than", metavar="DAYS", type=_days, help="also remove pictures fetched longer ago"
    )
    pruned.add_argument(
        "--suspects", action="store_true", help="also remove what `verify` suspects to stand for no picture"
    )
    exported.add_argument("--out", metavar="FILE", type=Path, required=True, help="the archive (.tar)")
    imported.add_argument(
        "--into", metavar="DATAPATH", type=Path, required=True, help="its splits go to DATAPATH/SPLIT"
    )


def run(args: argparse.Namespace) -> int:
    """Do one action. Raises CacheError (one line) for a cache or archive that cannot be used."""
    actions = {"stats": _stats, "verify": _verify, "prune": _prune, "export": _export, "import": _import}
    return actions[args.action](args)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return days


def _caches(args: argparse.Namespace) -> list[PictureCache]:
    from cache.errors import CacheError
    from cache.picture_cache import PictureCache

    placeholders = _placeholders(args)
    for folder in args.folders:
        if not folder.is_dir():
            raise CacheError(f"{folder}: no such folder")
    return [PictureCache(folder, placeholders=placeholders) for folder in args.folders]


def _placeholders(args: argparse.Namespace) -> list[str]:
    from cache.picture_content import placeholder_look

    return [placeholder_look(path) for path in getattr(args, "placeholder", ())]


def _stats(args: argparse.Namespace) -> int:
    from cache.picture_health import stats
    from cnclip.printable import printable

    counted = [(str(cache.root), stats(cache, now=time.time())) for cache in _caches(args)]
    for problem in (problem for _, counts in counted for problem in counts.broken):
        sys.stderr.write(f"{printable(problem)}\n")
    if args.json:
        return _print_json([{"folder": folder, **counts.to_dict()} for folder, counts in counted])
    table = _table("", *(folder for folder, _ in counted))
    columns = [_rows(counts) for _, counts in counted]
    for name in dict.fromkeys(name for column in columns for name in column):
        _add_row(table, name, *(column.get(name, "0") for column in columns))
    _print(table)
    return EXIT_OK


def _rows(counts: Stats) -> dict[str, str]:
    """A column of the table of `stats`."""
    values = counts.to_dict()
    rows = {"queries with pictures": f"{counts.queries:,}", "pictures": f"{counts.pictures:,}"}
    rows |= {f"  with picture {number}": f"{count:,}" for number, count in values["by_number"].items()}
    rows |= {f"  from {source}": f"{count:,}" for source, count in values["sources"].items()}
    rows |= {"MiB": f"{counts.bytes / _MIB:,.1f}"}
    rows |= {f"missed: {reason}": f"{count:,}" for reason, count in values["misses"].items()}
    rows |= {"missed, expired": f"{counts.expired:,}", "broken sidecars": f"{len(counts.broken):,}"}
    return rows | {"oldest": counts.oldest or "–", "newest": counts.newest or "–"}


def _verify(args: argparse.Namespace) -> int:
    from cache.picture_health import verify

    problems: list[Problem] = []
    for cache in _caches(args):
        with _bar(f"checking {cache.root.name}") as update:
            problems += verify(cache, now=time.time(), on_progress=update)
    if args.json:
        _print_json([_as_json(problem) for problem in problems])
    else:
        _print_lines(problems)
        sys.stdout.write(f"problems: {len(problems)}\n" if problems else "nothing wrong\n")
    return EXIT_PROBLEMS if problems else EXIT_OK


def _prune(args: argparse.Namespace) -> int:
    from cache.picture_meta import DAY_S
    from cache.picture_prune import Pruned, prune

    total = Pruned()
    for cache in _caches(args):
        with _bar(f"pruning {cache.root.name}") as update:
            pruned = prune(
                cache,
                now=time.time(),
                older_than_s=None if args.older_than is None else args.older_than * DAY_S,
                suspects=args.suspects,
                dry_run=args.dry_run,
                on_progress=update,
            )
        total.removed += pruned.removed
        total.left += pruned.left
        total.bytes += pruned.bytes
    if args.json:
        values: dict[str, Any] = {"dry_run": args.dry_run, "bytes": total.bytes}
        values |= {"removed": [_as_json(p) for p in total.removed], "left": [_as_json(p) for p in total.left]}
        return _print_json(values)
    _print_lines(total.removed)
    verb = "would be removed" if args.dry_run else "removed"
    sys.stdout.write(f"{len(total.removed)} {verb}, {total.bytes / _MIB:.1f} MiB\n")
    if total.left:
        sys.stdout.write("left for you to decide:\n")
        _print_lines(total.left)
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    from cache.picture_archive import export_archive

    with _bar("exporting") as update:
        exported = export_archive(_caches(args), args.out, update)
    if args.json:
        return _print_json(
            {
                "file": str(args.out),
                "bytes": exported.bytes,
                "splits": exported.splits,
                "left_out": exported.left_out,
            }
        )
    table = _table("split", "queries", "pictures", "misses")
    for split, counts in exported.splits.items():
        _add_row(table, split, *(f"{counts[name]:,}" for name in ("queries", "pictures", "misses")))
    for reason, count in sorted(exported.left_out.items()):
        _add_row(table, f"left out: {reason}", "", f"{count:,}", "")
    _print(table)
    sys.stdout.write(f"{args.out}: {exported.bytes / _MIB:.1f} MiB\n")
    return EXIT_OK


def _import(args: argparse.Namespace) -> int:
    from cache.picture_import import import_archive

    with _bar("importing") as update:
        imported = import_archive(
            args.file,
            args.into,
            now=time.time(),
            placeholders=_placeholders(args),
            on_progress=update,
        )
    if args.json:
        return _print_json({"splits": imported.splits, "refused": imported.refused})
    names = ("added", "kept", "replaced", "refused", "misses")
    table = _table("split", *names)
    for split, counts in imported.splits.items():
        _add_row(table, split, *(f"{counts[name]:,}" for name in names))
    for reason, count in sorted(imported.refused.items()):
        _add_row(table, f"refused: {reason}", "", "", "", f"{count:,}", "")
    _print(table)
    return EXIT_OK


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal; yields the function that moves it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(label), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind.value,
        "path": str(problem.path),
        "number": problem.number,
        "detail": problem.detail,
    }


def _print_lines(problems: list[Problem]) -> None:
    from cnclip.printable import printable

    for problem in problems:
        sys.stdout.write(printable(str(problem)) + "\n")


def _print_json(values: Any) -> int:
    sys.stdout.write(json.dumps(values, ensure_ascii=False, indent=2) + "\n")
    return EXIT_OK


def _table(*columns: str) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from cnclip.printable import printable

    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(escape(printable(column)), overflow="fold", justify="right" if number else "left")
    return table


def _add_row(table: Table, *cells: str) -> None:
    from rich.markup import escape

    from cnclip.printable import printable

    table.add_row(*(escape(printable(cell)) for cell in cells))


def _print(table: Table) -> None:
    from rich.console import Console

    Console(file=sys.stdout).print(table)
