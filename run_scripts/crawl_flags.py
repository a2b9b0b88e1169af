"""Flags that `cnclip crawl` and `cnclip login` share."""

from __future__ import annotations

import argparse
from pathlib import Path

SOURCES = ("taobao", "tbk", "folder", "practice-shop")


def add_site_flags(parser: argparse.ArgumentParser) -> None:
    """Where pictures come from, and how fast."""
    add = parser.add_argument_group("where from").add_argument
    add("--source", choices=SOURCES, default="taobao", help="where to search (taobao)")
    add("--profile", metavar="FILE", type=Path, help="a site profile of your own (.toml)")
    add("--folder", metavar="PATH", type=Path, help="for --source folder: pictures or a manifest")
    add("--shop-url", metavar="URL", help="a practice shop that runs already (else one is started)")
    add(
        "--shop-catalogue",
        metavar="FOLDER",
        type=Path,
        help="real pictures for the practice shop that is started: QUERY/*.jpg",
    )
    add("--min-gap", metavar="S", type=float, help="seconds between searches; never below the profile's")
    add(
        "--accept-site-rules",
        action="store_true",
        help="you have read what docs/crawler.md says about the site's rules, and decided",
    )


def add_browser_flags(parser: argparse.ArgumentParser) -> None:
    """The browser and the login in it."""
    add = parser.add_argument_group("browser and login").add_argument
    add(
        "--headless",
        action=argparse.BooleanOptionalAction,
        help="no window (default where there is no display)",
    )
    add("--remote-url", metavar="URL", help="a Selenium Grid to run the browser on")
    add("--state-dir", metavar="DIR", type=Path, help="where this account's session and pace are kept")
    add("--keep-login", action="store_true", help='answer yes if the site asks "stay logged in?"')
    add(
        "--page",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show the QR code on a page of this machine, too",
    )
    add("--page-port", metavar="PORT", type=int, default=0, help="port of that page (0: a free one)")
    add("--rank", metavar="N", type=int, default=0, help="the number in barcode_<rank>.jpg (0)")
    add("--barcode-dir", metavar="DIR", type=Path, default=Path(), help="where that file goes (here)")
