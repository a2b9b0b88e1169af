"""Parts of a page that a report of training has no use for: plain tables, bars of counts, what folds away."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cnclip.training.report_page import Tone, text

MAX_REASONS = 12

HTML_STYLE = """
.scroll { overflow-x: auto; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--faint); padding: 4px 0; }
details[open] > summary { margin-bottom: 6px; }
table.plain { font-size: 13px; }
table.plain td.words, table.plain th.words { text-align: left; overflow-wrap: anywhere; }
table.plain th.words { white-space: nowrap; }
table.plain td { vertical-align: top; }
table.plain tbody td.narrow { white-space: nowrap; }
table.plain tr.note td { border-top: 0; padding-top: 0; color: var(--faint); font-size: 12.5px; }
table.plain tr.note div { position: sticky; left: 10px; width: fit-content; max-width: calc(100vw - 80px); }
.counts { display: grid; grid-template-columns: max-content minmax(60px, 1fr) max-content; gap: 7px 14px;
  align-items: center; margin: 8px 0 4px; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.counts .name { overflow-wrap: anywhere; max-width: 46vw; }
.counts .track { background: var(--neutral-behind); border-radius: 5px; height: 14px; overflow: hidden; }
.counts .track i { display: block; height: 100%; min-width: 2px; border-radius: 5px; }
.counts .amount { text-align: right; }
.fill-good { background: var(--good); }
.fill-bad { background: var(--bad); }
.fill-neutral { background: var(--series4); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 6px 36px; }
.grid h3 { font-size: 14.5px; margin: 12px 0 2px; }
.grid td, .grid tbody th { padding: 4px 10px; }
@media (max-width: 640px) { .tiles { grid-template-columns: repeat(2, 1fr); gap: 10px; }
  .tile { padding: 10px 12px; } .tile .value { font-size: 21px; }
  .chart img { width: 880px; max-width: none; } .facts { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than its text. html: what is written, HTML already."""

    html: str
    tone: Tone | None = None
    narrow: bool = False


@dataclass(frozen=True)
class Note:
    """A remark on a row of a table."""

    text: str


@dataclass(frozen=True)
class Count:
    """One of the bars: how many of what, in a colour."""

    name: str
    count: int
    tone: Tone = "neutral"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | Cell] | Note], *, words: Collection[int] = ()
) -> str:
    """Columns named by `head`. words: the columns that hold words; all others are aligned as numbers.

    A `Note` is written below the row before it.
    """
    kinds = [' class="words"' if column in words else "" for column in range(len(head))]
    top = "".join(f"<th{kind}>{text(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(_table_row(row, len(head), words) for row in rows)
    return f'<table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def count_bars(items: Sequence[Count]) -> str:
    """Counts as bars on one scale; empty where there is nothing to count."""
    most = max((item.count for item in items), default=0)
    if most <= 0:
        return ""
    rows = (
        f'<span class="name">{text(item.name)}</span><span class="track">'
        f'<i class="fill-{item.tone}" style="width: {100 * item.count / most:.2f}%"></i></span>'
        f'<span class="amount">{item.count:,}</span>'
        for item in items
    )
    return f'<div class="counts">{"".join(rows)}</div>'


def details(summary: str, body: str, *, is_open: bool = False) -> str:
    """What is there on demand. `body` is HTML already."""
    shown = " open" if is_open else ""
    return f'<details{shown}><summary>{text(summary)}</summary><div class="scroll">{body}</div></details>'


def counted_rounds(numbers: Sequence[int]) -> str:
    """The numbers of rounds, the middle of many left out."""
    if len(numbers) <= 5:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}, {numbers[1]}, …, {numbers[-1]} ({len(numbers):,})"


def reasons(counts: Mapping[str, int], what: str) -> list[Count]:
    """The reasons of refusals or misses as bars, the most frequent first, the rare ones of many together."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    bars = [Count(f"{what}: {reason}", count) for reason, count in ordered[:MAX_REASONS]]
    rest = ordered[MAX_REASONS:]
    return bars + ([Count(f"{what}: {len(rest):,} other reasons", sum(n for _, n in rest))] if rest else [])


def _table_row(row: Sequence[str | Cell] | Note, columns: int, words: Collection[int]) -> str:
    if isinstance(row, Note):
        return f'<tr class="note"><td class="words" colspan="{columns}"><div>{text(row.text)}</div></td></tr>'
    return f"<tr>{''.join(_cell(cell, i in words) for i, cell in enumerate(row))}</tr>"


def _cell(cell: str | Cell, is_words: bool) -> str:
    if isinstance(cell, str):
        cell = Cell(text(cell))
    names = [name for name, on in (("words", is_words), ("narrow", cell.narrow)) if on]
    names += [cell.tone] if cell.tone else []
    kind = f' class="{" ".join(names)}"' if names else ""
    return f"<td{kind}>{cell.html}</td>"
