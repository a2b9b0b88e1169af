"""The curves of a run as one picture (matplotlib, from the extra `train`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from cnclip.training.charts import DASHED, Points, draw_panels, head, line
from cnclip.training.history import DIRECTIONS, History
from cnclip.training.report_style import LIGHT, Theme
from cnclip.training.step_times import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(history: History, theme: Theme = LIGHT) -> bytes:
    """A PNG (1690 x 1066 pixels) of recall, loss, in-batch accuracy, learning rate, speed and step times.

    A panel without numbers says so.

    Raises: ImportError if matplotlib is missing.
    """
    panels: list[Callable[[Axes, History, Theme], bool]] = [_recall, _loss, _in_batch, _rate, _speed, _stages]
    return draw_panels(
        history.name,
        [partial(_of, panel, history) for panel in panels],
        theme,
        columns=3,
        inches=(13, 8.2),
        span=(0, max(1, history.steps)),
    )


def _of(panel: Callable[[Axes, History, Theme], bool], history: History, axes: Axes, theme: Theme) -> bool:
    return panel(axes, history, theme)


def _recall(axes: Axes, history: History, theme: Theme) -> bool:
    head(axes, "Mean recall over the full gallery, %", "Mean of R@1, R@5 and R@10 on the validation split")
    drawn = False
    for (direction, label), colour in zip(DIRECTIONS.items(), theme.series, strict=False):
        points = [(scores.step, scores.get("mean_recall", direction)) for scores in history.valid]
        known = [(step, 100 * value) for step, value in points if value is not None]
        if known:
            line(axes, known, colour, label, marker="o")
            drawn = True
        start = history.start.get("mean_recall", direction) if history.start else None
        if start is not None:
            axes.axhline(100 * start, color=colour, linestyle=DASHED, linewidth=1.1, alpha=0.8)
    if drawn and history.start:
        axes.plot([], [], color=theme.faint, linestyle=DASHED, linewidth=1.1, label="Start")
    return drawn


def _loss(axes: Axes, history: History, theme: Theme) -> bool:
    head(axes, "Loss", "Training: each log line and their moving mean; validation: in batches")
    points = history.column("loss")
    if points:
        _noisy_line(axes, points, theme.series[0], "Training")
    valid = [(scores.step, scores.loss) for scores in history.valid if scores.loss is not None]
    if valid:
        line(axes, valid, theme.series[2], "Validation", marker="o")
    return bool(points or valid)


def _in_batch(axes: Axes, history: History, theme: Theme) -> bool:
    head(
        axes,
        "In-batch accuracy, %",
        "Within one training batch: the smaller the batch, the higher. No recall",
    )
    drawn = False
    names = {"t2i_acc": "Text to image", "i2t_acc": "Image to text"}
    for (name, label), colour in zip(names.items(), theme.series, strict=False):
        points = [(step, 100 * value) for step, value in history.column(name)]
        if points:
            _noisy_line(axes, points, colour, label)
            drawn = True
    return drawn


def _rate(axes: Axes, history: History, theme: Theme) -> bool:
    head(axes, "Learning rate", "Of the weights without a factor of their own")
    points = history.column("lr")
    if points:
        line(axes, points, theme.series[0])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return bool(points)


def _speed(axes: Axes, history: History, theme: Theme) -> bool:
    head(axes, "Samples per second", "All processes together, without validation and checkpoints")
    points = history.column("samples_per_s")
    if points:
        line(axes, points, theme.series[0])
        axes.set_ylim(0, 1.15 * max(value for _, value in points) or 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
    return bool(points)


def _stages(axes: Axes, history: History, theme: Theme) -> bool:
    head(axes, "Seconds per step", "What the time of a step is spent on")
    rows = [(step, [values.get(f"{stage}_s", 0.0) for stage in STAGES]) for step, values in history.train]
    steps = [step for step, seconds in rows if any(seconds)]
    stacked = list(zip(*(seconds for _, seconds in rows if any(seconds)), strict=True))
    if len(steps) == 1:  # an area needs two ends
        steps, stacked = [0, *steps], [(*seconds, *seconds) for seconds in stacked]
    if steps:
        axes.stackplot(steps, *stacked, labels=STAGES, colors=theme.series, alpha=0.85, linewidth=0)
    return bool(steps)


def _noisy_line(axes: Axes, points: Points, colour: str, label: str) -> None:
    """Faintly as it is, and its moving mean."""
    line(axes, points, colour, linewidth=0.9, alpha=0.35)
    means = _smooth([value for _, value in points])
    line(axes, list(zip((step for step, _ in points), means, strict=True)), colour, label)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean of each value and its neighbours, a tenth of the curve together; at the ends those there are."""
    reach = len(values) // 20
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [fmean(window) for window in windows]
