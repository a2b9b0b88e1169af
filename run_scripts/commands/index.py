"""`cnclip index`: put pictures into a gallery."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnclip import Encoder
    from service.gallery import Gallery
    from service.gallery.ingest import IngestReport, PixelEncoder
    from service.gallery.sources import Source

DEFAULT_MODEL = "lite"
LOG_NAME = "ingest.log"
SHOWN_PROBLEMS = 20
EXIT_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="a folder of pictures, a MUGE *_imgs.tsv, an LMDB split, or a .jsonl catalogue",
    )
    parser.add_argument(
        "--gallery", metavar="DIR", type=Path, required=True, help="the gallery; made if it is not there"
    )
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help=f"the model (the gallery's own; {DEFAULT_MODEL} for a new one)",
    )
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="pictures per batch (64)")
    parser.add_argument("--workers", metavar="N", type=int, help="threads that decode (one per processor)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from cnclip.errors import InputError
    from service.gallery.ingest import IngestReport, ingest
    from service.gallery.sources import open_source

    if args.batch_size < 1:
        raise InputError(f"--batch-size: must be at least 1, not {args.batch_size}")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers: must be at least 1, not {args.workers}")
    source = open_source(args.source)
    report = IngestReport()
    interrupted = False
    with contextlib.ExitStack() as stack:
        gallery, encoder = _open(args, stack)
        update = stack.enter_context(_progress_bar(source))
        try:
            ingest(
                gallery,
                encoder,
                source,
                batch_size=args.batch_size,
                workers=args.workers,
                progress=update,
                report=report,
            )
        except KeyboardInterrupt:
            interrupted = True
        total = len(gallery)
    _write_log(args.gallery / LOG_NAME, report)
    _print_report(report, total, args)
    if interrupted:
        sys.stderr.write(
            "interrupted: finished batches are in the gallery; run the same command again to go on\n"
        )
        return EXIT_INTERRUPTED
    return 0


def _open(args: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Gallery, PixelEncoder]:
    """The gallery, made if need be, and the model that goes with it."""
    from service.gallery import Gallery, find_model

    if Gallery.exists(args.gallery):
        # Before the model: that somebody else is writing is known at once.
        gallery = stack.enter_context(Gallery.open(args.gallery))
        encoder = load_model(args.model or find_model(gallery.path, gallery.models().active))
        gallery.check_model(encoder.fingerprint, args.model or encoder.name)
    else:
        model = args.model or DEFAULT_MODEL
        encoder = load_model(model)
        # A path is kept whole, so that the model is found again from elsewhere.
        name = str(Path(model).resolve()) if Path(model).exists() else model
        gallery = stack.enter_context(
            Gallery.create(args.gallery, model_name=name, fingerprint=encoder.fingerprint, dim=encoder.dim)
        )
    return gallery, encoder


def load_model(name: str) -> Encoder:
    """The model, in a process that is set up for encoding many pictures."""
    import cnclip
    from cnclip.model.device import tune_malloc

    tune_malloc()
    return cnclip.load(name)


@contextlib.contextmanager
def _progress_bar(source: Source) -> Iterator[Callable[[IngestReport], None]]:
    """Yields the function that `ingest` calls with its report."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task("indexing", total=source.total, rate="")
        (task,) = progress.tasks

        def update(report: IngestReport) -> None:
            task.total = source.total  # progress.update(total=…) would forget the speed at every new estimate
            rate = "" if task.speed is None else f"{task.speed:.0f}/s"
            progress.update(task.id, completed=report.seen, rate=rate)

        yield update


def _write_log(path: Path, report: IngestReport) -> None:
    """Every problem of this run, for reading later."""
    from service.gallery.manifest import write_atomically

    if report.problems:
        write_atomically(path, "".join(f"{line}\n" for line in report.problems).encode())
    else:
        path.unlink(missing_ok=True)


def _print_report(report: IngestReport, total: int, args: argparse.Namespace) -> None:
    from cnclip.printable import printable

    directory = printable(str(args.gallery))
    if args.json:
        facts = {**report.to_dict(), "gallery": directory, "items": total}
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for line in report.problems[:SHOWN_PROBLEMS]:
        sys.stdout.write(f"{line}\n")
    if report.problem_count > SHOWN_PROBLEMS:
        more = report.problem_count - SHOWN_PROBLEMS
        sys.stdout.write(f"… and {more:,} more, see {directory}/{LOG_NAME}\n")
    table = Table("", "pictures")
    table.columns[1].justify = "right"
    counts = [("in", report.seen), ("added", report.added), ("updated", report.updated)]
    counts += [("unchanged", report.unchanged)]
    counts += [(f"dropped: {reason}", count) for reason, count in sorted(report.dropped.items())]
    if report.removed:
        counts.append(("old pictures of changed files, removed", report.removed))
    for name, count in counts:
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row(escape(f"in the gallery {directory}"), f"{total:,}")
    Console().print(table)
