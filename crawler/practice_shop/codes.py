"""Login codes and sessions: the state machine between the login page, the phone and the shop."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from crawler.practice_shop.settings import ShopSettings


class CodeState(str, Enum):
    """What a code is; a code never leaves CONFIRMED, EXPIRED or CANCELED."""

    NEW = "NEW"
    SCANED = "SCANED"  # sic
    CONFIRMED = "CONFIRMED"
    EXPIRED = "EXPIRED"
    CANCELED = "CANCELED"


_OPEN = (CodeState.NEW, CodeState.SCANED)


@dataclass
class Code:
    """One QR code. visitor: the browser that asked for it. ends: monotonic seconds."""

    token: str
    visitor: str
    ends: float
    state: CodeState = CodeState.NEW
    proven: bool = False  # the identity check, where there is one, was passed
    ticket: str = ""  # what the browser trades for its cookies, once


class CodeDesk:
    """All codes of the shop. A visitor has one open code: a new one ends the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._codes: dict[str, Code] = {}

    def issue(self, visitor: str, ttl_s: float) -> Code:
        """A new code for a browser; its old one is expired from now on."""
        for code in self._codes.values():
            if code.visitor == visitor and code.state in _OPEN:
                code.state = CodeState.EXPIRED
        code = Code(secrets.token_hex(16), visitor, self._clock() + ttl_s)
        self._codes[code.token] = code
        return code

    def find(self, token: str) -> Code | None:
        """The code with this token, its state up to date."""
        code = self._codes.get(token)
        if code is not None and code.state in _OPEN and self._clock() >= code.ends:
            code.state = CodeState.EXPIRED
        return code

    def shown(self) -> Code | None:
        """The newest code that can still be scanned or confirmed."""
        codes = (self.find(token) for token in reversed(self._codes))
        return next((code for code in codes if code is not None and code.state in _OPEN), None)

    def scan(self, token: str) -> Code | None:
        """The phone has read the code."""
        code = self.find(token)
        if code is not None and code.state is CodeState.NEW:
            code.state = CodeState.SCANED
        return code

    def confirm(self, token: str) -> Code | None:
        """The phone agrees; only to a code that it has scanned."""
        code = self.find(token)
        if code is not None and code.state is CodeState.SCANED:
            code.state, code.ticket = CodeState.CONFIRMED, secrets.token_hex(16)
        return code

    def cancel(self, token: str) -> Code | None:
        """The phone refuses."""
        code = self.find(token)
        if code is not None and code.state in _OPEN:
            code.state = CodeState.CANCELED
        return code

    def holder(self, ticket: str) -> Code | None:
        """The code whose unused ticket this is."""
        return next((code for code in self._codes.values() if ticket and code.ticket == ticket), None)

    def prove_all(self) -> None:
        """A human passed the identity check of whoever waits for it."""
        for code in self._codes.values():
            code.proven = True


@dataclass
class Session:
    """A login, the same on the search and the login site."""

    user: str
    searches: int = 0


class Sessions:
    """Who is logged in, by the value of the cookie `cookie2`."""

    def __init__(self) -> None:
        self._by_cookie: dict[str, Session] = {}
        self._transfers: dict[str, str] = {}

    def begin(self) -> tuple[str, str]:
        """A new login: (value of its cookie, a pass that carries it to the other site, good once)."""
        cookie, transfer = secrets.token_hex(16), secrets.token_hex(16)
        self._by_cookie[cookie] = Session(str(2200000000000 + secrets.randbelow(10**9)))
        self._transfers[transfer] = cookie
        return cookie, transfer

    def carry(self, transfer: str) -> str | None:
        """The cookie value a pass stands for; None if it was used or never given out."""
        return self._transfers.pop(transfer, None)

    def count_search(self, cookies: Mapping[str, str]) -> None:
        """A search by whoever has these cookies."""
        session = self._by_cookie.get(cookies.get("cookie2", ""))
        if session is not None:
            session.searches += 1

    def of(self, cookies: Mapping[str, str], settings: ShopSettings) -> Session | None:
        """The login that these cookies prove; it ends with the first search beyond `session_searches`."""
        session = self._by_cookie.get(cookies.get("cookie2", ""))
        if session is None or "unb" not in cookies or settings.reject_cookie:
            return None
        limit = settings.session_searches
        return None if limit is not None and session.searches > limit else session

    def user(self, cookie: str) -> str:
        """User number of a session."""
        return self._by_cookie[cookie].user
