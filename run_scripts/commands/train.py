"""`cnclip train`: fine-tune a model on LMDB shards."""

from __future__ import annotations

import argparse
import sys
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

    sys.stdout.write(f"{train(config)}\n")
    return 0
