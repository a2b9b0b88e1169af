"""What a page is. A pure function of a snapshot, so that recorded pages test it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from crawler.layouts import GENERIC, NOTHING, Found, find
from crawler.profile import Profile, host_allowed
from crawler.snapshot import Node, Rect, Snapshot
from crawler.types import PageState

COVERING_SHARE = 0.25  # of the viewport: a frame or node this large is what the visitor has to deal with
LEAST_PX = 20  # a challenge smaller than this is not there for anybody
_ERROR_PAGES = ("chrome-error:", "about:neterror")
_BY_PROBE = {
    "deny": PageState.DENIED,
    "captcha": PageState.CAPTCHA,
    "throttle": PageState.THROTTLED,
    "identity": PageState.IDENTITY_CHECK,
    "login": PageState.LOGIN_WALL,
}
_WORST_FIRST = list(_BY_PROBE.values())
_BY_STATUS = {403: PageState.DENIED, 429: PageState.THROTTLED}


@dataclass(frozen=True)
class Verdict:
    """What a page is, why, and what was found on it (also when it is not RESULTS)."""

    state: PageState
    detail: str = ""
    found: Found = NOTHING


@dataclass(frozen=True)
class _Sign:
    """Something visible that keeps visitors out. box: None for what counts wherever it is."""

    state: PageState
    detail: str
    box: Rect | None = None
    overlay: bool = False
    frame: bool = False


def classify(snapshot: Snapshot, profile: Profile, query: str | None = None) -> PageState:
    """The state of the page; RESULTS and EMPTY only if the page is about `query`, where that is given."""
    return judge(snapshot, profile, query).state


def judge(
    snapshot: Snapshot, profile: Profile, query: str | None = None, *, limit: int = 1, final: bool = False
) -> Verdict:
    """The state of the page with its reason and up to `limit` candidates.

    The order: address of the document, visible challenge, identity check, login wall, HTTP status, another
    site or query, empty, results, loading, unknown. A small frame with a challenge is no more than a note
    beside results, and may be that while they load; `final` says that nothing more will come.
    """
    if snapshot.url.startswith(_ERROR_PAGES):
        return Verdict(PageState.SERVER_ERROR, snapshot.error or "the browser shows an error page")
    state = _by_address(snapshot.url, profile)
    if state:
        return Verdict(state, "by the page's address")
    found = find(snapshot, profile, query, limit)
    noted = ""
    for sign in sorted(_signs(snapshot, profile, query), key=lambda sign: _WORST_FIRST.index(sign.state)):
        if _in_the_way(sign, snapshot, bool(found.candidates), final):
            return Verdict(sign.state, sign.detail)
        noted = noted or f"beside the results: {sign.detail}"
    if snapshot.status >= 500:
        return Verdict(PageState.SERVER_ERROR, f"HTTP {snapshot.status}")
    if snapshot.status in _BY_STATUS:
        return Verdict(_BY_STATUS[snapshot.status], f"HTTP {snapshot.status}")
    elsewhere = _elsewhere(snapshot, profile, query)
    if elsewhere:
        return Verdict(PageState.UNKNOWN, elsewhere)
    return _content(snapshot, found, query, noted)


def _content(snapshot: Snapshot, found: Found, query: str | None, noted: str) -> Verdict:
    """What a page that nothing keeps us from has to say."""
    empty = next((node for node in _empty_nodes(snapshot, query) if _heads(node, found, snapshot)), None)
    if empty:
        return Verdict(PageState.EMPTY, f"{empty.wanted!r}", found)
    if found.candidates:
        return Verdict(PageState.RESULTS, noted, found)
    if found.waiting and found.layout != GENERIC:
        return Verdict(PageState.LOADING, f"{found.waiting} products without a picture yet", found)
    if not snapshot.complete or (snapshot.busy and not snapshot.rows):
        return Verdict(PageState.LOADING, noted or "no products yet", found)
    return Verdict(PageState.UNKNOWN, found.detail or noted or "no products", found)


def _by_address(url: str, profile: Profile) -> PageState | None:
    challenge, login = profile.challenge, profile.login
    table = (
        (challenge.deny_url, PageState.DENIED),
        (challenge.captcha_url, PageState.CAPTCHA),
        (challenge.throttle_url, PageState.THROTTLED),
        (challenge.identity_url, PageState.IDENTITY_CHECK),
        (login.wall_url if login else (), PageState.LOGIN_WALL),
    )
    return next((state for patterns, state in table if any(re.search(p, url) for p in patterns)), None)


def _signs(snapshot: Snapshot, profile: Profile, query: str | None) -> Iterator[_Sign]:
    """All that is visible of challenges and walls, whether it is in the way or not."""
    for frame in snapshot.frames:
        state = _by_address(frame.url, profile)
        if state:
            detail = f"a frame of {urlsplit(frame.url).hostname or 'this page'}"
            yield _Sign(state, detail, frame.rect, frame.overlay, frame=True)
    for node in snapshot.probes:
        if node.kind in _BY_PROBE and min(node.rect.width, node.rect.height) >= LEAST_PX:
            yield _Sign(_BY_PROBE[node.kind], node.wanted, node.rect, node.overlay)
    for node in snapshot.texts:
        if node.kind in ("deny", "throttle") and not _echo(node, query):
            yield _Sign(_BY_PROBE[node.kind], node.wanted)
    for comment in snapshot.comments:
        if comment.kind in ("deny", "throttle") and not snapshot.rows and not any(snapshot.layouts.values()):
            yield _Sign(_BY_PROBE[comment.kind], f"a comment {comment.wanted}")


def _in_the_way(sign: _Sign, snapshot: Snapshot, results: bool, final: bool) -> bool:
    """Whether the visitor has to deal with it before anything else."""
    if sign.box is None:
        return True
    x, y = sign.box.x, sign.box.y
    width = min(x + sign.box.width, snapshot.width) - max(x, 0)
    height = min(y + sign.box.height, snapshot.height) - max(y, 0)
    if width > 0 and height > 0 and width * height >= COVERING_SHARE * snapshot.width * snapshot.height:
        return True
    center_x, center_y = snapshot.width / 2, snapshot.height / 2
    central = x <= center_x <= x + sign.box.width and y <= center_y <= y + sign.box.height
    if central and (sign.overlay or not results):
        return True
    if results or sign.state is PageState.LOGIN_WALL:
        return False
    return final or not sign.frame


def _echo(node: Node, query: str | None) -> bool:
    """Whether a text may be no more than the query itself, repeated; links repeat what others searched."""
    return node.link or (query is not None and node.wanted in query)


def _empty_nodes(snapshot: Snapshot, query: str | None) -> list[Node]:
    said = [node for node in snapshot.texts if node.kind == "empty" and not _echo(node, query)]
    return [node for node in snapshot.probes if node.kind == "empty"] + said


def _heads(node: Node, found: Found, snapshot: Snapshot) -> bool:
    """Whether "nothing found" stands above the first card, so that the cards are recommendations; beside or
    below the results it is about something else. Below cards of no known list it is so too."""
    if found.top is not None:
        return node.rect.bottom <= found.top.y + LEAST_PX and not node.rect.beside(found.top)
    return all(node.rect.y < row.rect.bottom or node.rect.beside(row.rect) for row in snapshot.rows)


def _elsewhere(snapshot: Snapshot, profile: Profile, query: str | None) -> str:
    """Why the page is not the answer to the query, or an empty text."""
    if not host_allowed(snapshot.url, profile.hosts.page):
        return f"not a page of the site: {urlsplit(snapshot.url).hostname or snapshot.url[:40]}"
    search = profile.search
    if query is None or not (search.query_parameter or search.query_box):
        return ""
    parameters = parse_qs(urlsplit(snapshot.url).query, encoding=search.encoding, errors="replace")
    shown = [*parameters.get(search.query_parameter, ()), snapshot.query_box]
    shown = [text for text in map(_plain, shown) if text]
    other = next((text for text in shown if text != _plain(query)), None)
    if other is not None:
        return f"the page shows another query: {other[:40]!r}"
    return "" if shown else "the page does not say which query it shows"


def _plain(text: str) -> str:
    """A query as sites may rewrite it: width, case and white space do not matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
