"""The rounds of a run as one picture (matplotlib, from the extra `train`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cnclip.online.report_rounds import ROLLED_BACK, SKIPPED, USED, Log, Round
from cnclip.online.report_verdict import LABELS
from cnclip.training.charts import DASHED, Panel, draw_panels, head, line
from cnclip.training.report_style import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REMARKS = {
    "taught": "Queries that got a picture in the round, text to image",
    "others": "Queries that got none, text to image",
    "labelled": "All queries, text to image",
    "canary": "Training pairs that online learning never sees",
}


def draw_rounds(log: Log, theme: Theme = LIGHT) -> bytes:
    """A PNG (1690 pixels wide) over the rounds: each group's metric before and after, with what was decided;
    pairs and refused pictures; seconds. Groups that were never measured have no panel.

    Raises: ImportError if matplotlib is missing.
    """
    rounds = log.rounds
    metric = rounds[-1].metric if rounds else "mAP"
    groups = [name for name in LABELS if any(_value(row, name, metric) is not None for row in rounds)]
    groups = [name for name in groups if name != "labelled" or "taught" not in groups or len(groups) < 4]
    panels: list[Panel] = [partial(_group, rounds, name, metric) for name in groups]
    panels += [partial(_pictures, rounds), partial(_seconds, rounds)]
    if len(panels) == 5:
        panels.append(partial(_distance, rounds))
    columns = 3 if len(panels) > 4 else len(panels)
    first, last = (rounds[0].number, rounds[-1].number) if rounds else (0, 1)
    return draw_panels(
        log.name,
        panels,
        theme,
        columns=columns,
        inches=(13, 0.9 + 3.65 * -(-len(panels) // columns)),
        span=(first - 0.7, last + 0.7),
        unit="round",
    )


def _group(rounds: list[Round], name: str, metric: str, axes: Axes, theme: Theme) -> bool:
    head(axes, f"{LABELS[name]}: {metric}, %", _REMARKS[name])
    if name in ("taught", "others"):  # in a round without steps nobody was taught
        rounds = [row for row in rounds if row.groups[name].after]
    before = _points(rounds, name, metric, "before")
    if not before:
        return False
    line(axes, before, theme.series[0], "Before", marker="o", linestyle=DASHED, linewidth=1.2, markersize=3)
    kept = _points([row for row in rounds if row.kept], name, metric, "after")
    undone = _points([row for row in rounds if row.decision == ROLLED_BACK], name, metric, "after")
    skipped = _points([row for row in rounds if row.decision == SKIPPED], name, metric, "before")
    if kept:
        line(axes, kept, theme.series[2], "Kept", marker="o", markersize=5)
    if undone:
        colour = theme.bad[0]
        line(axes, undone, colour, "Rolled back", "x", linestyle="", markersize=7, markeredgewidth=2)
    if skipped:
        style = {"linestyle": "", "markersize": 7, "markerfacecolor": "none"}
        line(axes, skipped, theme.faint, "Skipped", "s", **style)
    low, high = axes.get_ylim()
    middle, reach = (low + high) / 2, max(high - low, 2.0) / 2  # or noise would look like news
    axes.set_ylim(middle - reach, middle + reach)
    return True


def _pictures(rounds: list[Round], axes: Axes, theme: Theme) -> bool:
    head(axes, "Pairs per round", "Learned from, or refused by the gate")
    numbers = [row.number for row in rounds]
    amounts = {
        "Kept": ([row.pairs if row.kept else 0 for row in rounds], theme.series[2]),
        "Rolled back": ([0 if row.kept else row.pairs for row in rounds], theme.bad[0]),
        "Refused": ([sum(p.outcome != USED for p in row.pictures) for row in rounds], theme.series[4]),
    }
    base = [0] * len(rounds)
    for label, (counts, colour) in amounts.items():
        if any(counts):
            axes.bar(numbers, counts, 0.75, base, color=colour, label=label, alpha=0.9)
            base = [below + count for below, count in zip(base, counts, strict=True)]
    return any(base)


def _seconds(rounds: list[Round], axes: Axes, theme: Theme) -> bool:
    head(axes, "Seconds per round", "What the time of a round was spent on")
    stages = list(dict.fromkeys(stage for row in rounds for stage in row.seconds))
    base = [0.0] * len(rounds)
    for number, stage in enumerate(stages):
        colour = theme.series[min(number, len(theme.series) - 1)]
        spent = [row.seconds.get(stage, 0.0) for row in rounds]
        axes.bar([row.number for row in rounds], spent, 0.75, base, color=colour, label=stage, alpha=0.9)
        base = [below + seconds for below, seconds in zip(base, spent, strict=True)]
    return any(base)


def _distance(rounds: list[Round], axes: Axes, theme: Theme) -> bool:
    head(axes, "How far the weights moved, %", "By the steps of the round, relative to their length")
    found = [(row.number, value) for row in rounds if (value := row.number_of("distance")) is not None]
    if found:
        line(axes, [(number, 100 * value) for number, value in found], theme.series[3], marker="o")
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return bool(found)


def _points(rounds: list[Round], name: str, metric: str, side: str) -> list[tuple[int, float]]:
    values = [(row.number, _value(row, name, metric, side)) for row in rounds]
    return [(number, 100 * value) for number, value in values if value is not None]


def _value(row: Round, name: str, metric: str, side: str = "before") -> float | None:
    pair = row.groups[name]
    measured = pair.before if side == "before" else pair.after
    return measured.metrics.get(metric) if measured else None
