"""Snapshots made by hand, for tests that need no browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crawler.profile import load_profile
from crawler.snapshot import Frame, Image, Node, Rect, Row, Snapshot

TAOBAO = load_profile("taobao")
QUERY = "连衣裙"
HARD_QUERIES = [
    "a/b",
    "../x",
    "A&B=C",
    "a#b",
    "100%",
    "a+b",
    "\"x\" 'y'",
    "<b>",
    "👗 裙",
    "裙" * 100,
    "A B",
    "a\\b",
    "?q=1",
]
URL = "https://s.taobao.com/search?q=%E8%BF%9E%E8%A1%A3%E8%A3%99"
GRID = (1, 4, 0)  # path of the list that rows() puts cards into


def image(address: str = "", *, natural: int = 0, size: float = 220, **attributes: Any) -> Image:
    """An img element; underscores in the names of attributes stand for hyphens."""
    given = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    if address:
        given["src"] = address
    return Image(given, natural, natural, Rect(0, 0, size, size))


def row(number: int, title: str = "红色连衣裙", *, grid: tuple[int, ...] = GRID, **changes: Any) -> Row:
    """Card `number` of a grid, five to a line of 250 px; item and picture are named after it."""
    x, y = 10 + number % 5 * 230, 200 + number // 5 * 330
    return replace(
        Row(
            path=(*grid, number),
            rect=Rect(x, y, 220, 320),
            title=title,
            links=(f"https://item.taobao.com/item.htm?id={1000 + number}",),
            images=(image(f"//img.alicdn.com/imgextra/i1/{number}.jpg"),),
        ),
        **changes,
    )


def rows(count: int, **changes: Any) -> tuple[Row, ...]:
    return tuple(row(number, **changes) for number in range(count))


def node(kind: str, wanted: str, rect: Rect, **changes: Any) -> Node:
    return replace(Node(kind, wanted, wanted, rect, path=(1, 2)), **changes)


def heading(path: tuple[int, ...], y: float = 0, x: float = 10) -> Node:
    return node("recommendation", "猜你喜欢", Rect(x, y, 200, 30), path=path)


def frame(url: str, rect: Rect, overlay: bool = False) -> Frame:
    return Frame(url, rect, overlay)


def page(**changes: Any) -> Snapshot:
    """A complete page of Taobao for QUERY with nothing on it but `changes`."""
    base = Snapshot(URL, "complete", URL, 200, width=1366, height=900, scroll_height=900, query_box=QUERY)
    return replace(base, **changes)


def results(count: int = 4, **changes: Any) -> Snapshot:
    """A result page of 2025; its cards are what its product links lead to as well."""
    layouts = changes.pop("layouts", {"2025": rows(count)})
    cards = tuple(card for found in layouts.values() for card in found)
    return page(**{"layouts": layouts, "rows": cards, **changes})
