"""The `cnclip` command line. Each command lives in `run_scripts/commands/` and is imported only when
called for, so that `--help` never pays for torch.

A command module offers `add_arguments(parser)` and `run(args) -> int` (the exit code).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from cnclip.flags import FlagParser

COMMANDS: dict[str, str] = {
    "serve": "serve a gallery over REST with a web page",
    "index": "put pictures into a gallery",
    "search": "search a gallery from the terminal",
    "train": "fine-tune a model on LMDB shards",
    "predict": "write the best pictures of every query, by one model or an ensemble",
    "ensemble": "learn the weights of an ensemble on a labelled split",
    "extract": "write the features of pictures and texts to files",
    "evaluate": "measure recall of a model on a labelled split",
    "build-lmdb": "turn MUGE tsv + jsonl files into LMDB shards",
    "convert-dataset": "turn COCO, Flickr30k, csv or Hugging Face data into LMDB shards",
    "crawl": "fetch a fresh product picture for each query (under your own login)",
    "online": "learn from searches and feedback, and publish what helped",
    "login": "log in to the shop by QR code",
    "cache": "look after crawled pictures: stats, verify, prune, export, import",
    "practice-shop": "a local shop to rehearse login and crawl on",
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
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=FlagParser
    )
    called = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == called:
            module = importlib.import_module(f"run_scripts.commands.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run one command, return its exit code (2 on bad usage or input, or where the
    output cannot be written)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file without Chinese gets \u7ea2 for it
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE, errno.EIO):
            raise
        # What is still buffered would fail once more when Python ends.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # whoever read it has enough
            return EXIT_OK
        sys.stderr.write(f"cnclip: error: cannot write: {error.strerror}\n")
        return EXIT_BAD_INPUT
    return code


def _main(argv: list[str]) -> int:
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
    from crawler.errors import CrawlError

    try:
        return int(args.run(args))
    except (CnclipError, CacheError) as error:
        sys.stderr.write(f"cnclip {args.command}: error: {error}\n")
        return EXIT_BAD_INPUT
    except CrawlError as error:
        sys.stderr.write(f"cnclip {args.command}: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"cnclip {args.command}: interrupted\n")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
