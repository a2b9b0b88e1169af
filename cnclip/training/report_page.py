"""The parts of an HTML report: tables, tiles, bars, and the page around them. Every text is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cnclip.printable import printable
from cnclip.training.history import DIRECTIONS, Scores
from cnclip.training.report_style import STYLE

Tone = Literal["good", "bad", "neutral"]
METRICS = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "mean_recall": "Mean recall", "mAP": "mAP"}


@dataclass(frozen=True)
class Verdict:
    """One sentence on what came out; `tone` gives it its colour, `headline` is the short form."""

    tone: Tone
    headline: str
    sentence: str


@dataclass(frozen=True)
class Tile:
    """A number worth reading first; `remark` below it in `tone`."""

    label: str
    value: str
    remark: str = ""
    tone: Tone = "neutral"


def text(value: object) -> str:
    """Any value as HTML text, safe also within quotes."""
    return html.escape(printable(str(value)))


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def points(before: float | None, after: float | None) -> str:
    """The change of a share in percentage points, with its sign."""
    return "–" if before is None or after is None else f"{100 * (after - before):+.2f}".replace("-", "−")


def tone(before: float | None, after: float | None) -> Tone:
    """Good where `after` is more; a change that two decimals would not show is none."""
    if before is None or after is None or abs(after - before) < 5e-5:
        return "neutral"
    return "good" if after > before else "bad"


def page(
    *,
    title: str,
    kicker: str,
    byline: str,
    verdict: Verdict,
    sections: Sequence[str],
    footer: str,
    style: str = "",
) -> str:
    """A whole HTML document that loads nothing from anywhere.

    sections: HTML already. style: rules for what other modules put in.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)} – {text(kicker)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{text(kicker)}</p>
<h1>{text(title)}</h1>
<p class="byline">{text(byline)}</p>
</header>
<section class="verdict {verdict.tone}">
<h2>{text(verdict.headline)}</h2>
<p>{text(verdict.sentence)}</p>
</section>
{"".join(sections)}
<footer>{text(footer)}</footer>
</main>
</body>
</html>
"""


def section(title: str, body: str, remark: str = "") -> str:
    """`body` is HTML already."""
    below = f'<p class="remark">{text(remark)}</p>' if remark else ""
    return f"<section><h2>{text(title)}</h2>{below}{body}</section>\n"


def tiles(items: Sequence[Tile]) -> str:
    cells = (
        f'<div class="tile"><p class="label">{text(tile.label)}</p><p class="value">{text(tile.value)}</p>'
        f'<p class="change {tile.tone}">{text(tile.remark)}</p></div>'
        for tile in items
    )
    return f'<div class="tiles">{"".join(cells)}</div>\n'


def scores_table(columns: Mapping[str, Scores | None], change: tuple[str, str]) -> str:
    """Metrics in percent, both directions, one column per evaluation, and the change between two of them."""
    first, last = (columns[name] for name in change)
    names = [f"{name} (step {scores.step})" if scores else name for name, scores in columns.items()]
    head = "".join(f"<th>{text(name)}</th>" for name in (*names, "Change"))
    rows = []
    for direction, direction_label in DIRECTIONS.items():
        rows.append(f'<tr class="group"><th colspan="{len(columns) + 2}">{text(direction_label)}</th></tr>')
        for metric, label in METRICS.items():
            values = [scores.get(metric, direction) if scores else None for scores in columns.values()]
            before = first.get(metric, direction) if first else None
            after = last.get(metric, direction) if last else None
            cells = "".join(f"<td>{percent(value)}</td>" for value in values)
            changed = f'<td class="{tone(before, after)}">{points(before, after)}</td>'
            strong = ' class="strong"' if metric == "mean_recall" else ""
            rows.append(f"<tr{strong}><th>{text(label)}</th>{cells}{changed}</tr>")
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    remark = f"Change: from {change[0].lower()} to {change[1].lower()}, in percentage points."
    return f'<table>{body}</table><p class="remark below">{text(remark)}</p>'


def facts(items: Sequence[tuple[str, object]]) -> str:
    """Names and values in columns."""
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in items)
    return f'<dl class="facts">{rows}</dl>'


def bullets(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>"


def share_bar(parts: Mapping[str, float], unit: str) -> str:
    """Amounts as shares of one bar, with a legend that gives amount and share."""
    whole = sum(parts.values())
    if whole <= 0:
        return ""
    bar, legend = [], []
    for number, (name, amount) in enumerate(parts.items()):
        colour, share = f"background: var(--series{number})", 100 * amount / whole
        bar.append(f'<span style="{colour}; width: {share:.3f}%"></span>')
        told = f"{text(name)}<b>{amount:.3f} {text(unit)}</b><em>{share:.0f} %</em>"
        legend.append(f'<li><i style="{colour}"></i>{told}</li>')
    return f'<div class="bar">{"".join(bar)}</div><ul class="legend">{"".join(legend)}</ul>'


def picture(light: bytes, dark: bytes, description: str) -> str:
    """A PNG for each colour scheme, within the page."""
    sources = [f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}" for data in (light, dark)]
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{sources[1]}">'
        f'<img src="{sources[0]}" alt="{text(description)}"></picture>'
    )
