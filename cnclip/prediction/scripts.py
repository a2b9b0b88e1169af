"""What the scripts under Chinese-CLIP's names have in common: parsing, exit codes, one-line errors."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from cnclip.flags import FlagParser

EXIT_OK, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130


def run_script(
    name: str,
    doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse and run; returns the exit code (2 on bad usage or input, in one line). doc: of the module."""
    parser = FlagParser(prog=name, description=(doc or "").split("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    from cnclip.errors import CnclipError

    try:
        return run(args)
    except CnclipError as error:
        sys.stderr.write(f"{name}: error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; the same command goes on from here\n")
        return EXIT_INTERRUPTED
