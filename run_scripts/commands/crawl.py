"""`cnclip crawl`: for each query the first good product picture(s), into the cache online learning reads."""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import signal
import sys
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cnclip.errors import InputError
from run_scripts.crawl_flags import add_browser_flags, add_site_flags

if TYPE_CHECKING:
    from crawler.source import ImageSource

EXIT_OK, EXIT_PARTIAL, EXIT_LAYOUT, EXIT_INTERRUPTED = 0, 2, 5, 130
EXIT_CODES = (
    "Exit codes: 0 every query is answered, 2 some are left (or bad usage), 3 the site wants no more "
    "requests now, 4 a login is needed, 5 the site's layout changed."
)
DOCTOR_CANDIDATES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXIT_CODES
    add = parser.add_argument
    add("--queries", metavar="FILE", help="one query a line, .jsonl, an LMDB split directory, or - for stdin")
    add("--out", metavar="DIR", type=Path, help="the cache to fill, such as DATAPATH/valid")
    add("-n", dest="pictures", metavar="N", type=int, default=1, help="pictures per query (1)")
    add("--max-queries", metavar="N", type=int, help="queries asked in one run (the profile's: 200)")
    add("--retry-misses", action="store_true", help="ask again for queries that were missed lately")
    add("--resume", action="store_true", help="go on after a block, once its pause is over")
    add("--mark-log", metavar="DIR", type=Path, help="where mark.txt and events.jsonl go (beside --out)")
    add("--doctor", metavar="QUERY", help="search once and say what was seen; stores nothing")
    add("--json", action="store_true", help="print the summary as JSON")
    add_site_flags(parser)
    add_browser_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Crawl. The exit code says how it ended (see EXIT_CODES).

    Raises:
        InputError: flags or queries that cannot be used.
        CrawlError: the crawl cannot go on; carries its exit code.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if args.doctor is not None:
        return _examine(args)
    if args.queries is None or args.out is None:
        raise InputError("--queries FILE and --out DIR are needed (or --doctor QUERY)")
    for flag, value in (("-n", args.pictures), ("--max-queries", args.max_queries)):
        if value is not None and value < 1:
            raise InputError(f"{flag}: must be at least 1, not {value}")
    from run_scripts.crawl_queries import read_queries

    return _crawl(args, read_queries(args.queries))


def _interrupt(*_: object) -> NoReturn:
    """SIGTERM ends a crawl as Ctrl-C does: the browser is closed."""
    raise KeyboardInterrupt


def _crawl(args: argparse.Namespace, queries: Iterable[str]) -> int:
    from cache.picture_cache import PictureCache
    from crawler.clock import SystemClock
    from crawler.crawl import Crawl, CrawlOptions
    from crawler.errors import CrawlError
    from crawler.marks import Marks
    from crawler.policy import Policy
    from crawler.presence import Presence
    from crawler.state import private_folder
    from run_scripts.crawl_progress import progress_bar, show_summary
    from run_scripts.crawl_source import open_place

    clock, out = SystemClock(), args.out.absolute()
    stopped = ""
    with contextlib.ExitStack() as stack:
        place = open_place(args, stack)
        presence = stack.enter_context(Presence(out)())
        policy = Policy(
            private_folder(place.state_dir) / "state.json",
            place.pace,
            clock,
            random.Random(),
            resume=args.resume,
        )
        marks = Marks(args.mark_log or out.parent / "mark_log", out.name, clock)
        options = CrawlOptions(args.pictures, args.max_queries or place.pace.max_queries, args.retry_misses)
        crawl = Crawl(place.source, PictureCache(out), policy, marks, options, clock=clock)
        total = len(queries) if isinstance(queries, Sized) else None
        try:
            with progress_bar(crawl.summary, total) as advance:
                crawl.run(queries, presence.report, advance)
        except CrawlError as error:
            stopped = str(error)
            raise
        except KeyboardInterrupt:
            stopped = "interrupted"
            sys.stderr.write("interrupted: what was found is stored; run the same command again to go on\n")
            return EXIT_INTERRUPTED
        finally:
            presence.stopped(stopped)
            show_summary(crawl.summary, as_json=args.json, stopped=stopped)
    return EXIT_OK if crawl.summary.complete else EXIT_PARTIAL


def _examine(args: argparse.Namespace) -> int:
    """One search, and what the profile makes of the page."""
    from crawler.clock import SystemClock
    from crawler.policy import Policy
    from crawler.state import private_folder
    from crawler.types import PageState
    from run_scripts.crawl_source import open_place

    with contextlib.ExitStack() as stack:
        place = open_place(args, stack)
        source = place.source
        stack.callback(source.close)
        path = private_folder(place.state_dir) / "state.json"
        policy = Policy(path, place.pace, SystemClock(), random.Random(), resume=args.resume)
        policy.wait_for_search()
        source.open()
        source.ensure_session()
        try:
            result = source.search(args.doctor, DOCTOR_CANDIDATES)
        finally:
            policy.searched()
        sys.stdout.write(
            f"page     {result.url}\nstate    {result.state.value} {result.detail}\n"
            f"layout   {result.layout or '-'}\nproducts {len(result.candidates)}\n"
        )
        for candidate in result.candidates:
            sys.stdout.write(
                f"  {candidate.item_id}  {candidate.title[:40]}\n    {candidate.image_urls[0]}\n"
            )
        if result.state.blocked:
            raise policy.blocked(result.state)
        if result.state is PageState.UNKNOWN:
            _keep_page(source, args.mark_log or Path("mark_log"))
            return EXIT_LAYOUT
        return EXIT_OK if result.state in (PageState.RESULTS, PageState.EMPTY) else EXIT_PARTIAL


def _keep_page(source: ImageSource, folder: Path) -> None:
    source.dump(str(folder / "dumps"), "doctor")
    logging.getLogger(__name__).info("the page is kept in %s", folder / "dumps")
