"""`cnclip train`: train or fine-tune a model on LMDB shards (`cnclip/training/cli.py`), and learn online from
pictures that this command gets."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from cnclip.training import cli

if TYPE_CHECKING:
    from cnclip.online.source import ImageSource
    from cnclip.training.config import TrainConfig

EXIT_OK = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of training, and one question."""
    cli.add_arguments(parser)
    parser.add_argument(
        "--check-source", action="store_true", help="say whether --online-learning can get pictures, and exit"
    )


def run(args: argparse.Namespace) -> int:
    """Train. Raises CnclipError on bad input and when training diverges."""
    if args.check_source:
        return _check(cli.config_of(args))
    return cli.run(args, _open_source)


def _open_source(config: TrainConfig) -> contextlib.AbstractContextManager[ImageSource]:
    from run_scripts.online_settings import SourceSettings
    from run_scripts.online_source import open_image_source

    return open_image_source(SourceSettings.of_training(config))


def _check(config: TrainConfig) -> int:
    """Say where pictures would come from. Raises InputError where they cannot."""
    from run_scripts.online_settings import SourceSettings, check_source

    settings = SourceSettings.of_training(config)
    if not config.online_learning:
        sys.stdout.write("no online learning\n")
        return EXIT_OK
    check_source(settings)
    where = "the cache alone" if settings.cache_only else f"{settings.source}, kept"
    sys.stdout.write(f"fresh pictures: {where} in {settings.cache_folder('valid')}\n")
    return EXIT_OK
