"""`cnclip login`: log the crawler's browser in to a site by scanning a QR code; the login is kept."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from run_scripts.crawl_flags import add_browser_flags

if TYPE_CHECKING:
    from crawler.browser import BrowserOptions
    from crawler.profile import Profile
    from crawler.state import StateDir

EXIT_OK, EXIT_LOGGED_OUT = 0, 4
EXIT_CODES = (
    "Exit codes: 0 logged in, 2 bad usage, 3 the site wants no more requests now, 4 not logged in. "
    "Whoever can read the state directory is logged in as you."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXIT_CODES
    add = parser.add_argument_group("site").add_argument
    add("--source", default="taobao", metavar="NAME", help="a built-in site: taobao, practice-shop (taobao)")
    add("--profile", metavar="FILE", type=Path, help="a site profile of your own (.toml)")
    add("--shop-url", metavar="URL", help="for practice-shop: address of the running shop")
    add_browser_flags(parser)
    instead = parser.add_argument_group("instead of logging in").add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="only say whether the kept login still works")
    instead.add_argument(
        "--forget", action="store_true", help="log out here: remove the kept browser profile"
    )


def run(args: argparse.Namespace) -> int:
    """Log in, or check, or forget. Returns the exit code.

    Raises:
        CrawlError: no profile, no browser, no login, or the site said no; carries its exit code.
    """
    from crawler.clock import SystemClock
    from crawler.errors import SettingsError
    from crawler.policy import Policy
    from crawler.state import StateDir, default_state_dir
    from run_scripts.crawl_profile import resolve_profile

    for name in ("SIGTERM", "SIGHUP"):  # a login that is ended leaves no code and no browser behind
        if number := getattr(signal, name, None):
            signal.signal(number, signal.default_int_handler)
    profile = resolve_profile(args.source, args.profile, args.shop_url)
    state = StateDir(args.state_dir or default_state_dir(profile.name))
    if args.remote_url and (args.forget or args.check):
        raise SettingsError("--remote-url: the login there ends with the browser, there is none to check")
    if args.forget:
        return _forget(profile, state.browser)
    if profile.login is None:
        raise SettingsError(f"profile {profile.name} has no [login]: no login is needed")
    if args.check and not state.browser.is_dir():
        return _say(profile, logged_in=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(state.in_use())
        policy = Policy(state.site, profile.pace, SystemClock(), random.Random())
        stack.enter_context(policy.remembering_blocks())
        if args.check:
            policy.check()
            return _check(profile, state)
        policy.check(login=True)
        return _log_in(args, profile, state)


def _options(args: argparse.Namespace, state: StateDir) -> BrowserOptions:
    from crawler.browser import BrowserOptions
    from run_scripts.crawl_source import has_no_display

    headless = has_no_display() if args.headless is None else args.headless
    kept = None if args.remote_url else state.browser
    return BrowserOptions(kept, headless=headless, remote_url=args.remote_url)


def _log_in(args: argparse.Namespace, profile: Profile, state: StateDir) -> int:
    from crawler.browser import Browser
    from crawler.login import QrLogin
    from run_scripts.crawl_source import login_ui

    with contextlib.ExitStack() as stack:
        ui = login_ui(args, stack, ())
        browser = stack.enter_context(Browser(_options(args, state)))
        nick = QrLogin(browser, profile, ui, keep=args.keep_login).ensure()
    place = "only as long as that browser runs" if args.remote_url else f"kept in {state.path}"
    sys.stdout.write(f"logged in to {profile.name}{nick and f' as {nick}'}, {place}\n")
    return EXIT_OK


def _check(profile: Profile, state: StateDir) -> int:
    """Ask the site's probe page with the kept browser profile."""
    from crawler.browser import Browser, BrowserOptions
    from crawler.login import QrLogin
    from crawler.login_ui import Several

    with Browser(BrowserOptions(state.browser, headless=True)) as browser:
        return _say(profile, logged_in=QrLogin(browser, profile, Several(())).logged_in())


def _say(profile: Profile, *, logged_in: bool) -> int:
    if logged_in:
        sys.stdout.write(f"logged in to {profile.name}\n")
        return EXIT_OK
    sys.stdout.write(f"not logged in to {profile.name}; the same command without --check logs in\n")
    return EXIT_LOGGED_OUT


def _forget(profile: Profile, folder: Path) -> int:
    """Remove the browser profile once nothing uses it. Raises CrawlError while something does."""
    import shutil

    from crawler.browser_profile import LOCK_FILE, BrowserProfile
    from crawler.errors import SettingsError

    if not folder.exists():
        sys.stdout.write(f"nothing is kept for {profile.name}\n")
        return EXIT_OK
    if not (folder / LOCK_FILE).is_file():
        raise SettingsError(f"{folder} is no browser profile of ours: not removed")
    kept = BrowserProfile(folder)
    try:
        kept.open()  # in use is an error
    finally:
        kept.close()
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be removed: {error.strerror or error}") from None
    sys.stdout.write(f"the login of {profile.name} is forgotten: {folder} is removed\n")
    return EXIT_OK
