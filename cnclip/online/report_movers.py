"""The queries that online learning moved most: from where to where, by which pictures, with what to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnclip.online.report_html import counted_rounds, details, table
from cnclip.online.report_rounds import ROLLED_BACK, USED, Fresh, Hit, Round
from cnclip.online.report_summary import SAME
from cnclip.online.report_thumbs import Thumbs
from cnclip.text import normalize
from cnclip.training.report_page import percent, points, section, text, tone

SHOWN_UP, SHOWN_DOWN = 8, 4
MAX_ROWS = 1000  # of the table
_PICTURES = 5  # in each row of a card

MOVERS_STYLE = """
.movers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 14px;
  margin: 10px 0 16px; }
.mover { border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px 6px; min-width: 0; }
.mover h3 { font-size: 16px; margin: 0; overflow-wrap: anywhere; }
.what { color: var(--faint); font-size: 13px; margin-top: 14px; }
.mover .what { font-size: 12.5px; margin-top: 0; }
.mover .moved { margin: 2px 0 8px; font-size: 13.5px; }
h3.group { font-size: 15px; margin: 14px 0 0; }
.chip { display: inline-block; font-size: 11.5px; font-weight: 600; border: 1px solid var(--line);
  border-radius: 9px; padding: 0 8px; margin-left: 8px; color: var(--faint); vertical-align: 2px; }
"""


@dataclass(frozen=True)
class Moved:
    """A query over several rounds: average precision and first pictures before the first of them and after
    the last. `pictures` are those that taught it, each once."""

    text_id: str
    text: str
    taught: bool
    n_relevant: int | None
    ap: tuple[float, float]
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]
    rounds: tuple[int, ...]
    pictures: tuple[Fresh, ...] = ()

    @property
    def gain(self) -> float:
        return self.ap[1] - self.ap[0]


def movers_section(rounds: Sequence[Round], thumbs: Thumbs) -> str:
    """Cards of those that gained and lost most, and a table of all; empty where no round names any.

    Only kept rounds count. Where none was kept, it is the last round that was rolled back, and said so.
    """
    kept = [row for row in rounds if row.kept]
    chosen = kept or [row for row in rounds if row.decision == ROLLED_BACK][-1:]
    found = moved(chosen)
    if not found:
        return ""
    up = [item for item in found if item.gain >= SAME][:SHOWN_UP]
    down = [item for item in reversed(found) if item.gain <= -SAME][:SHOWN_DOWN]
    body = _cards("Gained most", up, thumbs) + _cards("Lost most", down, thumbs)
    rows = [_row(item) for item in found[:MAX_ROWS]]
    head = ("Query", "Taught", "Right pictures", "AP before, %", "AP after, %", "Change", "Rounds")
    shown = f"The first {MAX_ROWS:,} of" if len(found) > MAX_ROWS else "All"
    body += details(f"{shown} {len(found):,} queries that rounds named", table(head, rows, words=(0, 1)))
    title = "Queries that moved most"
    remark = (
        "Average precision (AP) and first pictures before the first kept round that names the query and "
        "after the last. ✓ and a solid frame: right. ✗ and a dashed frame: wrong."
    )
    if not kept:
        title = "What the last round that was rolled back would have done"
        remark = f"None of this is in the model. {remark.replace('kept ', '')}"
    return section(title, body, remark)


def moved(rounds: Sequence[Round]) -> list[Moved]:
    """The queries that these rounds name, the largest gain first."""
    found: dict[str, Moved] = {}
    pictures: dict[str, dict[str, Fresh]] = {}
    for row in rounds:
        for picture in row.pictures:
            if picture.outcome == USED:
                of_query = pictures.setdefault(normalize(picture.query), {})
                of_query.setdefault(picture.sha256 or str(picture.number), picture)
        for mover in row.movers:
            key, ap = mover.text_id or mover.text, mover.ap
            new = Moved(
                *(mover.text_id, mover.text, mover.taught, mover.n_relevant),
                *(ap, mover.before, mover.after, (row.number,)),
            )
            old = found.get(key)
            found[key] = new if old is None else _joined(old, new)
    named = [
        replace(item, pictures=tuple(pictures.get(normalize(item.text), {}).values()))
        for item in found.values()
    ]
    return sorted(named, key=lambda item: -item.gain)


def _joined(old: Moved, new: Moved) -> Moved:
    return replace(
        old,
        taught=old.taught or new.taught,
        ap=(old.ap[0], new.ap[1]),
        after=new.after,
        rounds=(*old.rounds, *new.rounds),
    )


def _cards(title: str, items: Sequence[Moved], thumbs: Thumbs) -> str:
    if not items:
        return ""
    cards = "".join(_card(item, thumbs) for item in items)
    return f'<h3 class="group">{text(title)}</h3><div class="movers">{cards}</div>'


def _card(item: Moved, thumbs: Thumbs) -> str:
    chip = f'<span class="chip">{"taught" if item.taught else "not taught"}</span>'
    right = "" if item.n_relevant is None else f" · {item.n_relevant:,} right in the gallery"
    parts = [
        f"<h3>{text(item.text or item.text_id)}{chip}</h3>",
        f'<p class="moved">AP {percent(item.ap[0])} % → {percent(item.ap[1])} % '
        f'<b class="{tone(*item.ap)}">{points(*item.ap)}</b>{right}</p>',
    ]
    if item.pictures:
        more = len(item.pictures) - _PICTURES
        told = f"Taught by{f' (and {more:,} more)' if more > 0 else ''}"
        shots = "".join(thumbs.fresh(picture) for picture in item.pictures[:_PICTURES])
        parts.append(f'<p class="what">{told}</p><div class="shots">{shots}</div>')
    for told, hits in (("First pictures before", item.before), ("First pictures after", item.after)):
        if hits:
            parts.append(f'<p class="what">{told}</p>{thumbs.hits(hits[:_PICTURES])}')
    return f'<article class="mover">{"".join(parts)}</article>'


def _row(item: Moved) -> tuple[str, ...]:
    return (
        item.text or item.text_id,
        "yes" if item.taught else "no",
        "–" if item.n_relevant is None else f"{item.n_relevant:,}",
        percent(item.ap[0]),
        percent(item.ap[1]),
        points(*item.ap),
        counted_rounds(item.rounds),
    )
