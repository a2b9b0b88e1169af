"""Codes and sessions as a state machine, with time in our hands."""

from __future__ import annotations

from crawler.practice_shop.codes import Code, CodeDesk, CodeState, Sessions
from crawler.practice_shop.risk import RiskGuard
from crawler.practice_shop.settings import ShopSettings


class Hands:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def state(code: Code | None) -> str:
    assert code is not None
    return code.state.value


def test_a_code_is_new_then_scanned_then_confirmed_once() -> None:
    desk = CodeDesk(Hands())
    token = desk.issue("browser", 60).token
    assert state(desk.find(token)) == "NEW"
    assert state(desk.confirm(token)) == "NEW", "a code that was not scanned cannot be confirmed"
    assert state(desk.scan(token)) == "SCANED"
    assert state(desk.confirm(token)) == "CONFIRMED"
    code = desk.find(token)
    assert code is not None and code.ticket and desk.holder(code.ticket) is code
    ticket = code.ticket
    assert state(desk.confirm(token)) == "CONFIRMED" and code.ticket == ticket
    assert state(desk.cancel(token)) == "CONFIRMED", "too late"
    assert desk.holder("") is None


def test_time_ends_new_and_scanned_codes_but_not_confirmed_ones() -> None:
    now = Hands()
    desk = CodeDesk(now)
    fresh, scanned, confirmed = (desk.issue(name, 60).token for name in ("a", "b", "c"))
    for token in (scanned, confirmed):
        desk.scan(token)
    desk.confirm(confirmed)
    now.time += 59.9
    assert [state(desk.find(token)) for token in (fresh, scanned)] == ["NEW", "SCANED"]
    now.time += 0.1
    assert [state(desk.find(t)) for t in (fresh, scanned, confirmed)] == ["EXPIRED", "EXPIRED", "CONFIRMED"]
    assert state(desk.scan(fresh)) == "EXPIRED"
    assert state(desk.confirm(scanned)) == "EXPIRED", "a stale code logs nobody in"
    assert desk.shown() is None


def test_a_new_code_ends_the_one_before_of_the_same_browser_only() -> None:
    desk = CodeDesk(Hands())
    first, other = desk.issue("browser", 60), desk.issue("other browser", 60)
    desk.scan(first.token)
    second = desk.issue("browser", 60)
    assert first.token != second.token
    assert state(desk.confirm(first.token)) == "EXPIRED" and not first.ticket
    assert other.state is CodeState.NEW
    assert desk.shown() is second


def test_a_cancelled_code_stays_cancelled() -> None:
    desk = CodeDesk(Hands())
    token = desk.issue("browser", 60).token
    desk.scan(token)
    assert state(desk.cancel(token)) == "CANCELED"
    assert state(desk.scan(token)) == state(desk.confirm(token)) == "CANCELED"


def test_unknown_tokens_are_nothing() -> None:
    desk = CodeDesk(Hands())
    assert desk.scan("x") is desk.confirm("x") is desk.cancel("x") is desk.shown() is None


def test_a_session_needs_both_cookies_and_ends_after_its_searches() -> None:
    sessions, settings = Sessions(), ShopSettings(session_searches=2)
    cookie, transfer = sessions.begin()
    assert sessions.carry(transfer) == cookie and sessions.carry(transfer) is None, "a pass is good once"
    cookies = {"cookie2": cookie, "unb": sessions.user(cookie)}
    assert sessions.of(cookies, settings) is not None
    assert sessions.of({"cookie2": cookie}, settings) is None
    assert sessions.of({"cookie2": "anonymous", "unb": "1"}, settings) is None
    assert sessions.of(cookies, ShopSettings(reject_cookie=True)) is None
    for _ in range(2):
        sessions.count_search(cookies)
        assert sessions.of(cookies, settings) is not None
    sessions.count_search(cookies)
    assert sessions.of(cookies, settings) is None
    assert sessions.of(cookies, ShopSettings()) is not None


def test_risk_counts_searches_and_their_distance() -> None:
    counted = RiskGuard()
    settings = ShopSettings(risk_after=2, risk_kind="deny")
    for now in (0.0, 0.1):
        counted.note_search(settings, now)
        assert counted.blocked is None
    counted.note_search(settings, 100.0)
    assert counted.blocked == "deny"
    counted.solve()
    counted.note_search(settings, 100.1)
    assert counted.blocked is None

    timed = RiskGuard()
    settings = ShopSettings(risk_gap_s=6)
    for now in (0.0, 6.0, 12.5):
        timed.note_search(settings, now)
        assert timed.blocked is None
    timed.note_search(settings, 18.4)
    assert timed.blocked == "captcha_page"
