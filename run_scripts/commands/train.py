"""`cnclip train`: fine-tune a model on LMDB shards."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per field of TrainConfig, dashes for underscores."""
    from cnclip.training.config import TrainConfig

    for name, field in TrainConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = field.description or "see the configuration"
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", dest=name, default=argparse.SUPPRESS, help=text)
        else:
            shown = "" if field.is_required() else f" (default {field.default})"
            parser.add_argument(
                flag,
                dest=name,
                metavar="VALUE",
                required=field.is_required(),
                default=argparse.SUPPRESS,
                help=text + shown,
            )


def run(args: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from cnclip.errors import InputError
    from cnclip.training.config import TrainConfig

    given: dict[str, Any] = {k: v for k, v in vars(args).items() if k in TrainConfig.model_fields}
    try:
        config = TrainConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise InputError(f"{flag}: {first['msg']} (got {first['input']!r})") from error

    from cnclip.training.main import train

    with _progress_bar() as advance:
        folder = train(config, advance)
    sys.stdout.write(f"{folder}\n")
    return 0


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar below the log lines when a person is watching; yields what to call with (step, steps)."""
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    root = logging.getLogger()
    before, root.handlers = root.handlers, [RichHandler(console=console, show_path=False)]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("training", total=None)
            yield lambda step, total: bar.update(task, completed=step, total=total)
    finally:
        root.handlers = before
