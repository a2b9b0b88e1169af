"""What a person sees of a crawl: a bar with rate, hits and misses by reason, and a table at the end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crawler.crawl import Summary
    from crawler.types import QueryReport

MEANING = {
    "ok": "new pictures stored",
    "cached": "in the cache already",
    "empty": "the site has nothing for it (asked again after 7 days)",
    "no_good_picture": "every candidate was refused (asked again after a day)",
    "load_failed": "page or pictures did not load; the next run asks again",
    "unknown_layout": "the page is not as the profile describes",
    "unusable_query": "nothing to search for",
    "known_miss": "missed lately; --retry-misses asks again",
}


@contextlib.contextmanager
def progress_bar(
    summary: Summary, total: int | None, *, hidden: bool = False
) -> Iterator[Callable[[QueryReport], None]]:
    """Yields the function to call with each report. Bars go to stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task("crawling", total=total, counts="")

        def update(_report: QueryReport) -> None:
            speed = progress.tasks[0].speed
            rate = "" if speed is None else f"{speed * 60:.1f}/min "
            progress.update(task, advance=1, counts=rate + _counts(summary))

        yield update


def _counts(summary: Summary) -> str:
    """`new 12, cached 3, empty 1`."""
    shown = (
        f"{'new' if outcome.value == 'ok' else outcome.value} {count}"
        for outcome, count in summary.outcomes.items()
    )
    return ", ".join(shown)


def show_summary(summary: Summary, *, as_json: bool, stopped: str = "") -> None:
    """The end of a run: a table on stdout, or one JSON object."""
    if as_json:
        content = {
            "queries": {outcome.value: count for outcome, count in summary.outcomes.items()},
            "new_pictures": summary.new_pictures,
            "refused": dict(summary.refused),
            "searches": summary.searches,
            "stopped": stopped or None,
        }
        sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{summary.new_pictures} new pictures, {summary.searches} searches", title_justify="left"
    )
    table.add_column("queries", justify="right")
    table.add_column("outcome")
    table.add_column("meaning")
    for outcome, count in summary.outcomes.most_common():
        table.add_row(str(count), outcome.value, MEANING[outcome.value])
    console = Console()
    console.print(table)
    if summary.refused:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.refused.most_common())
        console.print(f"pictures refused: {reasons}")
