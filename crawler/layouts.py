"""Which cards of a result page are products that were found for the query, and what their pictures are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from urllib.parse import urldefrag

from crawler.image_urls import picture_addresses
from crawler.profile import Profile
from crawler.snapshot import Node, Rect, Row, Snapshot
from crawler.types import Candidate

GENERIC = "generic"  # name of the layout that is none: product links alone
LEAST_GENERIC = 3  # links; fewer are no result list
HEADING_GAP_PX = 160  # a heading this close above a list is the list's
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_PAIRS = re.compile(rf"(?=([{_HAN}][^\W_]|[^\W_][{_HAN}]))")
_WORDS = re.compile(rf"[^\W\d_{_HAN}]{{2,}}|\d+")


@dataclass(frozen=True)
class Found:
    """Candidates of a page under one layout. waiting: products whose picture is not there yet. top: where
    the list begins. detail: why there are none."""

    layout: str = ""
    candidates: tuple[Candidate, ...] = ()
    waiting: int = 0
    top: Rect | None = None
    detail: str = ""


NOTHING = Found()


def candidates(
    snapshot: Snapshot, profile: Profile, query: str | None, limit: int
) -> tuple[str, tuple[Candidate, ...]]:
    """Name of the layout and up to `limit` candidates in page order; "" and () if there are none."""
    found = find(snapshot, profile, query, limit)
    return (found.layout, found.candidates) if found.candidates else ("", ())


def find(snapshot: Snapshot, profile: Profile, query: str | None, limit: int) -> Found:
    """The first layout of the profile with a product and its picture, else the list that product links form.

    Advertisements and what stands below a recommendation heading never count.
    """
    headings = [text for text in snapshot.texts if text.kind == "recommendation"]
    waiting = NOTHING
    for layout in profile.layout:
        cards = [row for row in snapshot.layouts.get(layout.name, ()) if not _is_ad(row, profile)]
        found = _read(layout.name, _above_headings(cards, headings), snapshot, profile, limit)
        if found.candidates:
            return found
        if found.waiting and not waiting.waiting:
            waiting = found
    generic = _generic(snapshot, profile, headings, query, limit)
    return waiting if waiting.waiting and not generic.candidates else generic


def item_of(row: Row, profile: Profile) -> str | None:
    """The one item that a card links to; None if there is none, or more than one."""
    matches = [re.search(pattern, link) for link in row.links for pattern in profile.products.link]
    items = {match.groupdict().get("id") or match.group() for match in matches if match}
    return items.pop() if len(items) == 1 else None


def _is_ad(row: Row, profile: Profile) -> bool:
    return bool(row.ads) or any(re.search(p, link) for p in profile.products.ad_link for link in row.links)


def _above_headings(cards: Sequence[Row], headings: Iterable[Node]) -> list[Row]:
    """The cards before the first heading that stands inside their grid, or right above a card."""
    grid = _common(cards[0].path[:-1], cards[-1].path[:-1]) if cards else ()
    end = len(cards)
    for heading in headings:
        first = next((i for i, card in enumerate(cards) if card.path > heading.path), None)
        if first is None:
            continue
        card = cards[first].rect
        close = 0 <= card.y - heading.rect.bottom < HEADING_GAP_PX and not card.beside(heading.rect)
        if close or heading.path[: len(grid)] == grid:
            end = min(end, first)
    return list(cards[:end])


def _common(first: tuple[int, ...], last: tuple[int, ...]) -> tuple[int, ...]:
    """Path of what holds both, and as paths are sorted, everything between."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return tuple(place for place, _ in same)


def _read(name: str, rows: Sequence[Row], snapshot: Snapshot, profile: Profile, limit: int) -> Found:
    """What the rows show: each item once, the first time it comes; ranks count items without picture too."""
    found: list[Candidate] = []
    seen: set[str] = set()
    waiting = 0
    page_url = urldefrag(snapshot.url).url
    for row in rows:
        item = item_of(row, profile)
        if item is None or item in seen:
            continue
        addresses = picture_addresses(row.images, snapshot.base_url or page_url, profile.pictures)
        if addresses:
            found.append(Candidate(item, addresses, page_url, row.title, len(seen)))
        else:
            waiting += 1
        seen.add(item)
    top = min((row.rect for row in rows), key=lambda rect: rect.y, default=None)
    return Found(name, tuple(found[:limit]), waiting, top)


def _generic(
    snapshot: Snapshot, profile: Profile, headings: Sequence[Node], query: str | None, limit: int
) -> Found:
    """Product links in a page of no known layout. To be right matters more than to find something: they
    must form one list (pictures may still be missing, but not most of them) above any recommendations, and
    the titles must speak of the query."""
    start = min((heading.path for heading in headings), default=None)
    rows = [row for row in snapshot.rows if not _is_ad(row, profile) and (start is None or row.path < start)]
    if not rows:
        return Found(detail="product links below a recommendation heading only" if snapshot.rows else "")
    if snapshot.more_rows or len(rows) < LEAST_GENERIC or len({row.path[:-1] for row in rows}) > 1:
        return Found(detail=f"{len(rows)} product links that do not form one list")
    found = _read(GENERIC, rows, snapshot, profile, len(rows))
    if len(found.candidates) < max(LEAST_GENERIC, len(rows) / 3):
        detail = f"{found.waiting} of {len(rows)} product links without a picture"
        return Found(GENERIC, (), found.waiting, found.top, detail)
    top = found.top
    if top and any(h.rect.bottom <= top.y and not h.rect.beside(top) for h in headings):
        return Found(detail="product links below a recommendation heading")
    speaking = sum(speaks_of(candidate.title, query or "") for candidate in found.candidates)
    if 2 * speaking < len(found.candidates):
        return Found(detail=f"{speaking} of {len(found.candidates)} titles speak of the query")
    return Found(GENERIC, found.candidates[:limit], found.waiting, top)


def speaks_of(title: str, query: str) -> bool:
    """Whether they share two neighbouring characters, one of them Han, or a word or number; of a query
    that has none of these, a character."""
    title, query = (unicodedata.normalize("NFKC", text).casefold() for text in (title, query))
    parts = _parts(query)
    if parts:
        return bool(parts & _parts(title))
    return any(character in title for character in query if character.isalnum())


def _parts(text: str) -> set[str]:
    return {*_HAN_PAIRS.findall(text), *_WORDS.findall(text)}
