"""The shapes a result page has had over the years: static/layout_*.html, filled with products.

In those files `word--#` is a class name as build tools make them, the word and letters that change with the
seed; `odd-word` is a class name that tells nothing.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from crawler.practice_shop.addresses import BLANK, BLANK_GIF, ICON
from crawler.practice_shop.items import Item
from crawler.practice_shop.settings import ShopSettings

STATIC = Path(__file__).parent / "static"
_SUFFIXES = {"plain": "", "webp": "_.webp", "quality": "_q50.jpg_.webp", "png": "_460x460q90.jpg_.webp"}
_OLD_SUFFIX, _SUFFIX = "_180x180.jpg", "_360x360q90.jpg_.webp"


@dataclass(frozen=True)
class Origins:
    """host:port of the three sites."""

    search: str
    login: str
    images: str


class Painter:
    """Draws what replaces the skeleton of a result page, for one set of settings."""

    def __init__(self, settings: ShopSettings, origins: Origins) -> None:
        name = settings.layout.removesuffix("-mixed")
        self._settings, self._origins = settings, origins
        self._old = name == "2022"
        self._parts = _parts(name if name in ("2022", "2023", "2026", "redesign") else "2025", settings.seed)

    def skeleton(self) -> str:
        """The grid before the data: grey boxes."""
        if self._settings.layout == "none":
            return '<div class="bones"></div>'
        return Template(self._parts["grid"]).substitute(cards='<div class="bone"></div>' * 12)

    def results(self, items: Sequence[Item], recommended: Sequence[Item]) -> str:
        """The grid; in a mixed layout there is a second one that is not the query's."""
        if self._settings.layout == "none":
            return '<div class="notice"><h2>搜索全新升级中</h2><p>Something new is coming.</p></div>'
        below = self._recommendations(recommended) if self._settings.layout == "redesign-mixed" else ""
        return self._grid(items) + below

    def nothing_found(self, query: str, recommended: Sequence[Item]) -> str:
        """The explicit text that there is nothing, and other products below it if so set."""
        text = escape(f"非常抱歉，没有找到与“{query[:40]}”相关的宝贝")
        tip = "建议您看看输入的文字是否有误，或换个说法再试"
        sorry = f'<div class="{self._parts["empty"]} sorry"><p>{text}</p><p>{tip}</p></div>'
        return sorry + (self._recommendations(recommended) if self._settings.empty_recommendations else "")

    def _recommendations(self, items: Sequence[Item]) -> str:
        return f'<div class="more"><h3>猜你喜欢</h3>{self._grid(items)}</div>'

    def _grid(self, items: Sequence[Item]) -> str:
        cards = "".join(self._card(item) for item in items)
        return Template(self._parts["grid"]).substitute(cards=cards)

    def _card(self, item: Item) -> str:
        shop = "/tmall" if item.tmall else ""
        link = (
            f"//{self._origins.search}{shop}/item.htm?spm=a21n57.1.item.{item.number}&id={item.item_id}&ns=1"
        )
        click = f"//{self._origins.search}/click.simba?e={item.item_id}&type=2" if item.ad else link
        return Template(self._parts["card"]).substitute(
            number=item.number,
            item_id=item.item_id,
            title=escape(item.title),
            price=item.price,
            sold=item.sold,
            shop=item.shop,
            place=item.place,
            link=escape(link),
            click=escape(click),
            ad_item="item-ad" if item.ad else "",
            badge=self._parts.get("badge", "") if item.ad else "",
            data_name="itemNT" if item.tmall else "item",
            image=self._image(item),
        )

    def _image(self, item: Item) -> str:
        """The img of a card, its addresses written in the form whose turn it is."""
        forms = self._settings.url_forms
        form = forms[item.number % len(forms)]
        host = f"//{self._origins.images}"
        classes = self._parts.get("ad image" if item.ad else "image", self._parts["image"])
        attributes = {"class": classes, "alt": item.title}
        path = item.picture
        if form == "png" and item.kind in ("ok", "file"):
            path = path.removesuffix("jpg") + "png"
        base = {"absolute": f"http:{host}", "relative": ""}.get(form, host) + path
        small = base + _SUFFIXES.get(form, _OLD_SUFFIX if self._old else _SUFFIX)
        attributes["src"] = small
        if self._old:
            attributes["data-src"] = base
        if form == "srcset":
            attributes["srcset"] = f"{base}_180x180.jpg 1x, {base}_360x360.jpg 2x"
        elif form == "placeholder":
            attributes |= {"src": host + BLANK, "data-lazy-src": small}
        if self._settings.lazy:  # not loaded yet: the page's script fills it in
            attributes.pop("srcset", None)
            attributes.pop("data-lazy-src", None)
            attributes["src"] = host + (BLANK_GIF if self._old else BLANK)
            # In 2022 the address waited in an attribute; later it waits in the script's memory only.
            attributes["data-ks-lazyload" if self._old else "data-fill"] = small
        icon = f'<img src="{host}{ICON}" width="42" height="27" alt="">' if form == "icon_first" else ""
        return f"{icon}<img {_written(attributes)}>"


def _written(attributes: dict[str, str]) -> str:
    return " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())


@functools.lru_cache(maxsize=32)
def _parts(layout: str, seed: int) -> dict[str, str]:
    """The sections of a layout file by name, with this seed's class names."""

    def letters(word: str) -> str:
        return hashlib.sha256(f"{seed} {word}".encode()).hexdigest()

    text = (STATIC / f"layout_{layout}.html").read_text(encoding="utf-8")
    text = re.sub(r"([\w-]+?)--#", lambda found: f"{found[1]}--{letters(found[1])[:8]}", text)
    text = re.sub(r"\bodd-(\w+)", lambda found: "c" + letters(found[0])[:6], text)
    names, sections = re.findall(r"<!-- ([a-z ]+) -->", text), re.split(r"<!-- [a-z ]+ -->\n", text)[1:]
    return {name: section.strip() for name, section in zip(names, sections, strict=True)}
