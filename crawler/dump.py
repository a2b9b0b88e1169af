"""What a page looks like, kept for a human to find out why it was not understood; without secrets."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from cache.files import write_durably
from crawler.classify import judge
from crawler.profile import Profile
from crawler.snapshot import Node, Snapshot, take_snapshot

if TYPE_CHECKING:
    from crawler.browser import Browser

REDACTED = "[redacted]"
LEAST_SECRET = 6  # characters of a cookie's value; shorter ones (flags, counters) are in every page
_NAMES = (
    r"x5\w*|\w*token\w*|\w*session\w*|\w*secret\w*|\w*passw\w*|\w*csrf\w*|\w*ticket\w*|sid|sign|sgcookie|cookie\w*"
    r"|unb|_m_h5_tk\w*|_nk_|tracknick|lgc|umid\w*|wua"
)
_EQUALS = r"""\\?["']?\s*(?:=|:|%(?:25)*3[Dd])\s*\\?["']?"""
_VALUE = r"""(?:(?!%(?:25)*26)[^\s"'&;,<>{}\\])+"""
_NAMED = re.compile(rf"(?<![A-Za-z0-9])({_NAMES})({_EQUALS}){_VALUE}", re.IGNORECASE)
_RANDOM = re.compile(r"(?=[\w+=-]*\d)(?=[\w+=-]*[A-Za-z])[A-Za-z0-9_+=-]{40,}")
_SHAPE = {"class", "id", "style"}  # what selectors are written against
_TYPED = {"value", "srcdoc", "nonce", "content"}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def write_dump(browser: Browser, profile: Profile, folder: Path, name: str) -> None:
    """Write `<name>.html`, `<name>.png` and `<name>.json` of what the browser shows; each whole or absent.

    In the html and json, cookies, values of secret-looking names, what was typed and scripts are left out;
    the png is what is to be seen. Raises OSError, BrowserError.
    """
    snapshot = take_snapshot(browser, profile)
    cookies = browser.cookies()
    nicks = profile.login.nick_cookies if profile.login else ()
    secrets = _secrets(cookies, nicks)
    folder.mkdir(parents=True, exist_ok=True)
    description = redact(json.dumps(describe(snapshot, profile), ensure_ascii=False, indent=1), secrets)
    write_durably(folder / f"{name}.json", description.encode())
    write_durably(folder / f"{name}.html", redact_html(browser.html(), secrets).encode())
    write_durably(folder / f"{name}.png", browser.screenshot())


def describe(snapshot: Snapshot, profile: Profile) -> dict[str, Any]:
    """What was seen, in numbers: state, cards by layout, visible probes and texts, frames."""
    verdict = judge(snapshot, profile, final=True)
    layouts = {
        name: {"cards": len(rows), "advertisements": sum(bool(row.ads) for row in rows)}
        for name, rows in snapshot.layouts.items()
    }
    return {
        "url": snapshot.url,
        "state": verdict.state.value,
        "detail": verdict.detail,
        "title": snapshot.title,
        "ready_state": snapshot.ready_state,
        "status": snapshot.status,
        "viewport": [snapshot.width, snapshot.height],
        "busy": snapshot.busy,
        "layouts": layouts,
        "product_links": len(snapshot.rows) + snapshot.more_rows,
        "probes": _counts(snapshot.probes),
        "texts": _counts(snapshot.texts),
        "frames": [
            {"url": frame.url, "size": [frame.rect.width, frame.rect.height]} for frame in snapshot.frames
        ],
    }


def _counts(nodes: Iterable[Node]) -> dict[str, int]:
    return dict(Counter(f"{node.kind} {node.wanted}" for node in nodes))


def redact(text: str, secrets: Iterable[str] = (), *, names_only: bool = False) -> str:
    """The text without `secrets`, values of secret-looking names (`token=…`, also inside an encoded address)
    and, but for `names_only`, long random words."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    text = _NAMED.sub(rf"\1\2{REDACTED}", text)
    return text if names_only else _RANDOM.sub(REDACTED, text)


def redact_html(source: str, secrets: Iterable[str] = ()) -> str:
    """The page without scripts, typed values and secrets; it keeps its structure, classes and ids."""
    writer = _Writer(secrets)
    writer.feed(source)
    writer.close()
    return "".join(writer.parts)


def _secrets(cookies: Mapping[str, str], nicks: Iterable[str]) -> list[str]:
    """Cookie values in all spellings pages use, longest first; the nick name however short."""
    found: set[str] = set()
    for name, value in cookies.items():
        plain = unquote(value)
        if "\\u" in plain and plain.isascii():  # nick names come as \u6dd8\u6c14
            plain = codecs.decode(plain, "unicode_escape")
        least = 2 if name in nicks else LEAST_SECRET
        spellings = {value, plain, quote(plain), quote(plain, safe="")}
        found |= {text for text in spellings if len(text) >= least}
    return sorted(found, key=len, reverse=True)


class _Writer(HTMLParser):
    """Copies a page, leaving secrets out."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._secrets = list(secrets)
        self._inside = ""  # script, style or textarea: what is in there is no markup

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        written = "".join(self._attribute(name, value) for name, value in attrs)
        self.parts.append(f"<{tag}{written}>")
        if tag in ("script", "style", "textarea"):
            self._inside = tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._inside = ""
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"</{tag}>")
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "textarea"):
            return
        clean = redact(data, self._secrets)
        self.parts.append(clean if self._inside else escape(clean, quote=False))

    def handle_comment(self, data: str) -> None:
        self.parts.append(f"<!--{redact(data, self._secrets)}-->")

    def handle_decl(self, decl: str) -> None:
        self.parts.append(f"<!{decl}>")

    def _attribute(self, name: str, value: str | None) -> str:
        if value is None:
            return f" {name}"
        if name in _TYPED or (name.startswith("on") and value):
            value = REDACTED if value else ""
        secret_name = re.fullmatch(rf"(?:data-)?(?:{_NAMES})", name, re.IGNORECASE)
        clean = REDACTED if secret_name else redact(value, self._secrets, names_only=name in _SHAPE)
        return f' {name}="{escape(clean)}"'
