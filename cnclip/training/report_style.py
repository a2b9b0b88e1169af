"""Colours and style sheet of a run's picture and page, for light and dark screens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Hexadecimal colours.

    page, card: behind everything, and of the boxes on it. ink, faint: of what is written. line: of grids and
    borders. series: of curves and bars, in the order in which they are used. good, bad: of changes, each with
    a background to go with it.
    """

    page: str
    card: str
    ink: str
    faint: str
    line: str
    series: tuple[str, ...]
    good: tuple[str, str]
    bad: tuple[str, str]
    neutral: tuple[str, str]

    def variables(self) -> str:
        """The colours as CSS custom properties."""
        named = {
            "page": self.page,
            "card": self.card,
            "ink": self.ink,
            "faint": self.faint,
            "line": self.line,
        }
        named |= {f"series{number}": colour for number, colour in enumerate(self.series)}
        for name, (colour, behind) in {"good": self.good, "bad": self.bad, "neutral": self.neutral}.items():
            named |= {name: colour, f"{name}-behind": behind}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())


LIGHT = Theme(
    page="#f4f6f8",
    card="#ffffff",
    ink="#1c2530",
    faint="#626c79",
    line="#e3e7ec",
    series=("#2563c9", "#e0701a", "#3a9a6a", "#9457c2", "#a3acb8"),
    good=("#1f7a4d", "#e9f6ef"),
    bad=("#b3372f", "#fcedeb"),
    neutral=("#626c79", "#eef1f4"),
)
DARK = Theme(
    page="#0f1318",
    card="#171c23",
    ink="#e6eaf0",
    faint="#98a3b1",
    line="#2b333e",
    series=("#6ea2f5", "#f2994f", "#62c596", "#bd90e6", "#76818f"),
    good=("#62c596", "#13291f"),
    bad=("#f28b82", "#321a19"),
    neutral=("#98a3b1", "#1c232c"),
)

_RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
  sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 30px; line-height: 1.2; margin: 2px 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 4px; }
p { margin: 0; }
.kicker { font-weight: 600; letter-spacing: .06em; text-transform: uppercase; font-size: 12px; }
.kicker, .byline, .remark, footer { color: var(--faint); }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
section { padding: 20px 24px; margin-top: 18px; }
.remark { font-size: 13.5px; margin-bottom: 12px; }
.remark.below { margin: 12px 10px 0; font-size: 13px; }

.good { color: var(--good); }
.bad { color: var(--bad); }
.neutral { color: var(--neutral); }
.verdict { border-left: 5px solid; }
.verdict.good { background: var(--good-behind); }
.verdict.bad { background: var(--bad-behind); }
.verdict.neutral { background: var(--neutral-behind); }
.verdict h2 { font-size: 19px; }
.verdict p { color: var(--ink); }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px;
  margin-top: 18px; }
.tile { padding: 14px 18px; font-size: 13px; }
.tile .label { color: var(--faint); }
.tile .value { font-size: 25px; font-weight: 650; line-height: 1.3; }

table { width: 100%; border-collapse: collapse; }
table, .tile .value { font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 400; }
td, thead th { text-align: right; }
thead th { color: var(--faint); font-size: 13px; padding: 0 10px 2px; }
td, tbody th { padding: 6px 10px; border-top: 1px solid var(--line); }
tr.group th { font-weight: 650; padding-top: 14px; border-top: 0; }
tr.strong td, tr.strong th { font-weight: 650; }

img { display: block; width: 100%; height: auto; margin-top: 4px; }

.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 0 28px;
  margin: 8px 0 0; font-size: 13.5px; }
.facts div { display: flex; justify-content: space-between; gap: 16px; padding: 5px 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--faint); white-space: nowrap; }
dd { margin: 0; text-align: right; overflow-wrap: anywhere; }

.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin: 10px 0 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 28px; list-style: none; margin: 0; padding: 0;
  font-size: 13.5px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
.legend b { margin: 0 8px; font-weight: 600; }
.legend em { font-style: normal; color: var(--faint); }

ul { margin: 6px 0 0; padding-left: 20px; }
li { overflow-wrap: anywhere; }
footer { margin-top: 22px; font-size: 13px; }
@media (max-width: 640px) { main { padding: 20px 12px; } section { padding: 16px 14px; overflow-x: auto; }
  td, tbody th, thead th { padding-left: 5px; padding-right: 5px; } }
@media print { section, .tile { break-inside: avoid; } }
"""

STYLE = f""":root {{ {LIGHT.variables()} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK.variables()} }} }}{_RULES}"""
