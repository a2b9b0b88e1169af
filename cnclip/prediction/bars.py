"""Progress bars below the log lines, for entry points."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from cnclip.prediction.embedding import OnProgress


@contextlib.contextmanager
def bars() -> Iterator[OnProgress | None]:
    """One bar for each kind of work when a person is watching; yields what to call."""
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    root = logging.getLogger()
    before, root.handlers = root.handlers, [RichHandler(console=console, show_path=False)]
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    try:
        with Progress(*columns, console=console, transient=True) as progress:

            def advance(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total)
                progress.update(tasks[what], completed=done, total=total, refresh=done == total)

            yield advance
    finally:
        root.handlers = before
