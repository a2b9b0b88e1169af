"""The `cnclip` command line. Each command lives in `run_scripts/commands/` and is imported only when
called for, so that `--help` never pays for torch.

A command module offers `add_arguments(parser)` and `run(args) -> int` (the exit code).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

COMMANDS: dict[str, str] = {
    "serve": "serve a gallery over REST with a web page",
    "index": "put pictures into a gallery",
    "search": "search a gallery from the terminal",
    "train": "fine-tune a model on LMDB shards",
    "evaluate": "measure recall of a model on a labelled split",
    "build-lmdb": "turn MUGE tsv + jsonl files into LMDB shards",
    "models": "list, describe, download and convert models",
    "doctor": "check this machine: torch, devices, faiss, browser, disk",
}
EXIT_OK, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130


def _build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnclip",
        description="Search product pictures in Chinese, and teach the model while it serves.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    called = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == called:
            module = importlib.import_module(f"run_scripts.commands.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run one command, return its exit code (2 on bad usage or input)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _build_parser(argv)
    args = parser.parse_args(argv)
    if args.version:
        from cnclip import __version__

        sys.stdout.write(f"cnclip {__version__}\n")
        return EXIT_OK
    if args.command is None:
        parser.print_help()
        return EXIT_OK
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for chatty in ("httpx", "faiss"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    from cache.errors import CacheError
    from cnclip.errors import CnclipError

    try:
        return int(args.run(args))
    except (CnclipError, CacheError) as error:
        sys.stderr.write(f"cnclip {args.command}: error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"cnclip {args.command}: interrupted\n")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
