"""`cnclip crawl`: for each query the first good product picture(s), into the cache online learning reads."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError
from run_scripts.crawl_flags import add_browser_flags, add_site_flags

if TYPE_CHECKING:
    from crawler.marks import Marks

EXIT_OK, EXIT_PARTIAL, EXIT_LAYOUT, EXIT_INTERRUPTED = 0, 2, 5, 130
EXIT_CODES = (
    "Exit codes: 0 every query is answered, 2 some are left (or bad usage), 3 the site wants no more "
    "requests now, 4 a login is needed, 5 the site's layout changed."
)
MAX_PICTURES = 50  # a result page has about that many
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
    for name in ("SIGTERM", "SIGHUP"):  # they end a crawl as Ctrl-C does: the browser is closed
        if number := getattr(signal, name, None):
            signal.signal(number, signal.default_int_handler)
    if args.doctor is not None:
        if args.queries is not None:
            raise InputError("--doctor and --queries: one of them")
        return _examine(args)
    if args.queries is None or args.out is None or args.out == Path():
        raise InputError("--queries FILE and --out DIR are needed (or --doctor QUERY)")
    if not 1 <= args.pictures <= MAX_PICTURES:
        raise InputError(f"-n: must be 1 to {MAX_PICTURES}, not {args.pictures}")
    if args.max_queries is not None and args.max_queries < 1:
        raise InputError(f"--max-queries: must be at least 1, not {args.max_queries}")
    from run_scripts.crawl_queries import read_queries

    return _crawl(args, read_queries(args.queries))


def _crawl(args: argparse.Namespace, queries: Iterable[str]) -> int:
    from cache.errors import CacheError
    from cache.picture_cache import PictureCache
    from crawler.crawl import Crawl, CrawlOptions
    from crawler.errors import CrawlError
    from crawler.presence import Presence
    from run_scripts.crawl_progress import progress_bar, show_summary
    from run_scripts.crawl_queries import works_for_another
    from run_scripts.crawl_source import open_place

    out, stopped, helps = args.out.absolute(), "", works_for_another()
    with contextlib.ExitStack() as stack:
        place = open_place(args, stack)
        presence = stack.enter_context(Presence(out))
        options = CrawlOptions(args.pictures, args.max_queries or place.pace.max_queries, args.retry_misses)
        policy = place.policy(resume=args.resume)
        crawl = Crawl(place.source, PictureCache(out), policy, _marks(args), options)
        total = len(queries) if isinstance(queries, Sized) else None
        try:
            with progress_bar(crawl.summary, total, hidden=helps) as advance:
                crawl.run(queries, presence.report, advance)
            stopped = f"the cap of {options.max_queries} queries a run" if crawl.summary.capped else ""
        except (CrawlError, CacheError) as error:
            stopped = str(error)
            raise
        except KeyboardInterrupt:
            stopped = "interrupted"
            if not helps:
                sys.stderr.write(
                    "interrupted: what was found is stored; run the same command again to go on\n"
                )
            return EXIT_INTERRUPTED
        finally:
            presence.stopped(stopped)
            show_summary(crawl.summary, as_json=args.json, stopped=stopped)
    if crawl.summary.capped:
        sys.stderr.write(f"stopped at {stopped}: run the same command again to go on\n")
    return EXIT_OK if crawl.summary.complete else EXIT_PARTIAL


def printable(text: str) -> str:
    """What a site said, without what could drive a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _marks(args: argparse.Namespace) -> Marks:
    from crawler.clock import SystemClock
    from crawler.marks import Marks

    out = (args.out or Path("valid")).absolute()
    return Marks(args.mark_log or out.parent / "mark_log", out.name, SystemClock())


def _examine(args: argparse.Namespace) -> int:
    """One search, and what the profile makes of the page."""
    from crawler.clock import SystemClock
    from crawler.crawl import searchable
    from crawler.search import Searcher
    from crawler.types import PageState
    from run_scripts.crawl_source import open_place

    if not searchable(args.doctor):
        raise InputError("--doctor: nothing to search for")
    with contextlib.ExitStack() as stack:
        place = open_place(args, stack)
        stack.callback(place.source.close)
        marks = _marks(args)
        searcher = Searcher(place.source, place.policy(resume=args.resume), marks, SystemClock())
        result = searcher.once(args.doctor, DOCTOR_CANDIDATES)
        sys.stdout.write(
            f"page     {result.url}\nstate    {result.state.value} {result.detail}\n"
            f"layout   {result.layout or '-'}\nproducts {len(result.candidates)}\n"
        )
        for candidate in result.candidates:
            title, url = printable(candidate.title)[:40], printable(candidate.image_urls[0])
            sys.stdout.write(f"  {printable(candidate.item_id)}  {title}\n    {url}\n")
        if result.state is PageState.UNKNOWN:
            searcher.dump("doctor")
            sys.stdout.write(f"the page is kept in {marks.dumps}\n")
            return EXIT_LAYOUT
        return EXIT_OK if result.state in (PageState.RESULTS, PageState.EMPTY) else EXIT_PARTIAL
