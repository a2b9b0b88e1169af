"""Everything a running shop knows. It lives in the server's loop; only there is it read and changed."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from crawler.practice_shop.catalogue import Catalogue, load_catalogue
from crawler.practice_shop.codes import CodeDesk, Session, Sessions
from crawler.practice_shop.layouts import STATIC, Origins
from crawler.practice_shop.risk import RiskGuard
from crawler.practice_shop.settings import ShopSettings, changed
from crawler.practice_shop.visits import VisitLog
from crawler.practice_shop.wires import Closing

NICK = "练习生"
KEEP_S = 30 * 86400  # seconds a login cookie is kept where the visitor wants that
_ANONYMOUS = {"cookie2": 16, "t": 16, "_m_h5_tk": 20}  # cookies that every visitor gets: bytes of chance


class World:
    """Settings, log, sessions, codes, risk: the state that the pages act upon.

    Raises:
        SettingsError: the catalogue cannot be read.
    """

    def __init__(self, settings: ShopSettings, origins: Origins, visits: VisitLog) -> None:
        self.settings, self.origins, self.visits = settings, origins, visits
        self.catalogue = _catalogue(settings)
        self.closing = Closing()
        self.forget()

    def forget(self) -> None:
        """Logins, codes, risk, faults that happened, visits: all as on the first day."""
        self.risk, self.codes, self.sessions = RiskGuard(), CodeDesk(), Sessions()
        self.former_query = ""
        self.last_query = ""
        self.faulted: dict[tuple[str, str], float] = {}  # (query, fault) -> when it first happened
        self.items: dict[str, tuple[str, int]] = {}  # item -> (query, number), once it was on a page
        self.visits.clear()

    def change(self, changes: Mapping[str, Any]) -> None:
        """Take over new settings. Raises SettingsError, and then nothing has changed."""
        settings = changed(self.settings, changes)
        if settings.catalogue != self.settings.catalogue:
            self.catalogue = _catalogue(settings)
        self.settings = settings

    def solve(self) -> None:
        """What a human does about a block or an identity check."""
        self.risk.solve()
        self.codes.prove_all()

    def session(self, request: Request) -> Session | None:
        """The good login that a request comes with."""
        return self.sessions.of(request.cookies, self.settings)

    def login_url(self, target: str, *, old: bool = False) -> str:
        """Address of the login page that leads back to `target`."""
        page = "/member/login.jhtml?" if old else "/havanaone/login/login.htm?bizName=taobao&"
        return f"http://{self.origins.login}{page}redirectURL={quote(target, safe='')}"


def _catalogue(settings: ShopSettings) -> Catalogue | None:
    return None if settings.catalogue is None else load_catalogue(Path(settings.catalogue))


def greet(request: Request, response: Response) -> None:
    """Give a visitor the cookies that everybody gets and that prove nothing."""
    for name, size in _ANONYMOUS.items():
        if name not in request.cookies:
            set_cookie(response, name, secrets.token_hex(size))


def set_cookie(
    response: Response, name: str, value: str, *, keep: bool = False, hidden: bool = False
) -> None:
    """keep: beyond the end of the browser. hidden: from the page's scripts."""
    response.set_cookie(
        name, value, max_age=KEEP_S if keep else None, httponly=hidden, samesite="lax", path="/"
    )


def log_in(response: Response, world: World, cookie: str, *, keep: bool) -> None:
    """Set the cookies that only a login brings. `cookie`: of the session."""
    set_cookie(response, "cookie2", cookie, keep=keep, hidden=True)
    set_cookie(response, "unb", world.sessions.user(cookie), keep=keep, hidden=True)
    for name in ("_nk_", "tracknick", "lgc"):
        set_cookie(response, name, quote(NICK), keep=keep)


@functools.cache
def template(name: str) -> Template:
    """A page of static/."""
    return Template((STATIC / name).read_text(encoding="utf-8"))
