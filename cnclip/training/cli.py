"""The command line of training: `cnclip train`, and `python -m cnclip.training` for torchrun."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from cnclip.errors import CnclipError, InputError
from cnclip.flags import FlagParser
from cnclip.training.config import TrainConfig
from cnclip.training.config_file import build_config, flag_layer, flag_name, read_yaml, to_yaml

if TYPE_CHECKING:
    from cnclip.online.source import ImageSource

EXIT_OK, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130

_METAVARS = {int: "N", float: "FLOAT", Path: "PATH", str: "NAME"}
_EPILOG = """\
Flags win over the file of --config, and that over the defaults. Underscores do for dashes. A switch also
takes true or false, and --no-… turns it off. A number of steps or epochs between two events may be -1, which
means never."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per field of TrainConfig, by section. Values stay text: TrainConfig checks them."""
    parser.usage = "%(prog)s [--config FILE] --train-data DIR[,DIR…] [flags]"
    parser.epilog = _EPILOG
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings, names as below")
    parser.add_argument("--print-config", action="store_true", help="print all settings as YAML and exit")
    # torch.distributed.launch appends this; torchrun says it in the environment
    parser.add_argument("--local-rank", help=argparse.SUPPRESS)
    for section, names in TrainConfig.sections().items():
        group = parser.add_argument_group(section)
        for name in names:
            add_flag(group, name)


def add_flag(group: argparse._ArgumentGroup, name: str) -> None:
    """The flag of one field of TrainConfig; absent from the namespace where it is not given."""
    field = TrainConfig.model_fields[name]
    text = (field.description or "").replace("%", "%%")
    if field.annotation in (bool, bool | None):
        group.add_argument(
            flag_name(name), dest=name, nargs="?", const=True, default=argparse.SUPPRESS,
            metavar="BOOL", help=text,
        )  # fmt: skip
        group.add_argument(
            flag_name(f"no_{name}"), dest=name, action="store_const", const=False,
            default=argparse.SUPPRESS, help=argparse.SUPPRESS,
        )  # fmt: skip
        return
    if not field.is_required() and field.default is not None:
        text += f" (default: {field.default})"
    group.add_argument(
        flag_name(name), dest=name, default=argparse.SUPPRESS, metavar=_metavar(field.annotation), help=text
    )


def _metavar(annotation: Any) -> str:
    """How help shows a value: choices in braces, else a word for its type."""
    if get_origin(annotation) is Literal:
        return "{" + ",".join(get_args(annotation)) + "}"
    if get_origin(annotation) is tuple:
        return "DIR[,DIR…]"
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return _METAVARS[annotation] if annotation in _METAVARS else _metavar(inner[0])


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The settings that the flags and the file of --config make. Raises InputError."""
    given = {name: value for name, value in vars(args).items() if name in TrainConfig.model_fields}
    layers = [read_yaml(args.config)] if args.config is not None else []
    return build_config(*layers, flag_layer(given))


OpenSource = Callable[[TrainConfig], contextlib.AbstractContextManager["ImageSource"]]


def run(args: argparse.Namespace, open_source: OpenSource | None = None) -> int:
    """Train as told, or print the settings. Raises CnclipError on bad input and when training diverges.

    open_source: opens the pictures for --online-learning, on rank 0 only.
    """
    config = config_of(args)
    if args.print_config:
        sys.stdout.write(to_yaml(config if config.model else config.resolved()))
        return EXIT_OK

    if config.online_learning and open_source is None:
        raise InputError("--online-learning: use `cnclip train`, which knows where to get pictures")

    from cnclip.training.main import train

    is_main = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
    if not is_main:  # one process speaks for all, unless something is wrong
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(_progress_bar()) if is_main else None
        make_learner = None
        if config.online_learning and open_source is not None:
            from cnclip.online.learner import make_online_learner

            source = stack.enter_context(open_source(config)) if is_main else None
            make_learner = partial(make_online_learner, source)
        folder = train(config, advance, make_learner)
    if is_main:
        sys.stdout.write(f"{folder}\n")
    return EXIT_OK


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


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m cnclip.training`: parse, train, return the exit code (2 on bad usage or input)."""
    parser = FlagParser(prog="python -m cnclip.training", description="train a model on LMDB shards")
    add_arguments(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        return run(args)
    except CnclipError as error:
        sys.stderr.write(f"{parser.prog}: error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted\n")
        return EXIT_INTERRUPTED
