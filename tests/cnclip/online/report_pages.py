"""The page of online learning in a test."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from cnclip.online.report import online_page
from cnclip.online.report_rounds import read_rounds
from cnclip.online.report_summary import summarize

VOID = {"meta", "img", "br", "source"}


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(run: Path) -> str:
    """The page without curves; its tags are checked."""
    log = read_rounds(run)
    text = online_page(run, log, summarize(log))
    assert Balance(text).open == []
    return text


def part(text: str, title: str) -> str:
    """The section of this title."""
    return next(found for found in text.split("<section")[1:] if f"<h2>{title}</h2>" in found)
