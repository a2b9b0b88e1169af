"""Puts together what a crawl searches, from the command line's flags."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cache.files import write_durably
from cnclip.errors import InputError

if TYPE_CHECKING:
    from crawler.login_ui import LoginUI
    from crawler.policy import Policy
    from crawler.profile import Pace, Profile
    from crawler.source import ImageSource
    from crawler.state import StateDir

MAX_GAP_S = 3600.0
CONSENT_FILE = "rules-accepted"
RULES = """\
Crawling {site} happens under your own login and is your own decision. Shops commonly ask robots to stay
out of their search pages (robots.txt), mean "no robots" by their captchas, and refuse servers and proxies.
This crawler is slow ({gap:.0f} s and more between searches, {queries} queries a run), solves no captcha, and
stops when the site says no. docs/crawler.md has the details, and other ways to get pictures
(--source tbk, --source folder).
"""


@dataclass(frozen=True)
class Place:
    """A source, the pace it allows, and what is kept of the account there (in use by nobody else)."""

    source: ImageSource
    pace: Pace
    state: StateDir

    def policy(self, *, resume: bool) -> Policy:
        """When it may be asked. resume: the user has looked at a block and wants to go on."""
        from crawler.clock import SystemClock
        from crawler.policy import Policy

        return Policy(self.state.site, self.pace, SystemClock(), random.Random(), resume=resume)


def open_place(args: argparse.Namespace, stack: contextlib.ExitStack) -> Place:
    """The source that `args` name; nothing is started before it is asked for. Closed by `stack`.

    Raises:
        InputError, SettingsError: flags, keys or profiles that do not go together.
    """
    if args.folder is not None and args.source != "folder":
        raise InputError(f"--folder is for --source folder, not {args.source}")
    if args.shop_catalogue is not None and (args.source != "practice-shop" or args.shop_url or args.profile):
        raise InputError("--shop-catalogue is for a practice shop that is started for this crawl")
    if args.source in ("folder", "tbk") and (args.profile or args.shop_url or args.remote_url):
        raise InputError(f"--source {args.source} takes no --profile, --shop-url or --remote-url")
    if args.source == "folder":
        place = _folder(args, stack)
    elif args.source == "tbk":
        place = _tbk(args)
    else:
        place = _website(args, stack)
    stack.enter_context(place.state.in_use())
    return place


def _folder(args: argparse.Namespace, stack: contextlib.ExitStack) -> Place:
    """Nobody's rules: any speed, and nothing to remember."""
    from crawler.profile import Pace
    from crawler.sources.folder import FolderSource
    from crawler.state import StateDir

    if args.folder is None:
        raise InputError("--source folder: --folder PATH is needed (a folder of pictures or a manifest)")
    free = Pace(gap_s=0, jitter_s=0, picture_gap_s=0, retry_s=0, max_queries=10**9, breaker=10**9)
    nothing = stack.enter_context(tempfile.TemporaryDirectory(prefix="cnclip-folder-"))
    return Place(FolderSource(args.folder), free, StateDir(Path(nothing)))


def _tbk(args: argparse.Namespace) -> Place:
    from crawler.sources.tbk import tbk_from_environment
    from crawler.state import StateDir, default_state_dir

    pace = slowed(tbk_pace(), args.min_gap)
    return Place(tbk_from_environment(), pace, StateDir(args.state_dir or default_state_dir("tbk")))


def tbk_pace() -> Pace:
    """How fast the Open Platform is asked at most."""
    from crawler.profile import Pace

    return Pace(gap_s=1, jitter_s=0.5)


def _website(args: argparse.Namespace, stack: contextlib.ExitStack) -> Place:
    """A site with a profile: browser, login and downloads."""
    from crawler.browser import Browser, BrowserOptions
    from crawler.login import QrLogin
    from crawler.login_events import to_stderr
    from crawler.pictures import PictureFetcher
    from crawler.sources.web import WebSource
    from crawler.state import StateDir, default_state_dir
    from run_scripts.crawl_profile import resolve_profile

    phone: list[LoginUI] = []
    if args.source == "practice-shop" and args.shop_url is None and args.profile is None:
        from run_scripts.practice_run import start_practice_shop

        started = start_practice_shop(stack, args.shop_catalogue)
        args.shop_url, args.state_dir = started.url, args.state_dir or started.state_dir
        phone = [started.phone]
    profile = resolve_profile(args.source, args.profile, args.shop_url)
    state = StateDir(args.state_dir or default_state_dir(profile.name))
    if not is_local(profile):
        check_polite(profile)
        ask_consent(profile, state.path, accepted=args.accept_site_rules)
    options = BrowserOptions(
        profile_dir=None if args.remote_url else state.browser,
        headless=has_no_display() if args.headless is None else args.headless,
        remote_url=args.remote_url,
    )
    browser = Browser(options)
    stack.callback(browser.close)
    log_in: Callable[[], object] | None = None
    if profile.login is not None:
        ui = login_ui(args, stack, phone)
        log_in = QrLogin(browser, profile, ui, keep=args.keep_login).ensure
    fetcher = PictureFetcher(
        profile.hosts.image,
        user_agent=user_agent(),
        placeholder_sha256=profile.pictures.placeholder_sha256,
    )
    call_human = None if options.headless or args.remote_url else to_stderr
    source = WebSource(profile, browser, log_in, fetcher, call_human=call_human)
    return Place(source, slowed(profile.pace, args.min_gap), state)


def is_local(profile: Profile) -> bool:
    """Whether every page is on this machine, so that nobody's rules are concerned."""
    urls = [profile.search.url]
    if profile.login is not None:
        urls += [profile.login.url, profile.login.probe_url]
    hosts = [host.rpartition(":")[0] or host for host in profile.hosts.page]
    return all(map(_is_loopback, [*hosts, *(urlsplit(url).hostname or "" for url in urls)]))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_polite(profile: Profile) -> None:
    """Whether a profile is as slow as any site may expect. Raises SettingsError naming the field."""
    from crawler.errors import SettingsError
    from crawler.profile import Pace

    least = Pace()
    for name in ("gap_s", "picture_gap_s", "retry_s", "cooldown_s"):
        if getattr(profile.pace, name) < getattr(least, name):
            raise SettingsError(
                f"profile {profile.name}: pace.{name}: {getattr(profile.pace, name):g} s is below "
                f"{getattr(least, name):g} s, the least for a site that is not on this machine"
            )


def slowed(pace: Pace, min_gap: float | None) -> Pace:
    """The profile's pace, or a slower one. Raises InputError if it would be faster."""
    if min_gap is None:
        return pace
    if not pace.gap_s <= min_gap <= MAX_GAP_S:
        raise InputError(f"--min-gap: must be {pace.gap_s:g} (the site's least pace) to {MAX_GAP_S:g} s")
    return pace.model_copy(update={"gap_s": min_gap})


def has_no_display() -> bool:
    """Whether a window could not be shown."""
    on_desktop = sys.platform in ("darwin", "win32")
    return not (on_desktop or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def user_agent() -> str:
    """What downloads say about themselves: the truth."""
    try:
        number = version("cnclip")
    except PackageNotFoundError:  # run from a checkout that is not installed
        number = "dev"
    return f"cnclip-crawler/{number}"


def ask_consent(profile: Profile, state_dir: Path, *, accepted: bool) -> None:
    """Once per site: the decision is the user's. Raises InputError without one."""
    from crawler.state import private_folder

    path = state_dir / CONSENT_FILE
    if path.is_file():
        return
    title = profile.title or profile.name
    sys.stderr.write(RULES.format(site=title, gap=profile.pace.gap_s, queries=profile.pace.max_queries))
    if not accepted:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InputError("--accept-site-rules is needed: the decision to crawl this site is yours")
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise InputError("not accepted: nothing was requested")
    write_durably(private_folder(state_dir) / CONSENT_FILE, b"accepted by the user\n")


def login_ui(args: argparse.Namespace, stack: contextlib.ExitStack, more: Sequence[LoginUI]) -> LoginUI:
    """Terminal, barcode file, page, and whoever else wants to know."""
    from crawler.login_ui import FileUI, PageUI, Several, TerminalUI

    uis: list[LoginUI] = [FileUI(args.barcode_dir, args.rank)]
    if args.page:
        uis.append(PageUI(args.page_port))
    ui = Several([*uis, TerminalUI(), *more])
    stack.callback(ui.close)
    return ui
