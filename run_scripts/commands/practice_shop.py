"""`cnclip practice-shop`: a made-up shop on this machine to rehearse the crawler on, and its phone.

Flags are the fields of ShopSettings.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from crawler.practice_shop.settings import FIELDS, NAMES, ShopSettings, changed

DEFAULT_PORT = 8301
SCAN_S = 60.0  # how long the phone waits for a code
EXIT_OK, EXIT_REFUSED = 0, 4
_BEHAVIOURS = (
    ("result pages", ("layout", "items_per_page", "catalogue", "seed", "url_forms", "ads", "lazy", "redraw")),
    ("logging in", ("login", "session_searches", "reject_cookie", "qr_", "keep_dialog", "identity_check")),
    ("going wrong", ("risk_", "decoys", "faults", "bad_pictures", "empty_", "card_delay_s")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it listens, one flag per setting, and the phone."""
    parser.epilog = (
        "While it runs, POST a JSON object of settings to /_control of the search address to change them; "
        "/_control/log has all visits, /_control/reset forgets them, /_control/solve ends a block."
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=int,
        default=DEFAULT_PORT,
        help=f"port of the search pages; the other two sites take the next two ({DEFAULT_PORT}; 0: free)",
    )
    parser.add_argument("--log", metavar="FILE", type=Path, help="append every visit to this JSONL file")
    for title, prefixes in _BEHAVIOURS:
        group = parser.add_argument_group(title)
        for name in NAMES:
            if name.startswith(prefixes):
                _add_setting(group, name)
    phone = parser.add_argument_group("the phone, instead of a shop")
    phone.add_argument("--scan", metavar="FILE", type=Path, help="scan the code in this picture and confirm")
    phone.add_argument("--cancel", action="store_true", help="with --scan: refuse the login")
    phone.add_argument(
        "--shop-url",
        metavar="URL",
        default=f"http://127.0.0.1:{DEFAULT_PORT}",
        help=f"with --scan: search address of the shop (http://127.0.0.1:{DEFAULT_PORT})",
    )


def _add_setting(group: argparse._ArgumentGroup, name: str) -> None:
    field = FIELDS[name]
    text, default = str(field.description), field.default
    options: dict[str, Any] = {"metavar": name.rpartition("_")[2].upper()}
    if field.annotation is bool:
        options = {"action": argparse.BooleanOptionalAction}
    elif get_origin(field.annotation) is Literal:
        options = {"choices": get_args(field.annotation)}
    elif get_origin(field.annotation) in (tuple, Mapping):
        kinds = [kind for part in get_args(field.annotation) for kind in get_args(part)]
        text += f": {', '.join(kinds)}" if kinds else ""
        default = ", ".join(default) if isinstance(default, tuple) else None
        options["action"] = "append"
    if default not in (None, False, ""):
        text += f" ({default:g})" if isinstance(default, float) else f" ({default})"
    group.add_argument(f"--{name.replace('_', '-')}", default=None, help=text.replace("%", "%%"), **options)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, or be the phone. 0; 4 when the phone was refused.

    Raises:
        CrawlError: a bad setting, a taken port, nothing to scan, no shop there.
    """
    if args.scan is not None:
        return _scan(args)
    given = {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
    settings = changed(ShopSettings(), given)
    ports = (args.port, args.port + 1, args.port + 2) if args.port else (0, 0, 0)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    from crawler.practice_shop.shop import PracticeShop

    with PracticeShop(settings, ports=ports, log=args.log) as shop:
        _announce(shop.search_origin, shop.login_origin, shop.image_origin)
        while not stopped.wait(0.5):  # an endless wait could not be interrupted on Windows
            pass
    sys.stdout.write("closed\n")
    return EXIT_OK


def _announce(search: str, login: str, images: str) -> None:
    usual = search == f"http://127.0.0.1:{DEFAULT_PORT}"
    here = "" if usual else f" --shop-url {search}"
    sys.stdout.write(
        f"""practice shop 练习店 is open (Ctrl-C closes it)
  search  {search}
  login   {login}
  images  {images}
  phone   {search}/_phone   scans login codes 扫码登录
try, in another terminal:
  printf '连衣裙\\n手机壳\\n' > practice.txt
  cnclip crawl --source practice-shop --shop-url {search} --queries practice.txt --out practice/valid
  cnclip practice-shop --scan barcode_0.jpg{here}
  curl -s {search}/_control/log
"""
    )
    sys.stdout.flush()


def _scan(args: argparse.Namespace) -> int:
    from crawler.practice_shop.phone import Phone

    wanted = "CANCELED" if args.cancel else "CONFIRMED"
    with Phone(args.shop_url) as phone:
        state = phone.answer_file(args.scan, agree=not args.cancel, timeout_s=SCAN_S)
    sys.stdout.write(f"{args.scan}: {state.lower()}\n")
    return EXIT_OK if state == wanted else EXIT_REFUSED
